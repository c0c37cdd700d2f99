/* Path patching on every family, against its definition by four whole runs a sender (arXiv 2211.00593): A and B read,
 * C with every q, k and v written back from B and the sender's output from A, D with what C's receivers read. For the
 * frozen norm what a receiver reads is made by a run of its own that is given C's stream and B's scale. Two metrics.
 * Agreement: 1e-4. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/head.h"
#include "core/kernel/blas.h"
#include "core/kernel/norm.h"
#include "core/run.h"
#include "probes/path_patch.h"
#include "support/families.h"
#include "support/numbers.h"

#define CLOSE 1e-4

enum { N = 9, POS = N - 2, METRICS = 2, MOST_LAYERS = 8, MOST_SENDERS = 128, MOST_TAPS = 128 };
enum { AT_Q, AT_K, AT_V, AT_Z, AT_MLP, AT_RESID, AT_SCALE, KINDS };
static const enum hook hooks[KINDS] = {HOOK_Q, HOOK_K, HOOK_V, HOOK_Z, HOOK_MLP_OUT, HOOK_RESID_PRE, HOOK_LN1_SCALE};

static const uint32_t answers[] = {42, 3}, foils[] = {7};
static const struct metric metrics[METRICS] = {{METRIC_LOGIT_DIFF, answers, foils, 2, 1, POS, NULL}, {METRIC_KL, NULL, NULL, 0, 0, POS, NULL}};

struct acts { /* of one run, [N][heads·width] by hook and layer; and its final stream at POS */
    float *at[KINDS][MOST_LAYERS], *final;
};

struct literal {
    const struct golden *g;
    uint32_t clean[N], corrupt[N];
    const uint32_t *base;
    struct acts a, b;
    double *reference;
};

static const struct arch *arch_of(const struct literal *t) { return &t->g->model->arch; }
static size_t width(const struct arch *a, enum hook h) { return (size_t)hook_heads(a, h) * hook_width(a, h); }
static bool there(const struct arch *a, int kind) { return !hook_absent(a, hooks[kind]); }

/* The final stream at POS of the base prompt, or another, with those taps. */
static float *run_to_the_end(const struct literal *t, const uint32_t *ids, struct tap *tap, size_t n)
{
    struct err e = {0};
    const uint32_t pos = POS;
    struct taps taps = {tap, n};
    struct run_input in = {.ids = ids, .n = N, .want = &pos, .n_want = 1};
    struct run *r = run_new(t->g->view, &in, 1, &taps, &e);
    must(r && STEP_ALL(run_step(r, t->g->session, &e)), e);
    float *x = floats(arch_of(t)->d_model);
    memcpy(x, run_final(r, 0), arch_of(t)->d_model * sizeof *x);
    run_free(r);
    return x;
}

static struct tap read_tap(enum hook h, uint32_t l, float *dst)
{
    return (struct tap){.site = {h, l}, .every_pos = true, .dst = dst};
}
static struct tap set_tap(enum hook h, uint32_t l, const float *src)
{
    return (struct tap){.site = {h, l}, .op = TAP_SET, .weight = 1, .every_pos = true, .src = src, .src_whole = true, .n_src_pos = N};
}

static void listen(const struct literal *t, const uint32_t *ids, struct acts *out)
{
    const struct arch *a = arch_of(t);
    struct tap tap[MOST_TAPS];
    size_t n = 0;
    for (int k = 0; k < KINDS; k++)
        for (uint32_t l = 0; there(a, k) && l < a->n_layers; l++) {
            out->at[k][l] = floats(N * width(a, hooks[k]));
            tap[n++] = read_tap(hooks[k], l, out->at[k][l]);
        }
    assert_true(n <= MOST_TAPS);
    out->final = run_to_the_end(t, ids, tap, n);
}

static void acts_drop(struct acts *x)
{
    for (int k = 0; k < KINDS; k++)
        for (int l = 0; l < MOST_LAYERS; l++) mem_drop(x->at[k][l]);
    mem_drop(x->final);
}

static void literal_open(struct literal *t, const struct golden *g, bool denoise)
{
    uint64_t seed = 29;
    struct err e = {0};
    *t = (struct literal){.g = g};
    for (int k = 0; k < N; k++) t->clean[k] = t->corrupt[k] = below(&seed, g->model->arch.d_vocab);
    t->corrupt[2] = below(&seed, g->model->arch.d_vocab), t->corrupt[5] = below(&seed, g->model->arch.d_vocab);
    t->base = denoise ? t->corrupt : t->clean;
    listen(t, denoise ? t->clean : t->corrupt, &t->a);
    listen(t, t->base, &t->b);
    float *y = floats(g->model->arch.d_vocab);
    must(unembed(g->session, g->view, t->a.final, 1, NULL, y, &e), e);
    t->reference = mem_new(g->model->arch.d_vocab * sizeof(double));
    log_softmax(y, g->model->arch.d_vocab, t->reference);
    mem_drop(y);
}

static void literal_close(struct literal *t)
{
    acts_drop(&t->a);
    acts_drop(&t->b);
    mem_drop(t->reference);
}

/* The metrics of a final stream, if asked through the base's scale of the norm. */
static void measure(const struct literal *t, const float *x, bool frozen, double out[METRICS])
{
    const struct arch *a = arch_of(t);
    const struct norm norm = view_final_norm(t->g->view);
    float scale, *y = floats(a->d_model), *logits = floats(a->d_vocab);
    struct err e = {0};
    const uint32_t pos = 0;
    struct tap tap = {.site = {HOOK_UNEMBED_IN, 0}, .op = TAP_SET, .weight = 1, .every_pos = true, .src = y, .n_src_pos = 1};
    struct taps taps = {&tap, 1};
    const struct head_rows rows = {.taps = &taps, .pos = &pos};
    norm_scale(&norm, t->b.final, &scale, y, 1, a->d_model);
    float own;
    norm_scale(&norm, x, &own, y, 1, a->d_model);
    for (uint32_t i = 0; i < a->d_model; i++) y[i] /= scale;
    norm_finish(&norm, y, y, 1, a->d_model);
    must(unembed(t->g->session, t->g->view, x, 1, frozen ? &rows : NULL, logits, &e), e);
    for (int m = 0; m < METRICS; m++) out[m] = metric_of_logits(&metrics[m], logits, a->d_vocab, t->reference);
    mem_drop(y);
    mem_drop(logits);
}

/* ---- the four runs ------------------------------------------------------------------------------------- */

static void one_sender(const struct literal *t, const struct path_request *q, const struct path_sender *s, double out[METRICS])
{
    static const enum hook inputs[] = {HOOK_Q, HOOK_K, HOOK_V};
    const struct arch *a = arch_of(t);
    struct tap tap[MOST_TAPS];
    float *got[KINDS][MOST_LAYERS] = {{0}};
    size_t n = 0;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        got[AT_RESID][l] = floats(N * width(a, HOOK_RESID_PRE));
        for (int k = AT_Q; k <= AT_V; k++) {
            got[k][l] = floats(N * width(a, inputs[k]));
            tap[n++] = read_tap(inputs[k], l, got[k][l]);
            tap[n++] = set_tap(inputs[k], l, t->b.at[k][l]);
        }
        if (q->freeze_mlps) tap[n++] = set_tap(HOOK_MLP_OUT, l, t->b.at[AT_MLP][l]);
    }
    if (s->from == PATH_EMBED) tap[n++] = set_tap(HOOK_RESID_PRE, 0, t->a.at[AT_RESID][0]);
    if (s->from == PATH_MLP) tap[n++] = set_tap(HOOK_MLP_OUT, s->layer, t->a.at[AT_MLP][s->layer]);
    if (s->from == PATH_HEAD) {
        tap[n] = set_tap(HOOK_Z, s->layer, t->a.at[AT_Z][s->layer]);
        tap[n].head = &s->head, tap[n++].n_head = 1;
    }
    for (uint32_t l = 0; l < a->n_layers; l++) tap[n++] = read_tap(HOOK_RESID_PRE, l, got[AT_RESID][l]);
    assert_true(n <= MOST_TAPS);
    float *final = run_to_the_end(t, t->base, tap, n);
    if (q->n_receivers && q->freeze_norm) {
        n = 0;
        for (uint32_t l = 0; l < a->n_layers; l++) {
            tap[n++] = set_tap(HOOK_RESID_PRE, l, got[AT_RESID][l]);
            tap[n++] = set_tap(HOOK_LN1_SCALE, l, t->b.at[AT_SCALE][l]);
            for (int k = AT_Q; k <= AT_V; k++) tap[n++] = read_tap(inputs[k], l, got[k][l]);
        }
        mem_drop(run_to_the_end(t, t->base, tap, n));
    }
    if (q->n_receivers) {
        n = 0;
        for (size_t i = 0; i < q->n_receivers; i++) {
            const struct path_receiver *r = &q->receiver[i];
            tap[n] = set_tap(inputs[r->input], r->layer, got[r->input][r->layer]);
            tap[n].head = &r->head, tap[n++].n_head = 1;
        }
        mem_drop(final);
        final = run_to_the_end(t, t->base, tap, n);
    }
    measure(t, final, q->freeze_norm && !q->n_receivers, out);
    mem_drop(final);
    for (int k = 0; k < KINDS; k++)
        for (int l = 0; l < MOST_LAYERS; l++) mem_drop(got[k][l]);
}

static size_t all_senders(const struct arch *a, struct path_sender out[MOST_SENDERS])
{
    size_t n = 0;
    out[n++] = (struct path_sender){.from = PATH_EMBED};
    for (uint32_t l = 0; l < a->n_layers; l++) {
        for (uint32_t h = 0; h < a->n_heads; h++) out[n++] = (struct path_sender){PATH_HEAD, l, h};
        out[n++] = (struct path_sender){PATH_MLP, l, 0};
    }
    assert_true(n <= MOST_SENDERS);
    return n;
}

static struct path_patch *patched(const struct golden *g, const struct path_request *q)
{
    struct err e = {0};
    struct path_patch *p = path_new(q, &e);
    must(p && STEP_ALL(path_step(p, g->session, &e)), e);
    return p;
}

static double worst, moved;

static void against_runs(const struct literal *t, struct path_request *q)
{
    static const size_t budgets[] = {0, 1};
    const bool naive = !(q->freeze_norm && q->n_receivers && arch_of(t)->one_norm && !q->freeze_mlps);
    double want[MOST_SENDERS][METRICS];
    for (size_t i = 0; i < q->n_senders; i++) one_sender(t, q, &q->sender[i], want[i]);
    for (int b = 0; b < 2; b++) {
        q->memory_bytes = budgets[b];
        struct path_patch *p = patched(t->g, q);
        const struct patch_grid *grid = path_result(p);
        for (size_t i = 0; i < q->n_senders; i++)
            for (int m = 0; m < METRICS; m++) {
                const double got = grid->scores[m].values[i], base = q->denoise ? grid->scores[m].corrupt : grid->scores[m].clean;
                const struct path_sender *s = &q->sender[i];
                if (!(fabs(got - want[i][m]) <= CLOSE))
                    fail_msg("%s: sender %d of layer %u, head %u, %zu receivers, mlps %s, norm %s: %s is %.7f, %.7f expected",
                             t->g->model->path, s->from, s->layer, s->head, q->n_receivers, q->freeze_mlps ? "frozen" : "live",
                             q->freeze_norm ? "frozen" : "exact", metric_word(metrics[m].kind), got, want[i][m]);
                worst = fmax(worst, fabs(got - want[i][m]));
                moved = fmax(moved, fabs(got - base));
            }
        assert_int_equal(grid->n_naive, naive ? 3 : 0);
        if (naive) assert_true(grid->check_naive <= CLOSE);
        else assert_true(isnan(grid->check_naive));
        path_free(p);
    }
}

/* One set of receivers: MLPs live and frozen, the norm exact and frozen. */
static void receivers(struct literal *t, bool denoise, const struct path_receiver *r, size_t n)
{
    struct path_sender sender[MOST_SENDERS];
    const struct patch_pair pair = {t->clean, t->corrupt, N, metrics};
    struct path_request q = {.view = t->g->view, .pair = &pair, .n_pairs = 1, .n_metrics = METRICS, .denoise = denoise, .sender = sender,
                             .receiver = r, .n_receivers = n, .n_naive = 3, .seed = 5};
    q.n_senders = all_senders(arch_of(t), sender);
    for (int k = 0; k < 4; k++) {
        q.freeze_mlps = k & 1, q.freeze_norm = k & 2;
        if (path_norm_absent(&q)) assert_false(arch_of(t)->pre_norm);
        else against_runs(t, &q);
    }
}

static void every_sender(struct golden *g)
{
    const struct arch *a = &g->model->arch;
    const uint32_t last = a->n_layers - 1, head = a->n_heads - 1, kv = a->n_kv_heads - 1;
    const struct path_receiver one[] = {{last, PATH_K, kv}}, query[] = {{last, PATH_Q, 0}, {last, PATH_Q, head}},
        mixed[] = {{1, PATH_Q, head}, {1, PATH_K, 0}, {1, PATH_V, 0}, {last, PATH_V, kv}};
    assert_true(last >= 1 && head >= 1);
    for (int denoise = 0; denoise < 2; denoise++) {
        struct literal t;
        literal_open(&t, g, denoise);
        moved = 0;
        receivers(&t, denoise, NULL, 0);
        receivers(&t, denoise, query, 2);
        receivers(&t, denoise, one, 1);
        receivers(&t, denoise, mixed, last == 1 && kv == 0 ? 3 : 4);
        literal_close(&t);
        if (!(moved > 1e-3)) fail_msg("%s: no sender moves anything", g->model->path);
    }
}

static void test_every_sender_is_four_runs(void **state)
{
    (void)state;
    families_each(false, every_sender);
    print_message("largest difference %.2e\n", worst);
}

/* ---- a planted circuit: L0H0 writes the token before, L1H0's key reads it -------------------------------- */

static void planted(const struct path_receiver *r, size_t n, uint32_t layer, uint32_t head)
{
    static const uint32_t clean[] = {0, 1, 2, 3, 4, 1}, corrupt[] = {0, 5, 2, 3, 4, 1}, answer = 2, foil = 3;
    const struct metric metric = {METRIC_LOGIT_DIFF, &answer, &foil, 1, 1, 5, NULL};
    const struct patch_pair pair = {clean, corrupt, 6, &metric};
    struct path_sender sender[MOST_SENDERS];
    struct golden g = {.model = NULL};
    struct err e = {0};
    must(blas_start(2, &e) && (g.model = model_open("tests/golden/circuits/induction_gpt2", NULL, NULL, NULL, &e)), e);
    must(g.session = session_new(1, &e), e);
    g.view = view_base(g.model);
    struct path_request q = {.view = g.view, .pair = &pair, .n_pairs = 1, .n_metrics = 1, .sender = sender, .receiver = r,
                             .n_receivers = n, .denoise = true, .n_senders = all_senders(&g.model->arch, sender)};
    struct path_patch *p = patched(&g, &q);
    for (size_t i = 0; i < q.n_senders; i++) {
        const bool on = sender[i].from == PATH_HEAD && sender[i].layer == layer && sender[i].head == head;
        const double got = path_result(p)->scores->values[i];
        if (!(fabs(got - (on ? 9.0103 : 0)) <= 1e-3)) fail_msg("sender %zu has %.5f", i, got);
    }
    path_free(p);
    session_free(g.session);
    view_drop(g.view);
    model_drop(g.model);
}

static void test_planted_induction(void **state)
{
    (void)state;
    const struct path_receiver key = {1, PATH_K, 0}, query = {1, PATH_Q, 0}, other = {1, PATH_K, 1};
    planted(&key, 1, 0, 0);
    planted(NULL, 0, 1, 0);
    planted(&query, 1, 9, 9);
    planted(&other, 1, 9, 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_sender_is_four_runs),
        cmocka_unit_test(test_planted_induction),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
