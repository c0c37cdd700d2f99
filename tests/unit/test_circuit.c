/* Circuit checks against one plain run with its writes for every set of units: gpt2 (learned positions), llama, gemma2
 * (norms behind the blocks), gpt_neox (parallel blocks); of prompts of two lengths in two groups. And planted circuits, where the
 * answers are known. Agreement: 1e-4 of a mean of logit differences, as in test_patch.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "probes/circuit.h"
#include "support/golden.h"
#include "support/numbers.h"

#define CLOSE 1e-4

enum { N = 9, PAIRS = 2, MOST_UNITS = 64, MOST_WIDTH = 512 };

struct bench {
    struct golden g;
    uint32_t clean[PAIRS][N], corrupt[PAIRS][N];
    struct metric metric[PAIRS];
    struct patch_pair pair[PAIRS];
    struct circuit_request q;
};

static const uint32_t answer[] = {42}, foil[] = {7}, group[] = {0, 1};

static void bench_open(struct bench *b, const char *family)
{
    uint64_t seed = 11;
    golden_open_family(&b->g, family, NULL);
    for (int i = 0; i < PAIRS; i++) {
        const uint32_t V = b->g.model->arch.d_vocab, n = N - (uint32_t)i;
        for (uint32_t k = 0; k < n; k++) b->clean[i][k] = b->corrupt[i][k] = below(&seed, V);
        b->corrupt[i][2] = (b->clean[i][2] + 5) % V;
        b->corrupt[i][4] = (b->clean[i][4] + 9) % V;
        b->metric[i] = (struct metric){METRIC_LOGIT_DIFF, answer, foil, 1, 1, n - 1 - (uint32_t)i, NULL};
        b->pair[i] = (struct patch_pair){b->clean[i], b->corrupt[i], n, &b->metric[i]};
    }
    b->q = (struct circuit_request){.patch = {.view = b->g.view, .pair = b->pair, .n_pairs = PAIRS, .n_metrics = 1, .site = HOOK_Z,
                                              .axis = PATCH_LAYER_HEAD},
                                    .group = group, .n_groups = PAIRS, .seed = 3};
}

static void near(const struct bench *b, const char *what, double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance)) fail_msg("%s: %s is %.8f, %.8f expected", b->g.model->path, what, got, want);
}

/* ---- plain runs -------------------------------------------------------------------------------------- */

static struct site site_of(const struct bench *b, uint32_t unit)
{
    const uint32_t H = b->g.model->arch.n_heads, heads = b->g.model->arch.n_layers * H;
    return unit < heads ? (struct site){HOOK_Z, unit / H} : (struct site){HOOK_MLP_OUT, unit - heads};
}

static double by_run(const struct bench *b, int i, const uint32_t *ids, struct tap *tap, size_t n)
{
    float *y = logits_at(&b->g, b->g.view, ids, b->pair[i].n, b->metric[i].pos, &(struct taps){tap, n});
    const double d = (double)y[42] - (double)y[7];
    mem_drop(y);
    return d;
}

/* M of one pair where the marked units are ablated. */
static double ablated(const struct bench *b, int i, const bool *out)
{
    static float value[MOST_UNITS][N * MOST_WIDTH];
    const bool denoise = b->q.patch.denoise && !b->q.zero;
    const uint32_t H = b->g.model->arch.n_heads;
    struct tap tap[MOST_UNITS];
    uint32_t head[MOST_UNITS];
    size_t n = 0;
    assert_true(circuit_units(&b->q) <= MOST_UNITS && b->g.model->arch.d_model <= MOST_WIDTH);
    for (uint32_t u = 0; u < circuit_units(&b->q); u++) {
        if (!out[u]) continue;
        const bool of_head = site_of(b, u).hook == HOOK_Z;
        head[n] = u % H;
        tap[n] = (struct tap){.site = site_of(b, u), .op = TAP_READ, .every_pos = true, .head = of_head ? &head[n] : NULL,
                              .n_head = of_head, .dst = value[n]};
        n++;
    }
    (void)by_run(b, i, denoise ? b->clean[i] : b->corrupt[i], tap, n);
    for (size_t k = 0; k < n; k++) {
        tap[k].op = b->q.zero ? TAP_SCALE : TAP_SET;
        tap[k].weight = b->q.zero ? 0.0f : 1.0f;
        tap[k].src = value[k];
        tap[k].n_src_pos = b->pair[i].n;
        tap[k].dst = NULL;
    }
    return by_run(b, i, denoise ? b->corrupt[i] : b->clean[i], tap, n);
}

static double mean_ablated(const struct bench *b, const bool *out) { return (ablated(b, 0, out) + ablated(b, 1, out)) / 2; }

static void marks(bool *out, bool all, const uint32_t *unit, size_t n, bool what)
{
    for (size_t u = 0; u < MOST_UNITS; u++) out[u] = all;
    for (size_t i = 0; i < n; i++) out[unit[i]] = what;
}

/* ---- against them -------------------------------------------------------------------------------------- */

/* x is one of F(U∖{unit}), unit any of the first `heads`. */
static void one_of(const struct bench *b, double x, size_t heads, double none, double span)
{
    double off = HUGE_VAL;
    bool out[MOST_UNITS];
    for (uint32_t u = 0; u < heads; u++) {
        marks(out, false, &u, 1, true);
        off = fmin(off, fabs((mean_ablated(b, out) - none) / span - x));
    }
    near(b, "a control", off, 0, 2 * CLOSE / fabs(span));
}

static void check(struct bench *b, const uint32_t *member, size_t n)
{
    struct err e = {0};
    bool out[MOST_UNITS], all[MOST_UNITS], nothing[MOST_UNITS] = {false};
    b->q.member = member;
    b->q.n = n;
    struct circuit *c = circuit_new(&b->q, &e);
    must(c && STEP_ALL(circuit_step(c, b->g.session, &e)), e);
    const struct circuit_result *r = circuit_result(c);
    size_t done, total;
    circuit_progress(c, &done, &total);
    assert_true(done == total && total == PAIRS * circuit_sets(&b->q));
    marks(all, true, NULL, 0, false);
    marks(out, true, member, n, false);
    double ratio[PAIRS], least = HUGE_VAL;
    for (int i = 0; i < PAIRS; i++) {
        const double each = ablated(b, i, nothing) - ablated(b, i, all);
        ratio[i] = (ablated(b, i, out) - ablated(b, i, all)) / each;
        least = fmin(least, fabs(each));
    }
    const double full = mean_ablated(b, nothing), none = mean_ablated(b, all), span = full - none, of = mean_ablated(b, out);
    const double f = (of - none) / span, tolerance = 4 * CLOSE * (1 + fabs(f)) / fabs(span);
    near(b, "full", r->full, full, CLOSE);
    near(b, "none", r->none, none, CLOSE);
    near(b, "circuit", r->circuit, of, CLOSE);
    near(b, "faithfulness", r->faithfulness.value, f, tolerance);
    /* of two groups a draw has the one, the other or both */
    least = fmin(least, fabs(span));
    near(b, "low", r->faithfulness.low, fmin(f, fmin(ratio[0], ratio[1])), 4 * CLOSE * (1 + fabs(r->faithfulness.low)) / least);
    near(b, "high", r->faithfulness.high, fmax(f, fmax(ratio[0], ratio[1])), 4 * CLOSE * (1 + fabs(r->faithfulness.high)) / least);
    near(b, "nothing ablated", r->check_none_ablated, 0, CLOSE);
    for (size_t i = 0; i < n; i++) {
        marks(out, true, member, n, false);
        out[member[i]] = true;
        near(b, "minimality", r->minimality[i], f - (mean_ablated(b, out) - none) / span, tolerance);
    }
    double sum = 0, most = 0;
    assert_int_equal(r->n_samples, b->q.samples);
    for (size_t i = 0; i < r->n_samples; i++) {
        const struct circuit_sample *k = &r->sample[i];
        assert_true(k->n > 0 && k->n <= n);
        marks(out, false, k->member, k->n, true);
        near(b, "the model without K", k->model, (mean_ablated(b, out) - none) / span, tolerance);
        marks(out, true, member, n, false);
        for (size_t m = 0; m < k->n; m++) {
            assert_false(out[k->member[m]]); /* of C, each once */
            out[k->member[m]] = true;
        }
        near(b, "the circuit without K", k->circuit, (mean_ablated(b, out) - none) / span, tolerance);
        sum += fabs(k->circuit - k->model);
        most = fmax(most, fabs(k->circuit - k->model));
    }
    near(b, "completeness, mean", r->completeness_mean, sum / (double)r->n_samples, 1e-9);
    near(b, "completeness, max", r->completeness_max, most, 1e-12);
    near(b, "worst", fabs(r->sample[r->worst].circuit - r->sample[r->worst].model), most, 1e-12);
    if (b->q.n_control == 2) { /* C lacks one head: so do they */
        const double x[] = {r->control.mean - r->control.sd / sqrt(2), r->control.mean + r->control.sd / sqrt(2)};
        for (int i = 0; i < 2; i++) one_of(b, x[i], (size_t)b->g.model->arch.n_layers * b->g.model->arch.n_heads, none, span);
        near(b, "percentile", r->control.percentile, 50 * ((x[0] < f - 1e-9) + (x[1] < f - 1e-9)), fabs(x[0] - f) < 1e-6 || fabs(x[1] - f) < 1e-6 ? 100 : 0);
    } else {
        assert_true(isnan(r->control.mean) && isnan(r->control.percentile));
    }
    circuit_free(c);
}

static void test_against_plain_runs(void **state)
{
    (void)state;
    static const char *const families[] = {"gpt2", "llama", "gemma2", "gpt_neox"};
    for (size_t m = 0; m < sizeof families / sizeof *families; m++) {
        struct bench b;
        bench_open(&b, families[m]);
        const uint32_t heads = b.g.model->arch.n_layers * b.g.model->arch.n_heads;
        const uint32_t some[] = {0, 2, heads - 2}, mixed[] = {1, heads - 1, heads + 1};
        for (int how = 0; how < 4; how++) {
            b.q.patch.denoise = how == 1;
            b.q.zero = how == 2;
            b.q.mlps = how & 1;
            b.q.samples = 3;
            b.q.n_control = 0;
            check(&b, b.q.mlps ? mixed : some, 3);
            uint32_t most[MOST_UNITS];
            size_t n = 0;
            for (uint32_t u = 0; u < circuit_units(&b.q); u++)
                if (u != 1) most[n++] = u;
            b.q.samples = 1;
            b.q.n_control = 2;
            check(&b, most, n);
        }
        golden_close(&b.g);
    }
}

/* A circuit of everything is the model; the same seed draws the same sets. */
static void test_all_and_seed(void **state)
{
    (void)state;
    struct bench b;
    struct err e = {0};
    uint32_t all[MOST_UNITS];
    bench_open(&b, "llama");
    b.q.mlps = true;
    b.q.samples = 8;
    b.q.n_control = 20;
    b.q.member = all;
    b.q.n = circuit_units(&b.q);
    for (uint32_t u = 0; u < b.q.n; u++) all[u] = u;
    struct circuit *c = circuit_new(&b.q, &e);
    must(c && STEP_ALL(circuit_step(c, b.g.session, &e)), e);
    near(&b, "faithfulness", circuit_result(c)->faithfulness.value, 1, CLOSE);
    near(&b, "completeness", circuit_result(c)->completeness_max, 0, CLOSE);
    near(&b, "control", circuit_result(c)->control.mean, 1, CLOSE);
    circuit_free(c);
    b.q.n = 4;
    struct control first = {0};
    for (int i = 0; i < 3; i++) {
        b.q.seed = i == 2 ? 4 : 3;
        must((c = circuit_new(&b.q, &e)) && STEP_ALL(circuit_step(c, b.g.session, &e)), e);
        const struct control got = circuit_result(c)->control;
        if (i == 0) first = got;
        else assert_true((got.mean == first.mean && got.sd == first.sd) == (i == 1));
        circuit_free(c);
    }
    golden_close(&b.g);
}

/* Prompts that are the same: there is nothing to be faithful to. */
static void test_no_effect(void **state)
{
    (void)state;
    struct bench b;
    struct err e = {0};
    const uint32_t member[] = {0};
    bench_open(&b, "gpt2");
    memcpy(b.corrupt, b.clean, sizeof b.clean);
    b.q.member = member;
    b.q.n = 1;
    struct circuit *c = circuit_new(&b.q, &e);
    assert_non_null(c);
    assert_false(STEP_ALL(circuit_step(c, b.g.session, &e)));
    assert_int_equal(e.code, ERR_UNPROCESSABLE);
    circuit_free(c);
    golden_close(&b.g);
}

/* The plan is an upper bound: enough where nothing more is there. */
static void test_plan(void **state)
{
    (void)state;
    struct bench b;
    struct plan small = {0}, large = {0};
    const uint32_t member[] = {0, 1};
    bench_open(&b, "gpt2");
    b.q.member = member;
    b.q.n = 2;
    circuit_plan(&b.q, 1, &small);
    b.q.samples = 1000;
    circuit_plan(&b.q, 1, &large);
    assert_true(plan_total(&large) >= plan_total(&small) + 2000 * (circuit_units(&b.q) * sizeof(uint32_t) + 4 * sizeof(double)));
    golden_close(&b.g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_plain_runs), cmocka_unit_test(test_all_and_seed), cmocka_unit_test(test_no_effect),
        cmocka_unit_test(test_plan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
