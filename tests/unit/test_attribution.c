/* Attribution patching against what it estimates: central differences of the metric, one whole run with one
 * interpolated write on each side for each cell; the QK fix against a run that shows the moved pattern; GradDrop
 * against differences with a layer's addends held; the planted circuit against arithmetic. Every family. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/head.h"
#include "core/run.h"
#include "probes/attribution.h"
#include "probes/audit.h"
#include "probes/gradient.h"
#include "support/families.h"
#include "support/numbers.h"
#include "support/prompts.h"

enum { PAIRS = 2 };
#define STEP 0.008f

static const uint32_t answers[] = {42, 3}, foils[] = {7};
static const struct metric metrics[] = {{METRIC_LOGIT_DIFF, answers, foils, 2, 1, READ, NULL}, {METRIC_LOGPROB, answers, NULL, 2, 0, READ, NULL}};

static struct attribution *attribute(const struct golden *g, const struct attribution_request *q)
{
    struct err e = {0};
    struct attribution *a = attribution_new(q, &e);
    must(a && STEP_ALL(attribution_step(a, g->session, &e)), e);
    return a;
}

/* ---- one run for one cell ------------------------------------------------------------------------------ */

/* A write of a run's own values at some positions and heads of a layer, weighed. */
static struct tap write_tap(const struct site_values *s, uint32_t layer, const uint32_t *pos, const uint32_t *head, float weight)
{
    struct tap t = {.site = {s->hook, layer}, .op = TAP_SET, .weight = weight, .every_pos = !pos, .pos = pos, .n_pos = 1,
                    .n_source = N, .src = s->layer[layer], .n_src_pos = N, .src_whole = true};
    if (head) t.head = head, t.n_head = 1;
    return t;
}

static double log_sum(const float *y, const uint32_t *ids, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += exp((double)y[ids ? ids[i] : i]);
    return log(sum);
}

static double metric_of(const struct golden *g, int m, const uint32_t *ids, struct tap *tap, size_t n)
{
    float *y = logits_at(g, g->view, ids, N, READ, &(struct taps){tap, n});
    double v = log_sum(y, answers, 2) - (m == 0 ? log_sum(y, foils, 1) : log_sum(y, NULL, g->model->arch.d_vocab));
    mem_drop(y);
    return v;
}

/* ---- linear nodes -------------------------------------------------------------------------------------------- */

static double central(const struct golden *g, int m, const uint32_t *ids, struct tap *tap, size_t n, float step)
{
    double side[2];
    for (int i = 0; i < 2; i++) {
        tap->weight = i ? -step : step;
        side[i] = metric_of(g, m, ids, tap, n);
    }
    return (side[0] - side[1]) / (2 * (double)step);
}

/* The metric's slope in the weight of the first tap: central differences, extrapolated to a step of nothing. */
static double extrapolated(const struct golden *g, int m, const uint32_t *ids, struct tap *tap, size_t n)
{
    return (4 * central(g, m, ids, tap, n, STEP) - central(g, m, ids, tap, n, 2 * STEP)) / 3;
}

static void close_to(const struct golden *g, const char *what, enum hook h, uint32_t l, uint32_t head, uint32_t p, double got, double want,
                     double tolerance)
{
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%s: %s of %s (%u, %u, %u) is %.7f, %.7f expected", g->model->path, what, hook_info(h)->spelling, l, head, p, got, want);
}

/* Every cell of a site; returns the largest estimate. */
static double check_site(const struct golden *g, const struct prompts *p, const struct attribution_request *q, struct attribution *a, size_t site)
{
    const struct patch_grid *grid = attribution_grid(a, site);
    const uint32_t *base = q->denoise ? p->corrupt : p->clean, *source = q->denoise ? p->clean : p->corrupt;
    struct site_values s = read_site(g, g->view, q->site[site], source);
    const int m = (int)site % 2; /* one metric or the other */
    double most = 0;
    for (uint32_t l = 0; l < grid->n_layers; l++)
        for (uint32_t h = 0; h < grid->n_heads; h++)
            for (uint32_t pos = 0; pos < grid->n_pos; pos++) {
                struct tap t = write_tap(&s, l, grid->n_pos > 1 ? &pos : NULL, grid->n_heads > 1 ? &h : NULL, 0);
                double got = grid->scores[m].values[((size_t)l * grid->n_heads + h) * grid->n_pos + pos];
                double want = extrapolated(g, m, base, &t, 1);
                close_to(g, "estimate", q->site[site], l, h, pos, got, want, 4e-4 + 2e-3 * fabs(want));
                most = fmax(most, fabs(got));
            }
    drop_site(&s);
    return most;
}

static const enum hook sites[] = {HOOK_Z,       HOOK_V,        HOOK_Q,       HOOK_K,        HOOK_PATTERN,  HOOK_ATTN_SCORES,
                                  HOOK_RESULT,  HOOK_ATTN_OUT, HOOK_MLP_OUT, HOOK_RESID_PRE, HOOK_RESID_POST, HOOK_MLP_PRE, HOOK_MLP_POST};

static void estimates(struct golden *g)
{
    static const enum patch_axis axes[] = {PATCH_LAYER_HEAD, PATCH_LAYER_HEAD_POS, PATCH_LAYER_POS, PATCH_LAYER};
    struct prompts p;
    make_pair(g, metrics, &p);
    for (int x = 0; x < 4; x++) {
        enum hook asked[sizeof sites / sizeof *sites];
        size_t n = 0;
        for (size_t i = 0; i < sizeof sites / sizeof *sites; i++)
            if (x > 1 || hook_info(sites[i])->axis != AXIS_PLAIN) asked[n++] = sites[i];
        struct attribution_request q = {.view = g->view, .pair = &p.pair, .n_pairs = 1, .n_metrics = 2, .denoise = x % 2, .site = asked,
                                        .n_sites = n, .axis = axes[x]};
        struct attribution *a = attribute(g, &q);
        for (size_t i = 0; i < n; i++)
            if (!(check_site(g, &p, &q, a, i) > 1e-3)) fail_msg("%s: %s moves nothing", g->model->path, hook_info(asked[i])->spelling);
        attribution_free(a);
    }
}

static void test_estimates(void **state)
{
    (void)state;
    families_each(false, estimates);
}

/* M(base + δ(source − base)) − M(base) − δ·AtP falls as δ². */
static void second_order(struct golden *g)
{
    struct prompts p;
    enum hook site = HOOK_Z;
    make_pair(g, metrics, &p);
    struct attribution_request q = {.view = g->view, .pair = &p.pair, .n_pairs = 1, .n_metrics = 2, .denoise = true, .site = &site,
                                    .n_sites = 1, .axis = PATCH_LAYER};
    struct attribution *a = attribute(g, &q);
    struct site_values s = read_site(g, g->view, site, p.clean);
    const double slope = attribution_grid(a, 0)->scores[0].values[0], base = metric_of(g, 0, p.corrupt, NULL, 0);
    double error[2];
    for (int i = 0; i < 2; i++) {
        float delta = i ? 0.02f : 0.04f;
        struct tap t = write_tap(&s, 0, NULL, NULL, delta);
        error[i] = (metric_of(g, 0, p.corrupt, &t, 1) - base - (double)delta * slope) / ((double)delta * (double)delta);
    }
    if (!(fabs(error[0] - error[1]) <= 0.2 * fabs(error[1]) + 5e-3))
        fail_msg("%s: the error over δ² is %.6f and %.6f", g->model->path, error[0], error[1]);
    drop_site(&s);
    attribution_free(a);
}

static void test_second_order(void **state)
{
    static const char *const families[] = {"gpt2", "llama", "qwen3", "gemma2", "olmo2", "gptj"}; /* float weights: δ² is small */
    (void)state;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        struct golden g;
        golden_open_family(&g, families[i], NULL);
        second_order(&g);
        golden_close(&g);
    }
}

/* ---- the QK fix --------------------------------------------------------------------------------------------------- */

/* dM/dp of the base by the gradient probe: [H][N][N] of a layer. */
static float *pattern_gradient(const struct golden *g, const uint32_t *ids, uint32_t layer)
{
    static const uint32_t all[N] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    const uint32_t read = READ;
    struct err e = {0};
    size_t n;
    struct trace_input in = {.ids = ids, .n = N};
    struct trace_place at = {.site = {HOOK_PATTERN, layer}, .pos = all, .n_pos = N};
    struct gradient_request q = {.view = g->view, .in = &in, .at = &at, .n_at = 1, .metric = metrics[0], .pos = &read, .n_pos = 1};
    struct gradient *k = gradient_new(&q, &e);
    must(k && STEP_ALL(gradient_step(k, g->session, &e)), e);
    float *out = floats((size_t)g->model->arch.n_heads * N * N);
    memcpy(out, gradient_values(k, 0, &n), (size_t)g->model->arch.n_heads * N * N * sizeof *out);
    gradient_free(k);
    return out;
}

/* Σ (p' − p) g, with p' read from a run with that write. */
static double moved_pattern(const struct golden *g, const uint32_t *base, struct tap write, uint32_t layer, const float *p, const float *slope)
{
    size_t n = (size_t)g->model->arch.n_heads * N * N;
    float *moved = floats(n);
    struct tap tap[2] = {write, {.site = {HOOK_PATTERN, layer}, .every_pos = true, .n_source = N, .dst = moved}};
    mem_drop(logits_at(g, g->view, base, N, READ, &(struct taps){tap, 2}));
    double *after = widened(moved, n), *before = widened(p, n);
    double sum = weighted(after, slope, n) - weighted(before, slope, n);
    free(after);
    free(before);
    mem_drop(moved);
    return sum;
}

static void qk_fix(struct golden *g)
{
    static const enum hook fixed[] = {HOOK_ROT_Q, HOOK_ROT_K, HOOK_Q, HOOK_K};
    struct prompts p;
    make_pair(g, metrics, &p);
    /* A norm over all heads together lets a head's raw query move the others': there only the turned ones are the node's. */
    const size_t n = g->model->arch.qk_norm == QK_NORM_ALL ? 2 : 4;
    for (int x = 0; x < 2; x++) {
        struct attribution_request q = {.view = g->view, .pair = &p.pair, .n_pairs = 1, .n_metrics = 2, .denoise = true, .site = fixed,
                                        .n_sites = n, .axis = x ? PATCH_LAYER_HEAD : PATCH_LAYER_HEAD_POS, .qk_fix = true};
        struct attribution *a = attribute(g, &q);
        for (size_t i = 0; i < n; i++) {
            const struct patch_grid *grid = attribution_grid(a, i);
            struct site_values s = read_site(g, g->view, fixed[i], p.clean), pattern = read_site(g, g->view, HOOK_PATTERN, p.corrupt);
            double most = 0;
            for (uint32_t l = 0; l < grid->n_layers; l++) {
                float *slope = pattern_gradient(g, p.corrupt, l);
                for (uint32_t h = 0; h < grid->n_heads; h++)
                    for (uint32_t pos = 0; pos < grid->n_pos; pos++) {
                        double want = moved_pattern(g, p.corrupt, write_tap(&s, l, x ? NULL : &pos, &h, 1), l, pattern.layer[l], slope);
                        double got = grid->scores[0].values[((size_t)l * grid->n_heads + h) * grid->n_pos + pos];
                        close_to(g, "fixed estimate", fixed[i], l, h, pos, got, want, 1e-4 * (1 + fabs(want)));
                        most = fmax(most, fabs(got));
                    }
                mem_drop(slope);
            }
            if (!(most > 1e-4)) fail_msg("%s: %s moves nothing", g->model->path, hook_info(fixed[i])->spelling);
            drop_site(&s), drop_site(&pattern);
        }
        attribution_free(a);
    }
}

static void test_qk_fix(void **state)
{
    (void)state;
    families_each(false, qk_fix);
}

/* ---- GradDrop --------------------------------------------------------------------------------------------------------- */

/* The slope of the metric as a cell moves, a layer's two addends held as they are. */
static double held_slope(const struct golden *g, const struct prompts *p, const struct site_values *s, const struct site_values *attn,
                         const struct site_values *mlp, uint32_t cut, uint32_t l, const uint32_t *pos)
{
    struct tap t[3] = {write_tap(s, l, pos, NULL, 0), write_tap(attn, cut, NULL, NULL, 1), write_tap(mlp, cut, NULL, NULL, 1)};
    return extrapolated(g, 0, p->corrupt, t, 3);
}

static void grad_drop(struct golden *g)
{
    static const enum hook dropped[] = {HOOK_RESID_PRE, HOOK_MLP_POST, HOOK_RESID_POST};
    const uint32_t L = g->model->arch.n_layers;
    struct prompts p;
    make_pair(g, metrics, &p);
    struct attribution_request q = {.view = g->view, .pair = &p.pair, .n_pairs = 1, .n_metrics = 2, .denoise = true, .site = dropped,
                                    .n_sites = 3, .axis = PATCH_LAYER_POS, .grad_drop = true};
    struct attribution *a = attribute(g, &q);
    struct site_values attn = read_site(g, g->view, HOOK_ATTN_OUT, p.corrupt), mlp = read_site(g, g->view, HOOK_MLP_OUT, p.corrupt);
    for (size_t i = 0; i < 3; i++) {
        struct site_values s = read_site(g, g->view, dropped[i], p.clean);
        for (uint32_t l = 0; l < L; l++)
            for (uint32_t pos = 0; pos < N; pos++) {
                double want = 0, got = attribution_drop(a, i)[l * N + pos];
                for (uint32_t cut = 0; cut < L; cut++) want += fabs(held_slope(g, &p, &s, &attn, &mlp, cut, l, &pos)) / (L - 1);
                close_to(g, "c(n)", dropped[i], l, 0, pos, got, want, 4e-4 + 2e-3 * want);
            }
        drop_site(&s);
    }
    drop_site(&attn), drop_site(&mlp);
    attribution_free(a);
}

static void test_grad_drop(void **state)
{
    (void)state;
    families_each(false, grad_drop);
}

/* ---- the planted circuit ------------------------------------------------------------------------------------------------ */

static double planted(const struct golden *g, enum hook site, bool denoise, bool fix, enum metric_kind kind, bool others)
{
    static const uint32_t clean[] = {0, 1, 2, 3, 4, 1}, corrupt[] = {0, 5, 2, 3, 4, 1}, two = 2, three = 3;
    const struct metric m = {kind, &two, &three, 1, 1, 5, NULL};
    const struct patch_pair pair = {clean, corrupt, 6, &m};
    struct attribution_request q = {.view = g->view, .pair = &pair, .n_pairs = 1, .n_metrics = 1, .denoise = denoise, .site = &site,
                                    .n_sites = 1, .axis = PATCH_LAYER_HEAD, .qk_fix = fix};
    struct attribution *a = attribute(g, &q);
    const struct patch_scores *s = attribution_grid(a, 0)->scores;
    double value = s->values[g->model->arch.n_heads];
    assert_true(fabs(s->ld_clean - 9.0103) < 1e-4 && fabs(s->ld_corrupt) < 1e-6);
    for (uint32_t h = 1; others && h < g->model->arch.n_heads; h++) assert_true(s->values[h] == 0 && s->values[g->model->arch.n_heads + h] == 0);
    attribution_free(a);
    return value;
}

static void test_planted(void **state)
{
    static const struct {
        enum hook site;
        bool denoise, fix;
        double want;
    } known[] = {
        {HOOK_Z, true, false, 1.0452}, {HOOK_K, true, false, 7.6857}, {HOOK_K, true, true, 1.0452},
        {HOOK_Z, false, false, 0.9154}, {HOOK_K, false, false, 0.0000}, {HOOK_K, false, true, 0.9154},
    };
    struct err e = {0};
    struct golden g = {.name = "planted"};
    (void)state;
    g.model = model_open("tests/golden/planted", NULL, NULL, NULL, &e);
    must(g.model, e);
    g.view = view_base(g.model);
    g.session = session_new(1, &e);
    must(g.session, e);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        double sign = known[i].denoise ? 1 : -1; /* of what is lost when noising */
        double got = sign * planted(&g, known[i].site, known[i].denoise, known[i].fix, METRIC_NORM_LOGIT_DIFF, true);
        double logits = sign * planted(&g, known[i].site, known[i].denoise, known[i].fix, METRIC_LOGIT_DIFF, true) / 9.0103;
        if (!(fabs(got - known[i].want) <= 1e-4) || !(fabs(logits - known[i].want) <= 1e-3))
            fail_msg("%zu: %.6f (%.6f by logits), %.4f expected", i, got, logits, known[i].want);
    }
    session_free(g.session);
    view_drop(g.view);
    model_drop(g.model);
}

/* ---- the audit ------------------------------------------------------------------------------------------------------------- */

/* Its cells are the whole grid's, which is run as well; with as many as there are, nothing is left to guess. */
static void audited(struct golden *g)
{
    struct prompts p;
    enum hook site = HOOK_Z;
    struct err e = {0};
    make_pair(g, metrics, &p);
    struct attribution_request q = {.view = g->view, .pair = &p.pair, .n_pairs = 1, .n_metrics = 2, .denoise = true, .site = &site,
                                    .n_sites = 1, .axis = PATCH_LAYER_HEAD};
    struct attribution *a = attribute(g, &q);
    struct patch_request grid = attribution_patch(&q, 0);
    struct patch *whole = patch_new(&grid, &e);
    must(whole && STEP_ALL(patch_step(whole, g->session, &e)), e);
    const struct patch_scores *exact = patch_result(whole)->scores;
    const size_t cells = (size_t)g->model->arch.n_layers * g->model->arch.n_heads;
    for (uint32_t random = 2; random < 200; random += 100) {
        struct audit_request ask = {.patch = grid, .grid = attribution_grid(a, 0), .top = 3, .random = random, .seed = 4};
        struct audit *k = audit_new(&ask, &e);
        must(k && STEP_ALL(audit_step(k, g->session, &e)), e);
        const struct audit_found *f = audit_result(k);
        double top = 0, all = 0, others = 0, worst = -INFINITY;
        assert_int_equal(f->n, 3 + random < cells ? 3 + random : cells);
        assert_int_equal(f->exact->cost.cells_run, f->n);
        for (size_t i = 0; i < f->n; i++) {
            double want = exact->values[f->cell[i].at] - exact->corrupt;
            assert_true(fabs(f->cell[i].exact - want) < 1e-4);
            assert_true(i == 0 || i >= 3 || fabs(f->cell[i].estimate) <= fabs(f->cell[i - 1].estimate));
            assert_int_equal(f->cell[i].random, i >= 3);
            *(i < 3 ? &top : &others) += fabs(want);
            worst = fmax(worst, fabs(want) - fabs(f->cell[i].estimate));
        }
        for (size_t i = 0; i < cells; i++) all += fabs(exact->values[i] - exact->corrupt);
        if (f->n < cells) all = top + others / random * (double)(cells - 3);
        assert_true(fabs(f->share - top / all) < 1e-3 && fabs(f->worst - worst) < 1e-4 && f->rho >= -1 && f->rho <= 1);
        audit_free(k);
    }
    patch_free(whole);
    attribution_free(a);
}

static void test_audit(void **state)
{
    (void)state;
    families_each(false, audited);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_estimates), cmocka_unit_test(test_second_order), cmocka_unit_test(test_qk_fix),
        cmocka_unit_test(test_grad_drop), cmocka_unit_test(test_planted),   cmocka_unit_test(test_audit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
