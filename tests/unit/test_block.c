/* Head, block and tape against the reference model's float64 loops: forward by comparison, backward by
 * central differences of the loops. Tolerances as in test_kernels.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/head.h"
#include "core/train.h"
#include "support/golden.h"
#include "support/numbers.h"
#include "support/reference.h"

#define CLOSE 1e-5
#define STEP 1e-5

/* ---- head and block ---------------------------------------------------------------------------- */

struct head_case {
    struct reference *r;
    uint32_t n;
    const float *c;
    double *x, *logits;
};

static double head_reference(void *ctx)
{
    struct head_case *k = ctx;
    reference_head(k->r, k->x, k->n, k->logits);
    return weighted(k->logits, k->c, (size_t)k->n * k->r->model->arch.d_vocab);
}

static void check_head(const char *name)
{
    struct err e = {0};
    struct golden g;
    uint64_t seed = 9;
    golden_open(&g, name, NULL);
    enum { N = 3 };
    size_t d = g.model->arch.d_model, V = g.model->arch.d_vocab;
    float *x = random_floats(&seed, N * d, 2), *c = random_floats(&seed, N * V, 1), *logits = random_floats(&seed, N * V, 1),
          *dx = random_floats(&seed, N * d, 1), *before = random_floats(&seed, N * d, 1);
    struct head_case k = {reference_new(g.view), N, c, widened(x, N * d), zero_doubles(N * V)};
    head_reference(&k);
    must(unembed(g.session, g.view, x, N, NULL, logits, &e), e);
    check_close("unembed", logits, k.logits, N * V, CLOSE, 0);

    static const uint32_t ids[] = {299, 0, 17, 17};
    float some[N * 4];
    double want_some[N * 4];
    for (size_t i = 0; i < N * 4; i++) want_some[i] = k.logits[i / 4 * V + ids[i % 4]];
    must(unembed_ids(g.session, g.view, x, N, ids, 4, some, &e), e);
    check_close("unembed_ids", some, want_some, N * 4, CLOSE, 1);
    assert_true(fabs(log_prob(logits, (uint32_t)V, 17) + reference_nll(k.logits, (uint32_t)V, 17)) < 1e-5);

    double *want = zero_doubles(N * d), top = 0;
    for (size_t i = 0; i < N * d; i++) top = fmax(top, fabs(want[i] = slope(head_reference, &k, &k.x[i], STEP)));
    memcpy(dx, before, N * d * sizeof *dx);
    for (size_t i = 0; i < N * d; i++) want[i] += (double)before[i];
    must(unembed_backward(g.session, g.view, x, N, NULL, c, dx, NULL, &e), e);
    check_close("unembed backward", dx, want, N * d, CLOSE, top);
    free(x), free(c), free(logits), free(dx), free(before), free(want), free(k.x), free(k.logits);
    reference_free(k.r);
    golden_close(&g);
}

static void test_head(void **state)
{
    (void)state;
    check_head("gqa_tied");
    check_head("gqa_untied_odd");
}

static void test_arg_max(void **state)
{
    (void)state;
    assert_int_equal(arg_max((float[]){-3, -1, -1, -2}, 4), 1); /* the lowest id among equals */
    assert_int_equal(arg_max((float[]){5}, 1), 0);
}

/* A block's f(x) = Σ c·block(x), in x and in its matrices. */
struct block_case {
    struct reference *r;
    uint32_t layer, n;
    const float *c;
    double *x;
};

static double block_reference(void *ctx)
{
    struct block_case *k = ctx;
    size_t n = (size_t)k->n * k->r->model->arch.d_model;
    double *x = zero_doubles(n), sum;
    memcpy(x, k->x, n * sizeof *x);
    reference_block(k->r, k->layer, x, k->n);
    sum = weighted(x, k->c, n);
    free(x);
    return sum;
}

static struct block_rows rows_for(const struct arch *a, size_t rows, float **memory)
{
    struct err e = {0};
    struct block_rows out;
    *memory = mem_floats(block_rows_floats(a, rows), &e);
    must(*memory, e);
    block_rows_place(a, rows, *memory, &out);
    return out;
}

/* The gradient of a matrix at 20 random entries, against differences in the reference's copy. */
static void check_matrix(struct block_case *k, enum role role, const float *grad, uint64_t *seed)
{
    size_t t;
    assert_true(model_role(k->r->model, role, k->layer, &t));
    const struct tensor *info = &k->r->model->tensors[t];
    for (int i = 0; i < 20; i++) {
        size_t at = below(seed, (uint32_t)info->n_elements);
        double want = slope(block_reference, k, &k->r->weight[t][at], STEP);
        check_close(info->name, grad + group_offset(k->r->model, t) + at, &want, 1, 1e-4, 0.1);
    }
}

static void check_block(const char *name, uint32_t layer)
{
    struct err e = {0};
    struct golden g;
    golden_open(&g, name, NULL);
    const struct arch *a = &g.model->arch;
    uint64_t seed = 10 + layer;
    enum { N = 6 };
    size_t d = a->d_model, n = N * d, z = (size_t)a->n_heads * a->d_head, kv = (size_t)a->n_kv_heads * a->d_head;
    float *x = random_floats(&seed, n, 1), *c = random_floats(&seed, n, 1), *kept, *scratch,
          *out = random_floats(&seed, n, 1), *mid = random_floats(&seed, n, 1), *dx = random_floats(&seed, n, 1);
    struct span span = {.n_rows = N};
    struct saved saved = {.x_pre = x, .x_mid = mid, .rows = rows_for(a, N, &kept)};
    struct block b = {.session = g.session, .view = g.view, .layer = layer, .span = &span, .n_spans = 1,
                      .n_rows = N, .x = out, .rows = saved.rows};
    struct block_case k = {reference_new(g.view), layer, N, c, widened(x, n)};
    memcpy(out, x, n * sizeof *out);
    must(block_attention(&b, &e), e);
    must(block_project(&b, &e), e);
    memcpy(mid, out, n * sizeof *mid);
    must(block_mlp(&b, &e), e);

    double *want = widened(x, n);
    reference_block(k.r, layer, want, N);
    check_close("block", out, want, n, CLOSE, 0);

    float *zeros = calloc((z + 2 * kv) * d + d * z + 3 * d * a->d_mlp, sizeof *zeros);
    struct weight_grads grads = {.of = {[GROUP_QKV] = zeros, [GROUP_O] = zeros + (z + 2 * kv) * d,
                                        [GROUP_GATE_UP] = zeros + (z + 2 * kv) * d + d * z}};
    grads.of[GROUP_DOWN] = grads.of[GROUP_GATE_UP] + 2 * d * a->d_mlp;
    b.rows = rows_for(a, N, &scratch);
    memcpy(dx, c, n * sizeof *dx);
    must(block_backward(&b, &saved, dx, &grads, false, &e), e);
    for (size_t i = 0; i < n; i++) want[i] = slope(block_reference, &k, &k.x[i], STEP);
    check_close("block backward", dx, want, n, CLOSE, 0);
    const struct { enum role role; const float *grad; } all[] = {
        {ROLE_Q, grads.of[GROUP_QKV]}, {ROLE_K, grads.of[GROUP_QKV]}, {ROLE_V, grads.of[GROUP_QKV]}, {ROLE_O, grads.of[GROUP_O]},
        {ROLE_GATE, grads.of[GROUP_GATE_UP]}, {ROLE_UP, grads.of[GROUP_GATE_UP]}, {ROLE_DOWN, grads.of[GROUP_DOWN]}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) check_matrix(&k, all[i].role, all[i].grad, &seed);
    free(x), free(c), free(out), free(mid), free(dx), free(want), free(k.x), free(zeros);
    mem_drop(kept), mem_drop(scratch);
    reference_free(k.r);
    golden_close(&g);
}

static void test_block_backward(void **state)
{
    (void)state;
    check_block("gqa_tied", 1);
    check_block("gqa_untied_odd", 0);
    check_block("wide_head", 1);
}

/* The whole way down from the loss: cross-entropy at scored positions, in the final stream. */
struct loss_case {
    struct reference *r;
    const uint32_t *ids;
    uint32_t n;
    double *nudge; /* [n][d], added to the stream that enters the last layer */
};

static void add_nudge(void *ctx, enum hook h, uint32_t layer, double *x, size_t n)
{
    struct loss_case *k = ctx;
    if (h != HOOK_RESID_PRE || layer + 1 != k->r->model->arch.n_layers) return;
    for (size_t i = 0; i < n; i++) x[i] += k->nudge[i];
}

static double loss_reference(void *ctx)
{
    struct loss_case *k = ctx;
    uint32_t V = k->r->model->arch.d_vocab;
    double *logits = zero_doubles((size_t)k->n * V), loss;
    reference_run(k->r, k->ids, k->n, NULL, logits);
    loss = (reference_nll(logits + 1 * V, V, 5) + reference_nll(logits + (k->n - 1) * (size_t)V, V, 299)) / 2;
    free(logits);
    return loss;
}

static void test_cross_entropy(void **state)
{
    (void)state;
    struct err e = {0};
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    uint32_t n = g.n[1], d = g.model->arch.d_model, last = g.model->arch.n_layers - 1;
    const uint32_t scored[] = {1, n - 1}, target[] = {5, 299};
    struct tape_seq seq = {.n = n, .scored = scored, .target = target, .n_scored = 2};
    struct tape *t = tape_new(&g.model->arch, &seq, 1, 0, false, &e);
    must(t, e);
    must(embed(g.session, g.view, g.ids[1], n, 0, NULL, 0, tape_input(t), &e), e);
    struct loss_case k = {reference_new(g.view), g.ids[1], n, zero_doubles((size_t)n * d)};
    k.r->hook = add_nudge;
    k.r->ctx = &k;
    float *got = random_floats(&(uint64_t){11}, (size_t)n * d, 1);
    struct tap tap = {.site = {HOOK_RESID_PRE, last}, .op = TAP_READ, .every_pos = true, .dst = got};
    struct taps taps = {&tap, 1};
    double loss, *want = zero_doubles((size_t)n * d);
    must(STEP_ALL(tape_forward(t, g.view, g.session, &e)), e);
    must(tape_loss(t, g.view, g.session, NULL, &loss, NULL, &e), e);
    must(STEP_ALL(tape_backward(t, g.view, g.session, NULL, &taps, &e)), e);
    assert_true(fabs(loss - loss_reference(&k)) < 1e-5);
    for (size_t i = 0; i < (size_t)n * d; i++) want[i] = slope(loss_reference, &k, &k.nudge[i], STEP);
    check_close("gradient of the loss", got, want, (size_t)n * d, CLOSE * 3, 0);
    free(got), free(want), free(k.nudge);
    reference_free(k.r);
    tape_free(t);
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_arg_max),
        cmocka_unit_test(test_block_backward),
        cmocka_unit_test(test_cross_entropy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
