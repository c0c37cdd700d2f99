/* Every family of core/arch.def against PyTorch and transformers (float64, stored as float32): logits,
 * every hook the family has, the gradient at every hook and of every weight; continued from
 * a cache; read from a GGUF; exported and read again. Sequences are three times as long as windows.
 * tests/golden/make_families.py says what the models are; a family without a golden model fails. The
 * tolerance is that of tests/unit/test_forward.c. */
#include <ftw.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/export/hub_write.h"
#include "core/head.h"
#include "core/run.h"
#include "core/train.h"
#include "support/families.h"

#define TOLERANCE 1e-4

enum { MAX_POSITIONS = 64, SEQUENCES = 2 };

static void close_enough(const struct golden *g, const char *what, const float *got, const float *want, size_t n)
{
    double error = relative_error(got, want, n);
    if (!(error <= TOLERANCE)) fail_msg("%s: %s is off by %.2e", g->model->path, what, error);
}

/* Masked scores are −inf on both sides, and then no longer looked at. */
static void same_infinities(const struct golden *g, const char *what, float *got, float *want, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (isinf(got[i]) != isinf(want[i]) || (isinf(got[i]) && got[i] > 0))
            fail_msg("%s: %s[%zu] is %g, %g expected", g->model->path, what, i, (double)got[i], (double)want[i]);
        if (isinf(want[i])) got[i] = want[i] = 0;
    }
}

/* ---- taps of every hook ---------------------------------------------------------------------------- */

static struct taps read_all(const struct arch *a, uint32_t seq, uint32_t P)
{
    struct err e = {0};
    struct taps t = {mem_new((size_t)a->n_layers * HOOK_COUNT * sizeof(struct tap)), 0};
    for (uint32_t l = 0; l < a->n_layers; l++)
        for (unsigned i = 0; i < HOOK_COUNT; i++) {
            enum hook h = (enum hook)i;
            if (hook_absent(a, h) || (l > 0 && hook_info(h)->scope == SCOPE_MODEL)) continue;
            uint32_t width = hook_width(a, h);
            size_t n = (size_t)P * hook_heads(a, h) * (width ? width : P);
            float *dst = mem_take(n, sizeof *dst, &e);
            must(dst, e);
            t.tap[t.n++] = (struct tap){.site = {h, l}, .seq = seq, .every_pos = true, .n_source = P, .dst = dst, .elements = n};
        }
    return t;
}

static void drop(struct taps *t)
{
    for (size_t i = 0; i < t->n; i++) mem_drop(t->tap[i].dst);
    mem_drop(t->tap);
}

static bool is_copy(enum hook h)
{
    return h == HOOK_ATTN_IN || h == HOOK_Q_INPUT || h == HOOK_K_INPUT || h == HOOK_V_INPUT;
}

/* What a hook must show. Copies of the stream, one per head, and ids are not kept in the golden. */
static float *wanted(const struct golden *g, const struct tap *t, uint32_t seq, const char *prefix, char what[128], size_t *n)
{
    const struct arch *a = &g->model->arch;
    struct err e = {0};
    char site[64];
    site_text(t->site, site);
    (void)snprintf(what, 128, "%s%s", prefix, site);
    float *want = golden_tensor(g, what, n);
    if (want) return want;
    if (t->site.hook == HOOK_TOKENS) {
        *n = g->n[seq];
        want = mem_floats(*n, &e);
        must(want, e);
        for (size_t i = 0; i < *n; i++) want[i] = (float)g->ids[seq][i];
        return want;
    }
    if (!is_copy(t->site.hook)) return NULL;
    site_text((struct site){HOOK_RESID_PRE, t->site.layer}, site);
    char stream[128];
    (void)snprintf(stream, sizeof stream, "%s%s", prefix, site);
    size_t n_stream, heads = hook_heads(a, t->site.hook), d = a->d_model;
    float *x = golden_tensor(g, stream, &n_stream);
    if (!x) return NULL;
    *n = n_stream * heads;
    want = mem_floats(*n, &e);
    must(want, e);
    for (size_t i = 0; i < n_stream / d * heads; i++) memcpy(want + i * d, x + i / heads * d, d * sizeof *want);
    mem_drop(x);
    return want;
}

/* Of the second sequence only some hooks are kept. */
static void compare_taps(const struct golden *g, const struct taps *t, uint32_t seq, const char *prefix, bool all)
{
    size_t compared = 0;
    for (size_t i = 0; i < t->n; i++) {
        char what[128];
        size_t n = 0;
        float *want = wanted(g, &t->tap[i], seq, prefix, what, &n);
        if (!want && all) fail_msg("%s: no expected %s", g->model->path, what);
        if (!want) continue;
        size_t got_n = (size_t)g->n[seq] * hook_heads(&g->model->arch, t->tap[i].site.hook) *
                       (hook_width(&g->model->arch, t->tap[i].site.hook) ? hook_width(&g->model->arch, t->tap[i].site.hook) : g->n[seq]);
        assert_int_equal(n, got_n);
        if (t->tap[i].site.hook == HOOK_ATTN_SCORES) same_infinities(g, what, t->tap[i].dst, want, n);
        close_enough(g, what, t->tap[i].dst, want, n);
        mem_drop(want);
        compared++;
    }
    assert_true(compared > g->model->arch.n_layers);
}

/* ---- forward --------------------------------------------------------------------------------------- */

static void positions(uint32_t out[MAX_POSITIONS])
{
    for (uint32_t i = 0; i < MAX_POSITIONS; i++) out[i] = i;
}

static void compare_logits(const struct golden *g, uint32_t seq, const float *x, const struct taps *taps)
{
    struct err e = {0};
    uint32_t pos[MAX_POSITIONS];
    char what[16];
    size_t n = (size_t)g->n[seq] * g->model->arch.d_vocab, want_n;
    positions(pos);
    float *logits = mem_floats(n, &e);
    must(logits, e);
    struct head_rows rows = {taps, seq, pos};
    must(unembed(g->session, g->view, x, g->n[seq], taps ? &rows : NULL, logits, &e), e);
    (void)snprintf(what, sizeof what, "s%u.logits", seq);
    float *want = golden_tensor(g, what, &want_n);
    assert_non_null(want);
    assert_int_equal(want_n, n);
    close_enough(g, what, logits, want, n);
    mem_drop(want);
    mem_drop(logits);
}

static void check_forward(struct golden *g)
{
    struct err e = {0};
    const struct arch *a = &g->model->arch;
    bool hooks = !golden_only_logits(g);
    struct run_input in[SEQUENCES];
    uint32_t want[MAX_POSITIONS];
    struct taps own[SEQUENCES], all = {mem_new(SEQUENCES * (size_t)a->n_layers * HOOK_COUNT * sizeof(struct tap)), 0};
    positions(want);
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        if (a->window) assert_true(s > 0 || g->n[s] > 2 * a->window);
        in[s] = (struct run_input){.ids = g->ids[s], .n = g->n[s], .seq = s, .want = want, .n_want = g->n[s]};
        own[s] = read_all(a, s, g->n[s]);
        memcpy(all.tap + all.n, own[s].tap, own[s].n * sizeof(struct tap));
        all.n += own[s].n;
    }
    struct run *r = run_new(g->view, in, SEQUENCES, hooks ? &all : NULL, &e);
    must(r, e);
    must(STEP_ALL(run_step(r, g->session, &e)), e);
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        char prefix[8];
        (void)snprintf(prefix, sizeof prefix, "s%u.", s);
        compare_logits(g, s, run_final(r, s), hooks ? &all : NULL);
        if (hooks) compare_taps(g, &own[s], s, prefix, s == 0);
        drop(&own[s]);
    }
    run_free(r);
    mem_drop(all.tap);
}

static void test_forward(void **state)
{
    (void)state;
    families_each(false, check_forward);
}

/* ---- continued from a cache ------------------------------------------------------------------------ */

static void run_part(const struct golden *g, struct kv *kv, uint32_t from, uint32_t n, float *x)
{
    struct err e = {0};
    uint32_t want[MAX_POSITIONS];
    positions(want);
    struct run_input in = {.ids = g->ids[0] + from, .n = n, .kv = kv, .want = want, .n_want = n};
    struct run *r = run_new(g->view, &in, 1, NULL, &e);
    must(r, e);
    must(STEP_ALL(run_step(r, g->session, &e)), e);
    memcpy(x, run_final(r, 0), (size_t)n * g->model->arch.d_model * sizeof *x);
    run_free(r);
}

/* A prompt, then token by token across the edge of any window. */
static void check_cache(struct golden *g)
{
    struct err e = {0};
    const size_t d = g->model->arch.d_model, prompt = 3;
    struct kv *kv = kv_new(&g->model->arch);
    float *x = mem_floats(g->n[0] * d, &e);
    must(x, e);
    run_part(g, kv, 0, prompt, x);
    for (uint32_t p = prompt; p < g->n[0]; p++) run_part(g, kv, p, 1, x + p * d);
    assert_int_equal(kv_len(kv), g->n[0]);
    compare_logits(g, 0, x, NULL);
    mem_drop(x);
    kv_free(kv);
}

static void test_cache(void **state)
{
    (void)state;
    families_each(false, check_cache);
}

/* ---- gradients ------------------------------------------------------------------------------------- */

/* Where the gradient of a tensor goes: with its layer's, or with those of the model's ends. */
enum { LAYERS = 8, ENDS = LAYERS };

static size_t place_of(const struct tensor *t)
{
    bool end = t->role == ROLE_EMBED || t->role == ROLE_POS_EMBED || t->role == ROLE_FINAL_NORM ||
               t->role == ROLE_FINAL_NORM_B || t->role == ROLE_HEAD || t->role == ROLE_HEAD_B;
    return end ? ENDS : t->layer;
}

static void make_grads(const struct golden *g, struct weight_grads *grads)
{
    struct err e = {0};
    for (size_t i = 0; i < g->model->n_tensors; i++) {
        const struct tensor *t = &g->model->tensors[i];
        float **group = &grads[place_of(t)].of[t->group];
        if (*group) continue;
        size_t n = 0;
        for (size_t k = 0; k < g->model->n_tensors; k++) {
            const struct tensor *o = &g->model->tensors[k];
            if (o->layer == t->layer && o->group == t->group) n += o->n_elements;
        }
        *group = mem_take(n, sizeof **group, &e);
        must(*group, e);
    }
}

static void compare_grads(const struct golden *g, const struct weight_grads *grads)
{
    for (size_t i = 0; i < g->model->n_tensors; i++) {
        const struct tensor *t = &g->model->tensors[i];
        char what[160];
        size_t n;
        (void)snprintf(what, sizeof what, "s0.grad.%s", t->name);
        float *want = golden_tensor(g, what, &n);
        if (!want) fail_msg("%s: no expected %s", g->model->path, what);
        assert_int_equal(n, t->n_elements);
        close_enough(g, what, grads[place_of(t)].of[t->group] + group_offset(g->model, i), want, n);
        mem_drop(want);
    }
}

/* Hooks of ids have no gradient. */
static void leave_out_ids(struct taps *t)
{
    for (size_t i = 0; i < t->n; i++)
        if (t->tap[i].site.hook == HOOK_TOKENS) {
            mem_drop(t->tap[i].dst);
            t->tap[i] = t->tap[--t->n];
        }
}

static void check_backward(struct golden *g)
{
    struct err e = {0};
    const struct arch *a = &g->model->arch;
    uint32_t rows[16], targets[16];
    double want, loss;
    struct weight_grads grads[LAYERS + 1] = {{{0}}};
    assert_true(a->n_layers <= LAYERS);
    struct tape_seq seq = {.n = g->n[0], .scored = rows, .target = targets, .ids = g->ids[0]};
    seq.n_scored = golden_loss(g, rows, targets, &want);
    struct tape *t = tape_new(a, &seq, 1, 0, false, &e);
    must(t, e);
    make_grads(g, grads);
    tape_train_ends(t, &grads[ENDS]);
    struct taps taps = read_all(a, 0, g->n[0]);
    leave_out_ids(&taps);
    must(embed(g->session, g->view, g->ids[0], g->n[0], 0, NULL, 0, tape_input(t), &e), e);
    must(STEP_ALL(tape_forward(t, g->view, g->session, &e)), e);
    must(tape_loss(t, g->view, g->session, &taps, &loss, NULL, &e), e);
    if (!(fabs(loss - want) <= 1e-5)) fail_msg("%s: loss %.8f, %.8f expected", g->model->path, loss, want);
    must(STEP_ALL(tape_backward(t, g->view, g->session, grads, &taps, &e)), e);
    compare_taps(g, &taps, 0, "s0.grad.", true);
    compare_grads(g, grads);
    for (size_t l = 0; l <= LAYERS; l++)
        for (size_t k = 0; k < GROUP_COUNT; k++) mem_drop(grads[l].of[k]);
    drop(&taps);
    tape_free(t);
}

static void test_backward(void **state)
{
    (void)state;
    families_each(true, check_backward);
}

/* ---- writes ---------------------------------------------------------------------------------------- */

/* The loss of one pass that `taps` listen to. Of the head's hooks only scored rows are run. */
static double loss_with(const struct golden *g, struct taps *taps, const uint32_t *rows, const uint32_t *targets, size_t n)
{
    struct err e = {0};
    const struct arch *a = &g->model->arch;
    struct run_input in = {.ids = g->ids[0], .n = g->n[0], .want = rows, .n_want = n};
    struct head_rows heard = {taps, 0, rows};
    struct run *r = run_new(g->view, &in, 1, taps, &e);
    must(r, e);
    must(STEP_ALL(run_step(r, g->session, &e)), e);
    float *logits = mem_floats(n * a->d_vocab, &e);
    must(logits, e);
    must(unembed(g->session, g->view, run_final(r, 0), n, &heard, logits, &e), e);
    double loss = 0;
    for (size_t i = 0; i < n; i++) loss -= log_prob(logits + i * a->d_vocab, a->d_vocab, targets[i]) / (double)n;
    mem_drop(logits);
    run_free(r);
    return loss;
}

/* u ← numbers that go both ways, half a hundredth of the values they are added to. */
static void directions(float *u, size_t n)
{
    double squares = 0;
    size_t finite = 0;
    for (size_t i = 0; i < n; i++)
        if (isfinite(u[i])) squares += (double)u[i] * (double)u[i], finite++;
    double size = 0.005 * sqrt(squares / (double)finite);
    for (size_t i = 0; i < n; i++) u[i] = (float)(size * ((double)((i * 2654435761u >> 7) % 2001) / 1000 - 1));
}

/* Half the difference a write of ±times·u makes. */
static double moved_by(const struct golden *g, const struct tap *u, float times, const uint32_t *rows, const uint32_t *targets, size_t n)
{
    double loss[2];
    for (int side = 0; side < 2; side++) {
        struct tap write = {.site = u->site, .op = TAP_ADD, .every_pos = true, .n_source = u->n_source, .src = u->dst,
                            .n_src_pos = g->n[0], .weight = side ? -times : times};
        loss[side] = loss_with(g, &(struct taps){&write, 1}, rows, targets, n);
        assert_true(write.elements > 0);
    }
    return (loss[0] - loss[1]) / 2;
}

/* A write of ±u at a hook moves the loss by what the gradient there (PyTorch's) says: it reaches all that
 * reads the hook's value, and nothing else. */
static void check_writes(struct golden *g)
{
    uint32_t rows[16], targets[16];
    double want;
    size_t n_scored = golden_loss(g, rows, targets, &want);
    struct taps t = read_all(&g->model->arch, 0, g->n[0]);
    assert_true(fabs(loss_with(g, &t, rows, targets, n_scored) - want) <= 1e-5);
    for (size_t i = 0; i < t.n; i++) {
        struct tap *w = &t.tap[i];
        char what[128];
        size_t n = 0;
        if (!hook_info(w->site.hook)->writable) continue;
        float *grad = wanted(g, w, 0, "s0.grad.", what, &n);
        if (!grad) fail_msg("%s: no expected %s", g->model->path, what);
        directions(w->dst, n);
        double slope = 0, moved[2];
        for (size_t k = 0; k < n; k++) slope += (double)grad[k] * (double)w->dst[k];
        for (int far = 0; far < 2; far++) moved[far] = moved_by(g, w, far ? 2 : 1, rows, targets, n_scored);
        double got = (8 * moved[0] - moved[1]) / 6; /* the cubic term taken out */
        if (!(fabs(got - slope) <= 0.03 * fabs(slope) + 5e-6))
            fail_msg("%s: a write at %s moves the loss by %.7f, its gradient says %.7f", g->model->path, what, got, slope);
        mem_drop(grad);
    }
    drop(&t);
}

static void test_writes(void **state)
{
    (void)state;
    families_each(true, check_writes);
}

/* ---- exported and read again ----------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
    (void)st, (void)flag, (void)f;
    return remove(path);
}

/* From a GGUF this proves the config.json that is made from a description. */
static void check_export(struct golden *g)
{
    struct err e = {0};
    char dir[64] = "/tmp/engramd-test-XXXXXX", out[80];
    assert_non_null(mkdtemp(dir));
    (void)snprintf(out, sizeof out, "%s/out", dir);
    must(hub_write(g->view, out, &e), e);
    view_drop(g->view);
    model_drop(g->model);
    g->model = model_open(out, NULL, NULL, NULL, &e);
    must(g->model, e);
    g->view = view_base(g->model);
    check_cache(g);
    (void)nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void test_export(void **state)
{
    (void)state;
    families_each(false, check_export);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_cache),
        cmocka_unit_test(test_backward),
        cmocka_unit_test(test_writes),
        cmocka_unit_test(test_export),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
