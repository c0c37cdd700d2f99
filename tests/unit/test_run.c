/* Runs: batches, chunks, caches, and what taps read and write, against a float64 model and against
 * the identities that hold between hooks (Zhang & Nanda, arXiv 2309.16042; TransformerLens).
 *
 * "Equal" below is to the bit where the arithmetic is the same; 1e-5 of the largest value where
 * another batch shape sums in another order. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/head.h"
#include "core/run.h"
#include "core/site.h"
#include "support/golden.h"
#include "support/numbers.h"
#include "support/reference.h"

#define CLOSE 1e-5

static const char *const models[] = {"gqa_tied", "gqa_untied_odd", "mha_bf16", "wide_head"};
enum { N_MODELS = sizeof models / sizeof *models, MOST = 1024 };

static const uint32_t *every(void)
{
    static uint32_t list[MOST]; /* 0, 1, 2 … */
    for (uint32_t i = 0; i < MOST; i++) list[i] = i;
    return list;
}

static uint32_t *some_ids(uint64_t seed, uint32_t n, const struct model *m)
{
    uint32_t *ids = malloc(n * sizeof *ids);
    for (uint32_t i = 0; i < n; i++) ids[i] = below(&seed, m->arch.d_vocab);
    return ids;
}

static void finish(struct run *r, struct session *s)
{
    struct err e = {0};
    must(r && STEP_ALL(run_step(r, s, &e)), e);
}

/* The final stream of every position, [n][d]. */
static float *final_of(const struct golden *g, struct view *v, const uint32_t *ids, uint32_t n, struct taps *taps)
{
    struct err e = {0};
    size_t bytes = (size_t)n * g->model->arch.d_model * sizeof(float);
    struct run_input in = {.ids = ids, .n = n, .want = every(), .n_want = n};
    struct run *r = run_new(v, &in, 1, taps, &e);
    must(r, e);
    finish(r, g->session);
    float *x = malloc(bytes);
    memcpy(x, run_final(r, 0), bytes);
    run_free(r);
    return x;
}

static double *reference_final(const struct reference *r, const uint32_t *ids, uint32_t n)
{
    size_t d = r->model->arch.d_model;
    double *x = zero_doubles(n * d), *logits = zero_doubles((size_t)n * r->model->arch.d_vocab);
    reference_run(r, ids, n, x, logits);
    free(logits);
    return x;
}

static size_t hook_floats(const struct arch *a, enum hook h, uint32_t n)
{
    uint32_t width = hook_width(a, h);
    return (size_t)n * hook_heads(a, h) * (width ? width : n);
}

/* The values of one hook in a plain run of its own, in tap order. */
static float *read_hook(const struct golden *g, const uint32_t *ids, uint32_t n, enum hook h, uint32_t layer)
{
    size_t values = hook_floats(&g->model->arch, h, n);
    float *dst = malloc(values * sizeof *dst);
    struct tap tap = {.site = {h, layer}, .op = TAP_READ, .every_pos = true, .n_source = n, .dst = dst};
    struct taps taps = {&tap, 1};
    free(final_of(g, g->view, ids, n, &taps));
    return dst;
}

static struct tap set_all(enum hook h, uint32_t layer, const float *src, uint32_t n)
{
    return (struct tap){.site = {h, layer}, .op = TAP_SET, .every_pos = true, .n_source = n, .weight = 1,
                        .src = src, .n_src_pos = n};
}

/* ---- the reference itself ---------------------------------------------------------------------- */

static void test_reference_agrees_with_pytorch(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_MODELS; i++) {
        struct golden g;
        golden_open(&g, models[i], NULL);
        struct reference *r = reference_new(g.view);
        size_t n;
        float *want = golden_tensor(&g, "s0.logits", &n);
        double *logits = zero_doubles(n);
        reference_run(r, g.ids[0], g.n[0], NULL, logits);
        check_close("reference", want, logits, n, 1e-6, 0);
        free(logits);
        mem_drop(want);
        reference_free(r);
        golden_close(&g);
    }
}

/* ---- batches, chunks, caches ------------------------------------------------------------------- */

/* Sequences of these lengths in one run equal each alone. */
static void check_together(const struct golden *g, const uint32_t *lengths, size_t n)
{
    struct err e = {0};
    struct run_input in[8] = {{0}};
    size_t d = g->model->arch.d_model;
    for (size_t i = 0; i < n; i++)
        in[i] = (struct run_input){.ids = some_ids(20 + i, lengths[i], g->model), .n = lengths[i], .seq = (uint32_t)i,
                                   .want = every(), .n_want = lengths[i]};
    struct run *r = run_new(g->view, in, n, NULL, &e);
    must(r, e);
    finish(r, g->session);
    size_t done, total, rows = 0;
    for (size_t i = 0; i < n; i++) {
        float *alone = final_of(g, g->view, in[i].ids, in[i].n, NULL);
        if (!(relative_error(run_final(r, i), alone, in[i].n * d) <= CLOSE))
            fail_msg("%s: sequence %zu of %u ids is another in a batch", g->name, i, in[i].n);
        rows += in[i].n;
        free(alone);
        free((void *)(uintptr_t)in[i].ids);
    }
    run_progress(r, &done, &total);
    assert_int_equal(done, rows * g->model->arch.n_layers);
    assert_int_equal(total, done);
    run_free(r);
}

static void test_batch_is_each_alone(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_MODELS; i++) {
        struct golden g;
        golden_open(&g, models[i], NULL);
        check_together(&g, (const uint32_t[]){9, 1, 30, 5, 64, 2}, 6);
        check_together(&g, (const uint32_t[]){300, 400, 1, 511, 512}, 5); /* cut by the ends of chunks */
        golden_close(&g);
    }
}

/* Whatever the number of threads: short spans, long ones, and more threads than rows. */
static void test_threads(void **state)
{
    (void)state;
    struct err e = {0};
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    static const uint32_t lengths[] = {3, 200, 1, 40};
    struct run_input in[4];
    float *first[4] = {0};
    size_t d = g.model->arch.d_model;
    for (uint32_t i = 0; i < 4; i++)
        in[i] = (struct run_input){.ids = some_ids(i, lengths[i], g.model), .n = lengths[i], .want = every(), .n_want = lengths[i]};
    for (int threads = 1; threads <= 4; threads++) {
        struct session *s = session_new(threads, &e);
        must(s, e);
        struct run *r = run_new(g.view, in, 4, NULL, &e);
        finish(r, s);
        for (size_t i = 0; i < 4; i++) {
            if (threads == 1) first[i] = memcpy(malloc(lengths[i] * d * sizeof(float)), run_final(r, i), lengths[i] * d * sizeof(float));
            assert_true(relative_error(run_final(r, i), first[i], lengths[i] * d) <= CLOSE);
        }
        run_free(r);
        session_free(s);
    }
    for (size_t i = 0; i < 4; i++) {
        free(first[i]);
        free((void *)(uintptr_t)in[i].ids);
    }
    golden_close(&g);
}

static void test_long_sequence(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    enum { N = RUN_ROWS + 130 };
    uint32_t *ids = some_ids(1, N, g.model);
    struct reference *r = reference_new(g.view);
    size_t d = g.model->arch.d_model;
    double *want = reference_final(r, ids, N);
    static const uint32_t pos[] = {0, 5, RUN_ROWS - 1, RUN_ROWS, N - 1};
    float all[N * 32], picked[5 * 32];
    assert_int_equal(d, 32);
    struct tap tap[] = {{.site = {HOOK_RESID_MID, 2}, .op = TAP_READ, .every_pos = true, .dst = all},
                        {.site = {HOOK_RESID_MID, 2}, .op = TAP_READ, .pos = pos, .n_pos = 5, .dst = picked}};
    struct taps taps = {tap, 2};
    float *got = final_of(&g, g.view, ids, N, &taps);
    /* angles of several hundred radians, rounded to float32 as the reference code does, move
     * values by some 1e-5 */
    check_close("long sequence", got, want, N * d, 1e-4, 0);
    for (size_t i = 0; i < 5; i++) assert_memory_equal(picked + i * d, all + pos[i] * d, d * sizeof *all);
    free(ids), free(want), free(got);
    reference_free(r);
    golden_close(&g);
}

/* The sequence fed in parts to one cache: every part's stream is that of the whole. */
static void test_cache_goes_on(void **state)
{
    (void)state;
    static const uint32_t parts[] = {1, 30, 1, 1, 31, 20, 60};
    struct err e = {0};
    for (size_t i = 0; i < N_MODELS; i++) {
        struct golden g;
        golden_open(&g, models[i], NULL);
        enum { N = 144 };
        size_t d = g.model->arch.d_model;
        uint32_t *ids = some_ids(3, N, g.model), at = 0;
        float *whole = final_of(&g, g.view, ids, N, NULL);
        struct kv *kv = kv_new(&g.model->arch);
        for (size_t k = 0; k < sizeof parts / sizeof *parts; at += parts[k++]) {
            struct run_input in = {.ids = ids + at, .n = parts[k], .kv = kv, .want = every(), .n_want = parts[k]};
            struct run *r = run_new(g.view, &in, 1, NULL, &e);
            must(r, e);
            finish(r, g.session);
            assert_int_equal(kv_len(kv), at + parts[k]);
            assert_true(relative_error(run_final(r, 0), whole + at * d, parts[k] * d) <= CLOSE);
            run_free(r);
        }
        assert_int_equal(at, N);
        kv_free(kv);
        free(ids), free(whole);
        golden_close(&g);
    }
}

static struct kv *cache_of(const struct golden *g, const uint32_t *ids, uint32_t n)
{
    struct err e = {0};
    struct kv *kv = kv_new(&g->model->arch);
    struct run_input in = {.ids = ids, .n = n, .kv = kv};
    struct run *r = run_new(g->view, &in, 1, NULL, &e);
    must(r, e);
    finish(r, g->session);
    run_free(r);
    return kv;
}

/* Forks of one prefix at many lengths go their own ways, together in one run; the trunk grows on,
 * undisturbed. */
static void test_fork(void **state)
{
    (void)state;
    static const uint32_t at[] = {0, 1, 31, 32, 33, 64, 69};
    enum { N = 69, TAIL = 40, FORKS = 7 };
    struct err e = {0};
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    size_t d = g.model->arch.d_model;
    uint32_t *trunk = some_ids(4, N + TAIL, g.model), *tail[FORKS + 1];
    struct kv *kv[FORKS + 1];
    struct run_input in[FORKS + 1];
    kv[FORKS] = cache_of(&g, trunk, N);
    tail[FORKS] = trunk + N;
    for (size_t i = 0; i < FORKS; i++) {
        kv[i] = kv_fork(kv[FORKS], at[i], &e);
        must(kv[i], e);
        assert_int_equal(kv_len(kv[i]), at[i]);
        tail[i] = some_ids(40 + i, TAIL, g.model);
    }
    for (size_t i = 0; i <= FORKS; i++)
        in[i] = (struct run_input){.ids = tail[i], .n = TAIL, .kv = kv[i], .seq = (uint32_t)i, .want = every(), .n_want = TAIL};
    struct run *r = run_new(g.view, in, FORKS + 1, NULL, &e);
    must(r, e);
    finish(r, g.session);
    for (size_t i = 0; i <= FORKS; i++) {
        uint32_t whole[N + TAIL], prefix = i < FORKS ? at[i] : N;
        memcpy(whole, trunk, prefix * sizeof *whole);
        memcpy(whole + prefix, tail[i], TAIL * sizeof *whole);
        float *want = final_of(&g, g.view, whole, prefix + TAIL, NULL);
        if (!(relative_error(run_final(r, i), want + prefix * d, TAIL * d) <= CLOSE))
            fail_msg("fork at %u is not the whole sequence", prefix);
        free(want);
        if (i < FORKS) free(tail[i]);
    }
    run_free(r);
    kv_free(kv[FORKS]); /* forks outlive the trunk */
    for (size_t i = 0; i < FORKS; i++) kv_free(kv[i]);
    free(trunk);
    golden_close(&g);
}

/* ---- taps: when they fire ---------------------------------------------------------------------- */

/* A write that changes nothing counts what it touched: every row of its sequence once per layer. */
static void test_hooks_fire_once(void **state)
{
    (void)state;
    struct err e = {0};
    static const uint32_t lengths[] = {7, RUN_ROWS + 9, 1};
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    const struct arch *a = &g.model->arch;
    struct tap *tap = calloc(3 * (size_t)a->n_layers * HOOK_COUNT, sizeof *tap);
    struct taps taps = {tap, 0};
    struct run_input in[3];
    for (uint32_t s = 0; s < 3; s++) {
        in[s] = (struct run_input){.ids = some_ids(s, lengths[s], g.model), .n = lengths[s], .seq = s};
        for (uint32_t l = 0; l < a->n_layers; l++)
            for (unsigned h = 0; h < HOOK_FINAL_SCALE; h++) { /* the last four belong to the unembedding */
                if (hook_absent(a, (enum hook)h) || (l && hook_info((enum hook)h)->scope == SCOPE_MODEL)) continue;
                tap[taps.n++] = (struct tap){.site = {(enum hook)h, l}, .op = TAP_SCALE, .weight = 1, .seq = s,
                                             .every_pos = true, .n_source = lengths[s]};
            }
    }
    struct run *r = run_new(g.view, in, 3, &taps, &e);
    must(r, e);
    finish(r, g.session);
    run_free(r);
    for (size_t i = 0; i < taps.n; i++) {
        size_t n = lengths[tap[i].seq], want = hook_floats(a, tap[i].site.hook, (uint32_t)n);
        if (hook_info(tap[i].site.hook)->axis == AXIS_SOURCE) want = a->n_heads * n * (n + 1) / 2; /* a row sees itself and before */
        char site[64];
        site_text(tap[i].site, site);
        if (tap[i].elements != want || tap[i].max_change != 0)
            fail_msg("%s of sequence %u touched %zu values, %zu expected", site, tap[i].seq, tap[i].elements, want);
    }
    for (int s = 0; s < 3; s++) free((void *)(uintptr_t)in[s].ids);
    free(tap);
    golden_close(&g);
}

/* ---- taps: what they write --------------------------------------------------------------------- */

/* The same write, done by the definition in float64. */
struct written {
    const struct tap *tap;
    const struct arch *arch;
    uint32_t n;
    size_t elements;
    double max_change;
};

static bool listed(const uint32_t *list, size_t n, uint32_t value, size_t *at)
{
    for (*at = 0; *at < n && list[*at] != value; ++*at) {}
    return *at < n;
}

static double by_definition(const struct tap *t, double h, double src)
{
    double w = (double)t->weight;
    return t->op == TAP_SET ? (1 - w) * h + w * src : t->op == TAP_ADD ? h + w * src : w * h;
}

static void write_reference(void *ctx, enum hook h, uint32_t layer, double *value, size_t n_values)
{
    struct written *w = ctx;
    const struct tap *t = w->tap;
    bool pattern = h == HOOK_PATTERN;
    uint32_t heads = hook_heads(w->arch, h), width = pattern ? w->n : hook_width(w->arch, h);
    if (h != t->site.hook || layer != t->site.layer) return;
    assert_int_equal(n_values, (size_t)w->n * heads * width);
    for (uint32_t p = 0; p < w->n; p++)
        for (uint32_t hd = 0; hd < heads; hd++) {
            size_t at = p, ih = hd, n_pos = t->every_pos ? w->n : t->n_pos, n_head = t->head ? t->n_head : heads;
            if (!t->every_pos && !listed(t->pos, t->n_pos, p, &at)) continue;
            if (t->head && !listed(t->head, t->n_head, hd, &ih)) continue;
            size_t src_pos = t->n_src_pos <= 1 ? 1 : n_pos, src_at = t->n_src_pos <= 1 ? 0 : at;
            for (uint32_t i = 0; i < (pattern ? p + 1 : width); i++) {
                double *x = pattern ? &value[((size_t)hd * w->n + p) * w->n + i] : &value[((size_t)p * heads + hd) * width + i];
                size_t from = pattern ? (ih * src_pos + src_at) * w->n + i : (src_at * n_head + ih) * width + i;
                double to = by_definition(t, *x, t->src ? (double)t->src[from] : 0);
                w->max_change = fmax(w->max_change, fabs(to - *x));
                w->elements++;
                *x = to;
            }
        }
}

static void check_write(const struct golden *g, struct reference *r, struct tap tap)
{
    char site[64];
    struct written w = {&tap, &g->model->arch, g->n[0], 0, 0};
    struct taps taps = {&tap, 1};
    r->hook = write_reference;
    r->ctx = &w;
    float *got = final_of(g, g->view, g->ids[0], g->n[0], &taps);
    double *want = reference_final(r, g->ids[0], g->n[0]);
    site_text(tap.site, site);
    check_close(site, got, want, (size_t)g->n[0] * g->model->arch.d_model, 2 * CLOSE, 0);
    assert_int_equal(tap.elements, w.elements);
    assert_true(fabs((double)tap.max_change - w.max_change) <= 1e-4 * (1 + w.max_change));
    free(got), free(want);
}

/* Every op and weight, with and without a source, at every hook. */
static void test_writes(void **state)
{
    (void)state;
    static const float weights[] = {0, 0.5f, 1, -2};
    static const uint32_t pos[] = {0, 3, 8}, heads[] = {1};
    for (size_t i = 0; i < N_MODELS; i++) {
        struct golden g;
        golden_open(&g, models[i], NULL);
        struct reference *r = reference_new(g.view);
        uint64_t seed = 5;
        float *src = random_floats(&seed, 9 * 9 * 64, 0.4);
        assert_int_equal(g.n[0], 9);
        for (unsigned k = 0; k < REFERENCE_HOOKS; k++)
            for (unsigned op = TAP_SET; op <= TAP_SCALE; op++)
                for (size_t w = 0; w < 4; w++) {
                    const enum hook h = reference_hooks[k];
                    bool by_head = hook_info(h)->axis != AXIS_PLAIN && hook_heads(&g.model->arch, h) > 1;
                    struct tap tap = {.site = {h, 1}, .op = (enum tap_op)op, .weight = weights[w], .n_source = 9,
                                      .every_pos = w % 2, .pos = pos, .n_pos = 3, .src = (k + w) % 3 ? src : NULL,
                                      .n_src_pos = w % 2 ? 9 : 3, .head = by_head ? heads : NULL, .n_head = by_head};
                    if (k % 4 == 1) tap.n_src_pos = 1; /* one vector for all positions */
                    check_write(&g, r, tap);
                }
        free(src);
        reference_free(r);
        golden_close(&g);
    }
}

/* Several writes act in order, each on what the one before left; a read sees the last. */
static void test_writes_follow_each_other(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    size_t n = hook_floats(&g.model->arch, HOOK_RESID_PRE, g.n[0]);
    float *was = read_hook(&g, g.ids[0], g.n[0], HOOK_RESID_PRE, 1), *now = malloc(n * sizeof *now);
    struct tap tap[] = {
        {.site = {HOOK_RESID_PRE, 1}, .op = TAP_SCALE, .weight = 2, .every_pos = true},
        {.site = {HOOK_RESID_PRE, 1}, .op = TAP_ADD, .weight = -1, .every_pos = true, .src = was, .n_src_pos = g.n[0]},
        {.site = {HOOK_RESID_PRE, 1}, .op = TAP_READ, .every_pos = true, .dst = now},
        {.site = {HOOK_RESID_PRE, 1}, .op = TAP_SET, .weight = 1, .seq = 7, .every_pos = true}, /* another sequence's */
    };
    struct taps taps = {tap, 4};
    free(final_of(&g, g.view, g.ids[0], g.n[0], &taps));
    assert_memory_equal(now, was, n * sizeof *now); /* 2x − x is exact */
    assert_int_equal(tap[3].elements, 0);
    free(was), free(now);
    golden_close(&g);
}

/* ---- identities between hooks ------------------------------------------------------------------ */

static void expect_same(const struct golden *g, struct tap *tap, size_t n_taps, const float *want, const char *what)
{
    struct taps taps = {tap, n_taps};
    float *got = final_of(g, g->view, g->ids[0], g->n[0], &taps);
    if (memcmp(got, want, (size_t)g->n[0] * g->model->arch.d_model * sizeof *got) != 0)
        fail_msg("%s: %s differs by %g", g->name, what, farthest(got, want, (size_t)g->n[0] * g->model->arch.d_model));
    free(got);
}

/* Its own value written back, scaled by one, or with nothing added, at every hook of every layer. */
static void test_identity_writes(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_MODELS; i++) {
        struct golden g;
        golden_open(&g, models[i], NULL);
        float *plain = final_of(&g, g.view, g.ids[0], g.n[0], NULL);
        for (uint32_t l = 0; l < g.model->arch.n_layers; l++)
            for (unsigned k = 0; k < REFERENCE_HOOKS; k++) {
                const enum hook h = reference_hooks[k];
                float *own = read_hook(&g, g.ids[0], g.n[0], h, l);
                struct tap set = set_all(h, l, own, g.n[0]), scale = set, none = set, zero = set;
                scale.op = TAP_SCALE;
                none.weight = 0;
                zero.op = TAP_ADD;
                zero.src = NULL;
                expect_same(&g, &set, 1, plain, hook_info(h)->spelling);
                expect_same(&g, &scale, 1, plain, hook_info(h)->spelling);
                expect_same(&g, &none, 1, plain, hook_info(h)->spelling);
                expect_same(&g, &zero, 1, plain, hook_info(h)->spelling);
                assert_true(set.elements > 0 && set.max_change == 0);
                free(own);
            }
        free(plain);
        golden_close(&g);
    }
}

/* Source: another prompt of the same length. */
static uint32_t *other_prompt(const struct golden *g) { return some_ids(77, g->n[0], g->model); }

/* The residual stream patched at all positions is the source run from there on. */
static void test_whole_stream_patched(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_MODELS; i++) {
        struct golden g;
        golden_open(&g, models[i], NULL);
        uint32_t *source = other_prompt(&g), n = g.n[0], L = g.model->arch.n_layers;
        float *want = final_of(&g, g.view, source, n, NULL);
        for (uint32_t l = 0; l < L; l++) {
            float *pre = read_hook(&g, source, n, HOOK_RESID_PRE, l), *mid = read_hook(&g, source, n, HOOK_RESID_MID, l),
                  *post = read_hook(&g, source, n, HOOK_RESID_POST, l);
            struct tap tap = set_all(HOOK_RESID_PRE, l, pre, n);
            expect_same(&g, &tap, 1, want, "resid_pre");
            tap = set_all(HOOK_RESID_MID, l, mid, n);
            expect_same(&g, &tap, 1, want, "resid_mid");
            tap = set_all(HOOK_RESID_POST, l, post, n);
            expect_same(&g, &tap, 1, want, "resid_post");
            if (l) { /* what leaves a block enters the next */
                float *below_post = read_hook(&g, source, n, HOOK_RESID_POST, l - 1);
                assert_memory_equal(below_post, pre, hook_floats(&g.model->arch, HOOK_RESID_PRE, n) * sizeof *pre);
                free(below_post);
            }
            free(pre), free(mid), free(post);
        }
        free(want), free(source);
        golden_close(&g);
    }
}

/* Embedding, all attn_out and all mlp_out from the source: the source run. */
static void test_all_addends_patched(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    uint32_t *source = other_prompt(&g), n = g.n[0], L = g.model->arch.n_layers;
    struct tap tap[1 + 2 * 8];
    float *value[1 + 2 * 8];
    size_t k = 0;
    value[k] = read_hook(&g, source, n, HOOK_RESID_PRE, 0);
    tap[k] = set_all(HOOK_RESID_PRE, 0, value[k], n), k++;
    for (uint32_t l = 0; l < L; l++)
        for (int which = 0; which < 2; which++, k++) {
            enum hook h = which ? HOOK_MLP_OUT : HOOK_ATTN_OUT;
            value[k] = read_hook(&g, source, n, h, l);
            tap[k] = set_all(h, l, value[k], n);
        }
    float *want = final_of(&g, g.view, source, n, NULL);
    expect_same(&g, tap, k, want, "embedding and all addends");
    while (k) free(value[--k]);
    free(want), free(source);
    golden_close(&g);
}

/* q and k decide the pattern; pattern and v decide z; z decides attn_out; gate and up decide post,
 * post decides mlp_out. */
static void test_parts_decide_the_whole(void **state)
{
    (void)state;
    static const struct { enum hook part[2]; size_t n; enum hook whole; } rows[] = {
        {{HOOK_Q, HOOK_K}, 2, HOOK_PATTERN}, {{HOOK_PATTERN, HOOK_V}, 2, HOOK_Z}, {{HOOK_Z}, 1, HOOK_ATTN_OUT},
        {{HOOK_MLP_PRE, HOOK_MLP_PRE_LINEAR}, 2, HOOK_MLP_POST}, {{HOOK_MLP_POST}, 1, HOOK_MLP_OUT}};
    for (size_t i = 0; i < N_MODELS; i++) {
        struct golden g;
        golden_open(&g, models[i], NULL);
        uint32_t *source = other_prompt(&g), n = g.n[0];
        float *plain = final_of(&g, g.view, g.ids[0], n, NULL);
        size_t bytes = (size_t)n * g.model->arch.d_model * sizeof *plain;
        for (size_t k = 0; k < sizeof rows / sizeof *rows; k++)
            for (uint32_t l = 0; l < g.model->arch.n_layers; l++) {
                struct tap part[2], whole;
                float *value[3];
                for (size_t p = 0; p < rows[k].n; p++) {
                    value[p] = read_hook(&g, source, n, rows[k].part[p], l);
                    part[p] = set_all(rows[k].part[p], l, value[p], n);
                }
                value[2] = read_hook(&g, source, n, rows[k].whole, l);
                whole = set_all(rows[k].whole, l, value[2], n);
                struct taps taps = {&whole, 1};
                float *want = final_of(&g, g.view, g.ids[0], n, &taps);
                assert_memory_not_equal(want, plain, bytes); /* or the test says nothing */
                expect_same(&g, part, rows[k].n, want, hook_info(rows[k].whole)->spelling);
                for (size_t p = 0; p < rows[k].n; p++) free(value[p]);
                free(value[2]), free(want);
            }
        free(plain), free(source);
        golden_close(&g);
    }
}

/* resid_post of the last layer = embedding + Σ attn_out + Σ mlp_out. */
static void test_stream_is_a_sum(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_MODELS; i++) {
        struct golden g;
        golden_open(&g, models[i], NULL);
        uint32_t n = g.n[0], L = g.model->arch.n_layers;
        size_t values = (size_t)n * g.model->arch.d_model;
        struct err e = {0};
        float *embedding = malloc(values * sizeof *embedding);
        double *sum = zero_doubles(values);
        must(embed(g.session, g.view, g.ids[0], n, 0, NULL, 0, embedding, &e), e);
        for (size_t k = 0; k < values; k++) sum[k] = (double)embedding[k];
        for (uint32_t l = 0; l < L; l++) {
            float *attn = read_hook(&g, g.ids[0], n, HOOK_ATTN_OUT, l), *mlp = read_hook(&g, g.ids[0], n, HOOK_MLP_OUT, l);
            for (size_t k = 0; k < values; k++) sum[k] += (double)attn[k] + (double)mlp[k];
            free(attn), free(mlp);
        }
        float *post = read_hook(&g, g.ids[0], n, HOOK_RESID_POST, L - 1);
        check_close("sum of addends", post, sum, values, 1e-6, 0);
        free(embedding), free(sum), free(post);
        golden_close(&g);
    }
}

/* A head's rows of z depend on that head alone: one head patched leaves the others. */
static void test_one_head(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    uint32_t n = g.n[0], e = g.model->arch.d_head, H = g.model->arch.n_heads;
    static const uint32_t head[] = {2};
    float *src = random_floats(&(uint64_t){6}, (size_t)n * e, 1), *z = read_hook(&g, g.ids[0], n, HOOK_Z, 1),
          *now = malloc((size_t)n * H * e * sizeof *now);
    struct tap tap[] = {
        {.site = {HOOK_Z, 1}, .op = TAP_SET, .weight = 1, .every_pos = true, .head = head, .n_head = 1, .src = src, .n_src_pos = n},
        {.site = {HOOK_Z, 1}, .op = TAP_READ, .every_pos = true, .dst = now}};
    struct taps taps = {tap, 2};
    free(final_of(&g, g.view, g.ids[0], n, &taps));
    for (uint32_t p = 0; p < n; p++)
        for (uint32_t h = 0; h < H; h++)
            assert_memory_equal(now + ((size_t)p * H + h) * e, h == 2 ? src + (size_t)p * e : z + ((size_t)p * H + h) * e, e * sizeof *z);
    free(src), free(z), free(now);
    golden_close(&g);
}

/* A position that sees only itself does not mind what its scores are. */
static bool only_scores(enum hook h)
{
    return h == HOOK_Q || h == HOOK_K || h == HOOK_ROT_Q || h == HOOK_ROT_K || h == HOOK_ATTN_SCORES ||
           h == HOOK_Q_INPUT || h == HOOK_K_INPUT;
}

/* Nothing moves before a written position; nothing at all when it is the last layer's other rows. */
static void test_writes_respect_time(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    uint32_t n = g.n[0];
    size_t d = g.model->arch.d_model;
    float *plain = final_of(&g, g.view, g.ids[0], n, NULL);
    for (unsigned h = HOOK_EMBED; h < HOOK_FINAL_SCALE; h++)
        for (uint32_t p = 0; p < n && !hook_absent(&g.model->arch, (enum hook)h); p++) {
            struct tap tap = {.site = {(enum hook)h, 0}, .op = TAP_SCALE, .weight = -3, .pos = &p, .n_pos = 1, .n_source = n};
            struct taps taps = {&tap, 1};
            float *got = final_of(&g, g.view, g.ids[0], n, &taps);
            assert_memory_equal(got, plain, p * d * sizeof *got);
            assert_true(farthest(got + p * d, plain + p * d, d) > 1e-6 || (p == 0 && only_scores((enum hook)h)));
            free(got);
        }
    free(plain);
    golden_close(&g);
}

/* ---- other weights, same function -------------------------------------------------------------- */

static struct view *with(struct view *v, const struct golden *g, enum role role, uint32_t layer, const float *w)
{
    struct err e = {0};
    size_t t;
    assert_true(model_role(g->model, role, layer, &t));
    struct view *out = view_with_tensors(v, &t, &w, 1, &e);
    must(out, e);
    view_drop(v);
    return out;
}

static const float *weight_of(const struct golden *g, enum role role, uint32_t layer, struct tensor *info)
{
    size_t t;
    assert_true(model_role(g->model, role, layer, &t));
    *info = g->model->tensors[t];
    return held_floats(g->view, t);
}

/* Grouped keys and values, copied out for each query head, are plain multi-head attention. */
static void test_groups_are_copies(void **state)
{
    (void)state;
    struct golden grouped, plain;
    golden_open(&grouped, "gqa_tied", NULL);
    golden_open(&plain, "mha_bf16", NULL); /* the same sizes, but for its heads and depth */
    uint32_t n = grouped.n[0], e = 8, per_group = 2, L = plain.model->arch.n_layers;
    struct view *v = view_retain(plain.view);
    for (unsigned role = 0; role < ROLE_COUNT; role++)
        for (uint32_t l = 0; l < (role == ROLE_EMBED || role == ROLE_FINAL_NORM ? 1 : L); l++) {
            struct tensor t;
            size_t exists;
            if (role == ROLE_HEAD || !model_role(grouped.model, (enum role)role, l, &exists)) continue;
            const float *w = weight_of(&grouped, (enum role)role, l, &t);
            size_t row = t.cols * sizeof *w;
            bool shared = role == ROLE_K || role == ROLE_V;
            float *copy = malloc(2 * t.rows * row);
            for (uint32_t r = 0; r < t.rows * (shared ? per_group : 1); r++) {
                uint32_t from = shared ? r / e / per_group * e + r % e : r;
                memcpy(copy + (size_t)r * t.cols, w + (size_t)from * t.cols, row);
            }
            v = with(v, &plain, (enum role)role, l, copy);
            free(copy);
        }
    float *want = read_hook(&grouped, grouped.ids[0], n, HOOK_RESID_POST, L - 1);
    float *got = final_of(&plain, v, grouped.ids[0], n, NULL);
    assert_true(relative_error(got, want, (size_t)n * grouped.model->arch.d_model) <= CLOSE);
    free(want), free(got);
    view_drop(v);
    golden_close(&plain);
    golden_close(&grouped);
}

/* Heads in another order (with their keys and values, and their columns of the output matrix):
 * the same model, its z permuted. */
static void test_heads_permuted(void **state)
{
    (void)state;
    static const uint32_t order[] = {3, 2, 0, 1}, kv_order[] = {1, 0}; /* new head i was order[i] */
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    uint32_t n = g.n[0], e = g.model->arch.d_head, H = 4, layer = 1;
    struct view *v = view_retain(g.view);
    struct tensor t;
    static const enum role roles[] = {ROLE_Q, ROLE_K, ROLE_V, ROLE_O};
    for (int k = 0; k < 4; k++) {
        const float *w = weight_of(&g, roles[k], layer, &t);
        const uint32_t *from = roles[k] == ROLE_K || roles[k] == ROLE_V ? kv_order : order;
        float *copy = malloc(t.n_elements * sizeof *copy);
        for (uint32_t r = 0; r < t.rows; r++)
            for (uint32_t c = 0; c < t.cols; c++)
                copy[(size_t)r * t.cols + c] = roles[k] == ROLE_O ? w[(size_t)r * t.cols + from[c / e] * e + c % e]
                                                                 : w[(size_t)(from[r / e] * e + r % e) * t.cols + c];
        v = with(v, &g, roles[k], layer, copy);
        free(copy);
    }
    float *was = read_hook(&g, g.ids[0], n, HOOK_Z, layer), now[9 * 32];
    struct tap tap = {.site = {HOOK_Z, layer}, .op = TAP_READ, .every_pos = true, .dst = now};
    struct taps taps = {&tap, 1};
    float *want = final_of(&g, g.view, g.ids[0], n, NULL), *got = final_of(&g, v, g.ids[0], n, &taps);
    assert_true(relative_error(got, want, (size_t)n * g.model->arch.d_model) <= CLOSE);
    for (uint32_t p = 0; p < n; p++)
        for (uint32_t h = 0; h < H; h++)
            assert_true(farthest(now + ((size_t)p * H + h) * e, was + ((size_t)p * H + order[h]) * e, e) < 1e-5);
    free(was), free(want), free(got);
    view_drop(v);
    golden_close(&g);
}

/* ---- names ------------------------------------------------------------------------------------- */

static void test_site_names(void **state)
{
    (void)state;
    struct arch a = {.n_layers = 12, .n_heads = 2, .n_kv_heads = 2, .gated = true, .pre_norm = true};
    struct site s;
    struct err e = {0};
    char text[64];
    for (uint32_t l = 0; l < 12; l += 11)
        for (unsigned h = 0; h < HOOK_COUNT; h++) {
            if (hook_absent(&a, (enum hook)h) || hook_info((enum hook)h)->scope == SCOPE_MODEL) continue;
            site_text((struct site){(enum hook)h, l}, text);
            must(site_parse(&a, text, &s, &e), e);
            assert_true(s.hook == h && s.layer == l);
        }
    must(site_parse(&a, "blocks.5.attn.hook_z", &s, &e), e);
    assert_true(s.hook == HOOK_Z && s.layer == 5);
    static const char *const wrong[] = {"", "blocks", "blocks.5", "blocks.5.", "blocks.12.hook_resid_pre", "blocks.-1.hook_resid_pre",
                                        "blocks.05.hook_resid_pre", "blocks.+5.hook_resid_pre", "blocks. 5.hook_resid_pre",
                                        "blocks.5.hook_z", "blocks.5.attn.hook_z ", "blocks.5.attn.hook_results", "blocks.*.hook_resid_pre",
                                        "blocks.99999999999.hook_resid_pre", "Blocks.5.attn.hook_z"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        e = (struct err){0};
        if (site_parse(&a, wrong[i], &s, &e)) fail_msg("\"%s\" is taken for a site", wrong[i]);
        assert_int_equal(e.code, ERR_INVALID);
        assert_true(e.text[0]);
    }
    enum hook h;
    must(hook_parse("hook_resid_pre", &h, &e), e);
    assert_int_equal(h, HOOK_RESID_PRE);
    assert_false(hook_parse("hook_z", &h, &e));
    assert_non_null(strstr(e.text, "attn.hook_z"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_agrees_with_pytorch),
        cmocka_unit_test(test_batch_is_each_alone),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_long_sequence),
        cmocka_unit_test(test_cache_goes_on),
        cmocka_unit_test(test_fork),
        cmocka_unit_test(test_hooks_fire_once),
        cmocka_unit_test(test_writes),
        cmocka_unit_test(test_writes_follow_each_other),
        cmocka_unit_test(test_identity_writes),
        cmocka_unit_test(test_whole_stream_patched),
        cmocka_unit_test(test_all_addends_patched),
        cmocka_unit_test(test_parts_decide_the_whole),
        cmocka_unit_test(test_stream_is_a_sum),
        cmocka_unit_test(test_one_head),
        cmocka_unit_test(test_writes_respect_time),
        cmocka_unit_test(test_groups_are_copies),
        cmocka_unit_test(test_heads_permuted),
        cmocka_unit_test(test_site_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
