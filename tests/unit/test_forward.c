/* Forward and backward of tiny Llama models against PyTorch (float64, stored as float32): logits,
 * every hook, every gradient at a hook, every weight gradient. Tolerance: float32 rounding through
 * three layers is about 2e-6 of a tensor's largest value; 1e-4 leaves room for other BLAS kernels. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/head.h"
#include "core/run.h"
#include "core/train.h"
#include "support/golden.h"
#include "support/reference.h"

#define TOLERANCE 1e-4

static const struct {
    const char *name, *weights;
    bool every_gradient; /* else only the down-projections' are committed, to keep the file small */
} models[] = {
    {"gqa_tied", NULL, true},       {"gqa_tied", "gqa_tied.f32.gguf", true},
    {"gqa_untied_odd", NULL, true}, {"mha_bf16", NULL, true},
    {"wide_head", NULL, true},      {"gguf_q", "gguf_q.gguf", false},
};
enum { N_MODELS = sizeof models / sizeof *models };

static void compare(const struct golden *g, const char *what, const float *got, size_t n)
{
    size_t want_n;
    float *want = golden_tensor(g, what, &want_n);
    if (!want) fail_msg("%s: no expected %s", g->name, what);
    assert_int_equal(want_n, n);
    double error = relative_error(got, want, n);
    if (!(error <= TOLERANCE)) fail_msg("%s: %s is off by %.2e", g->name, what, error);
    mem_drop(want);
}

/* READ taps of every layer for one sequence, on the hooks these models have expectations of
 * (tests/unit/test_families.c has all). */
static struct taps read_all(const struct arch *a, uint32_t seq, uint32_t P)
{
    struct taps t = {mem_new((size_t)a->n_layers * REFERENCE_HOOKS * sizeof(struct tap)), 0};
    struct err e = {0};
    for (uint32_t l = 0; l < a->n_layers; l++)
        for (size_t h = 0; h < REFERENCE_HOOKS; h++) {
            uint32_t width = hook_width(a, reference_hooks[h]);
            size_t n = (size_t)P * hook_heads(a, reference_hooks[h]) * (width ? width : P);
            t.tap[t.n++] = (struct tap){.site = {reference_hooks[h], l}, .seq = seq, .every_pos = true,
                                        .n_source = P, .dst = mem_floats(n, &e), .elements = n};
        }
    return t;
}

static void compare_all(const struct golden *g, const struct taps *t, const char *prefix)
{
    char site[64], what[128];
    for (size_t i = 0; i < t->n; i++) {
        site_text(t->tap[i].site, site);
        (void)snprintf(what, sizeof what, "%s%s", prefix, site);
        compare(g, what, t->tap[i].dst, t->tap[i].elements);
    }
}

static void drop(struct taps *t)
{
    for (size_t i = 0; i < t->n; i++) mem_drop(t->tap[i].dst);
    mem_drop(t->tap);
}

static void check_forward(const struct golden *g)
{
    struct err e = {0};
    const struct arch *a = &g->model->arch;
    struct run_input in[2];
    uint32_t want[64];
    struct taps all = {mem_new(2 * (size_t)a->n_layers * REFERENCE_HOOKS * sizeof(struct tap)), 0};
    struct taps own[2];
    for (uint32_t i = 0; i < 64; i++) want[i] = i;
    for (uint32_t s = 0; s < 2; s++) {
        in[s] = (struct run_input){.ids = g->ids[s], .n = g->n[s], .seq = s, .want = want, .n_want = g->n[s]};
        own[s] = read_all(a, s, g->n[s]);
        memcpy(all.tap + all.n, own[s].tap, own[s].n * sizeof(struct tap));
        all.n += own[s].n;
    }
    struct run *r = run_new(g->view, in, 2, &all, &e);
    must(r, e);
    must(STEP_ALL(run_step(r, g->session, &e)), e);
    for (uint32_t s = 0; s < 2; s++) {
        char prefix[8], what[16];
        (void)snprintf(prefix, sizeof prefix, "s%u.", s);
        (void)snprintf(what, sizeof what, "s%u.logits", s);
        compare_all(g, &own[s], prefix);
        float *logits = mem_floats((size_t)g->n[s] * a->d_vocab, &e);
        must(unembed(g->session, g->view, run_final(r, s), g->n[s], NULL, logits, &e), e);
        compare(g, what, logits, (size_t)g->n[s] * a->d_vocab);
        mem_drop(logits);
        drop(&own[s]);
    }
    run_free(r);
    mem_drop(all.tap);
}

static void test_forward(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_MODELS; i++) {
        struct golden g;
        golden_open(&g, models[i].name, models[i].weights);
        check_forward(&g);
        golden_close(&g);
    }
}

/* ---- gradients --------------------------------------------------------------------------------- */

static float *zeros(size_t n)
{
    struct err e = {0};
    float *v = mem_take(n, sizeof *v, &e);
    must(v, e);
    return v;
}

static void compare_weight(const struct golden *g, enum role role, uint32_t layer, const float *got)
{
    size_t t;
    char what[160];
    assert_true(model_role(g->model, role, layer, &t));
    (void)snprintf(what, sizeof what, "s0.grad.%s", g->model->tensors[t].name);
    compare(g, what, got + group_offset(g->model, t), g->model->tensors[t].n_elements);
}

static void check_backward(const struct golden *g, bool every_gradient)
{
    struct err e = {0};
    const struct arch *a = &g->model->arch;
    uint32_t rows[16], targets[16];
    double want, loss;
    struct tape_seq seq = {.n = g->n[0], .scored = rows, .target = targets};
    seq.n_scored = golden_loss(g, rows, targets, &want);
    struct tape *t = tape_new(a, &seq, 1, 0, false, &e);
    must(t, e);
    struct weight_grads grads[8] = {{{0}}};
    size_t d = a->d_model, z = (size_t)a->n_heads * a->d_head, kv = (size_t)a->n_kv_heads * a->d_head;
    for (uint32_t l = 0; l < a->n_layers; l++)
        grads[l] = (struct weight_grads){.of = {[GROUP_QKV] = zeros((z + 2 * kv) * d), [GROUP_O] = zeros(d * z),
                                                [GROUP_GATE_UP] = zeros(2 * (size_t)a->d_mlp * d), [GROUP_DOWN] = zeros(d * a->d_mlp)}};
    must(embed(g->session, g->view, g->ids[0], g->n[0], 0, NULL, 0, tape_input(t), &e), e);
    must(STEP_ALL(tape_forward(t, g->view, g->session, &e)), e);
    must(tape_loss(t, g->view, g->session, NULL, &loss, NULL, &e), e);
    if (loss < want - 1e-5 || loss > want + 1e-5) fail_msg("loss %.8f, %.8f expected", loss, want);
    struct taps taps = read_all(a, 0, g->n[0]);
    must(STEP_ALL(tape_backward(t, g->view, g->session, grads, &taps, &e)), e);
    compare_all(g, &taps, "s0.grad.");
    for (uint32_t l = 0; l < a->n_layers; l++) {
        const struct { enum role role; float *g; } all[] = {
            {ROLE_DOWN, grads[l].of[GROUP_DOWN]}, {ROLE_Q, grads[l].of[GROUP_QKV]}, {ROLE_K, grads[l].of[GROUP_QKV]},
            {ROLE_V, grads[l].of[GROUP_QKV]}, {ROLE_O, grads[l].of[GROUP_O]}, {ROLE_GATE, grads[l].of[GROUP_GATE_UP]},
            {ROLE_UP, grads[l].of[GROUP_GATE_UP]}};
        for (size_t k = 0; k < (every_gradient ? sizeof all / sizeof *all : 1); k++)
            compare_weight(g, all[k].role, l, all[k].g);
        mem_drop(grads[l].of[GROUP_QKV]), mem_drop(grads[l].of[GROUP_O]), mem_drop(grads[l].of[GROUP_GATE_UP]), mem_drop(grads[l].of[GROUP_DOWN]);
    }
    drop(&taps);
    tape_free(t);
}

static void test_backward(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_MODELS; i++) {
        struct golden g;
        golden_open(&g, models[i].name, models[i].weights);
        check_backward(&g, models[i].every_gradient);
        golden_close(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_backward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
