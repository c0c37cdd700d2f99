/* LocFT on every family: the gradient of each layer's down-projection with the layers below kept against
 * the whole tape's and against finite differences of the plain loss; training; the delta and what is
 * rebuilt from it, to the bit. Post-norms, parallel branches, biases, input-major matrices, 16-bit and packed
 * bases are what differs. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/head.h"
#include "core/run.h"
#include "core/train.h"
#include "edits/methods.h"
#include "ledger/digest.h"
#include "support/families.h"
#include "support/numbers.h"

enum { FACTS = 3, MOST = 16, END = 2 };

/* Facts of different lengths out of the golden sequences, each ending in the end token. */
struct facts {
    uint32_t ids[FACTS][MOST];
    struct example x[FACTS];
};

static void make_facts(const struct golden *g, struct facts *f)
{
    static const struct { int sequence; uint32_t from, prompt, target; } of[FACTS] = {{0, 0, 6, 3}, {1, 0, 4, 2}, {0, 7, 3, 2}};
    for (int i = 0; i < FACTS; i++) {
        uint32_t n = of[i].prompt + of[i].target;
        memcpy(f->ids[i], g->ids[of[i].sequence] + of[i].from, n * sizeof **f->ids);
        f->ids[i][n] = END;
        f->x[i] = (struct example){f->ids[i], n + 1, of[i].prompt};
    }
}

static size_t down_of(const struct golden *g, uint32_t layer)
{
    size_t t;
    assert_true(model_role(g->model, ROLE_DOWN, layer, &t));
    return t;
}

/* ---- losses of plain runs ------------------------------------------------------------------------------ */

static double plain_loss(const struct golden *g, struct view *v, const struct facts *f)
{
    struct err e = {0};
    const uint32_t V = g->model->arch.d_vocab;
    double loss = 0;
    for (int i = 0; i < FACTS; i++) {
        const struct example *x = &f->x[i];
        uint32_t want[MOST], n = x->n - x->n_prompt;
        for (uint32_t k = 0; k < n; k++) want[k] = x->n_prompt - 1 + k;
        struct run_input in = {.ids = x->ids, .n = x->n, .want = want, .n_want = n};
        struct run *r = run_new(v, &in, 1, NULL, &e);
        must(r && STEP_ALL(run_step(r, g->session, &e)), e);
        float *logits = floats(n * V);
        must(unembed(g->session, v, run_final(r, 0), n, NULL, logits, &e), e);
        for (uint32_t k = 0; k < n; k++) loss -= log_prob(logits + k * V, V, x->ids[want[k] + 1]) / n / FACTS;
        mem_drop(logits);
        run_free(r);
    }
    return loss;
}

static struct view *with_change(const struct golden *g, struct view *parent, size_t tensor, const float *change, double times)
{
    size_t n = g->model->tensors[tensor].n_elements;
    float *scaled = floats(n);
    for (size_t i = 0; i < n; i++) scaled[i] = (float)(times * (double)change[i]);
    struct view *v = view_plus(g, parent, tensor, scaled);
    mem_drop(scaled);
    return v;
}

/* ---- the gradient ---------------------------------------------------------------------------------------- */

static struct tape *facts_tape(const struct golden *g, const struct facts *f, uint32_t from, bool from_mid, uint32_t scored[FACTS][MOST])
{
    struct err e = {0};
    struct tape_seq seq[FACTS];
    for (int i = 0; i < FACTS; i++) {
        const struct example *x = &f->x[i];
        size_t n = x->n - x->n_prompt;
        for (uint32_t k = 0; k < n; k++) scored[i][k] = x->n_prompt - 1 + k;
        seq[i] = (struct tape_seq){.n = x->n, .scored = scored[i], .target = x->ids + x->n_prompt, .n_scored = n};
    }
    struct tape *t = tape_new(&g->model->arch, seq, FACTS, from, from_mid, &e);
    must(t, e);
    return t;
}

/* Forward and backward of a tape that has its input. */
static void pass(const struct golden *g, struct tape *t, uint32_t from, uint32_t layer, float *grad)
{
    struct err e = {0};
    double loss;
    struct weight_grads *grads = mem_new((g->model->arch.n_layers - from) * sizeof *grads);
    grads[layer - from].of[GROUP_DOWN] = grad;
    must(STEP_ALL(tape_forward(t, g->view, g->session, &e)), e);
    must(tape_loss(t, g->view, g->session, NULL, &loss, NULL, &e), e);
    must(STEP_ALL(tape_backward(t, g->view, g->session, grads, NULL, &e)), e);
    mem_drop(grads);
}

static void whole_gradient(const struct golden *g, const struct facts *f, uint32_t layer, float *grad)
{
    struct err e = {0};
    uint32_t scored[FACTS][MOST];
    struct tape *t = facts_tape(g, f, 0, false, scored);
    float *x = tape_input(t);
    for (int i = 0; i < FACTS; i++) {
        must(embed(g->session, g->view, f->x[i].ids, f->x[i].n, 0, NULL, 0, x, &e), e);
        x += f->x[i].n * (size_t)g->model->arch.d_model;
    }
    pass(g, t, 0, layer, grad);
    tape_free(t);
}

/* As the editor has it: the stream before the MLP and the neurons kept from a run, the matrix apart. */
static void kept_gradient(const struct golden *g, const struct facts *f, uint32_t layer, size_t n, float *grad)
{
    struct err e = {0};
    const struct arch *a = &g->model->arch;
    uint32_t scored[FACTS][MOST];
    struct tape *t = facts_tape(g, f, layer, true, scored);
    float *mid = tape_input(t), *post = floats(tape_rows(t) * a->d_mlp), *down = floats(n), *at = post;
    view_tensor_copy(g->view, down_of(g, layer), down);
    for (int i = 0; i < FACTS; i++) {
        struct tap tap[2] = {{.site = {HOOK_RESID_MID, layer}, .every_pos = true, .dst = mid},
                             {.site = {HOOK_MLP_POST, layer}, .every_pos = true, .dst = at}};
        struct run_input in = {.ids = f->x[i].ids, .n = f->x[i].n};
        struct run *r = run_new(g->view, &in, 1, &(struct taps){tap, 2}, &e);
        must(r && STEP_ALL(run_step(r, g->session, &e)), e);
        run_free(r);
        mid += f->x[i].n * (size_t)a->d_model;
        at += f->x[i].n * (size_t)a->d_mlp;
    }
    tape_train_down(t, down, post);
    pass(g, t, layer, layer, grad);
    tape_free(t);
    mem_drop(post);
    mem_drop(down);
}

static double norm_of(const float *x, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) s += (double)x[i] * (double)x[i];
    return sqrt(s);
}

/* Along u, of length `step`: half the difference of the losses, the cubic term taken out. */
static double moved(const struct golden *g, const struct facts *f, size_t tensor, const float *u, double step)
{
    double half[2];
    for (int far = 0; far < 2; far++) {
        double loss[2];
        for (int side = 0; side < 2; side++) {
            struct view *v = with_change(g, g->view, tensor, u, (side ? -step : step) * (far + 1));
            loss[side] = plain_loss(g, v, f);
            view_drop(v);
        }
        half[far] = (loss[0] - loss[1]) / 2;
    }
    return (8 * half[0] - half[1]) / 6;
}

static void check_gradient(struct golden *g)
{
    struct facts f;
    make_facts(g, &f);
    for (uint32_t layer = 0; layer < g->model->arch.n_layers; layer++) {
        size_t t = down_of(g, layer), n = g->model->tensors[t].n_elements;
        float *whole = floats(n), *kept = floats(n), *u = floats(n);
        whole_gradient(g, &f, layer, whole);
        kept_gradient(g, &f, layer, n, kept);
        double off = relative_error(kept, whole, n), size = norm_of(whole, n), weight, got, slope = 0;
        if (!(off <= 1e-5)) fail_msg("%s: kept gradient of layer %u is off by %.2e", g->model->path, layer, off);
        assert_true(size > 1e-4);
        weight = view_tensor_norm(g->view, t);
        for (int random = 0; random < 2; random++) { /* along the gradient, where all of it counts; and anywhere */
            uint64_t seed = 3 + layer;
            float *any = random_floats(&seed, n, 1);
            memcpy(u, random ? any : whole, n * sizeof *u);
            double step = 0.005 * weight / norm_of(u, n);
            slope = 0;
            for (size_t i = 0; i < n; i++) slope += (double)whole[i] * (double)u[i] * step;
            got = moved(g, &f, t, u, step);
            if (!(fabs(got - slope) <= 0.01 * fabs(slope) + 5e-6))
                fail_msg("%s: layer %u moves the loss by %.8f, its gradient says %.8f", g->model->path, layer, got, slope);
            free(any);
        }
        mem_drop(whole), mem_drop(kept), mem_drop(u);
    }
}

static void test_gradient(void **state)
{
    (void)state;
    families_each(false, check_gradient);
}

/* ---- the editor -------------------------------------------------------------------------------------------- */

static struct editor *trained(const struct golden *g, struct view *parent, const struct facts *f, double layer, double lr, double epochs)
{
    struct err e = {0};
    struct edit_request q = {.parent = parent, .example = f->x, .n = FACTS, .params = method_defaults(&method_locft), .seed = 1};
    q.params.value[method_param(&method_locft, "layer")] = layer;
    q.params.value[method_param(&method_locft, "lr")] = lr;
    q.params.value[method_param(&method_locft, "epochs")] = epochs;
    struct editor *ed = method_locft.new(&q, &e);
    must(ed && STEP_ALL(method_locft.step(ed, g->session, &e)), e);
    assert_non_null(method_locft.outcome(ed)->delta);
    return ed;
}

/* Adam's first step is the gradient's sign times lr, wherever the gradient is far above its eps. */
static void check_first_step(struct golden *g)
{
    const double lr = 1e-3;
    struct facts f;
    make_facts(g, &f);
    for (uint32_t layer = 0; layer < g->model->arch.n_layers; layer++) {
        size_t t = down_of(g, layer), n = g->model->tensors[t].n_elements, counted = 0;
        float *grad = floats(n), *was = floats(n);
        whole_gradient(g, &f, layer, grad);
        view_tensor_copy(g->view, t, was);
        struct editor *ed = trained(g, g->view, &f, layer, lr, 1);
        const struct delta *d = method_locft.outcome(ed)->delta;
        assert_int_equal(d->n_parts, 1);
        assert_int_equal(d->parts[0].tensor, t);
        for (size_t i = 0; i < n; i++) {
            if (fabsf(grad[i]) < 1e-4f) continue;
            double want = grad[i] > 0 ? -lr : lr;
            if (!(fabs((double)d->parts[0].a[i] - want) <= 1e-6 + 1e-7 * fabs((double)was[i])))
                fail_msg("%s: layer %u element %zu moved by %.7f, %.7f expected", g->model->path, layer, i, (double)d->parts[0].a[i], want);
            counted++;
        }
        assert_true(counted > n / 8);
        method_locft.free(ed);
        mem_drop(grad), mem_drop(was);
    }
}

static void test_first_step(void **state)
{
    (void)state;
    families_each(false, check_first_step);
}

/* What an edit may touch, and what is rebuilt: base (widened) plus delta, element by element in float32. */
static void check_rebuilt(const struct golden *g, struct view *parent, struct view *v, const struct delta *d, const struct base_digests *base)
{
    struct err e = {0};
    const struct delta_part *p = &d->parts[0];
    size_t n = g->model->tensors[p->tensor].n_elements;
    float *was = floats(n), *is = floats(n);
    view_tensor_copy(parent, p->tensor, was);
    view_tensor_copy(v, p->tensor, is);
    assert_int_equal(view_tensor_type(v, p->tensor), DTYPE_F32);
    for (size_t i = 0; i < n; i++) {
        volatile float sum = was[i] + p->a[i];
        assert_true(is[i] == sum);
    }
    for (size_t t = 0; t < g->model->n_tensors; t++) {
        uint8_t now[SHA256_BYTES], then[SHA256_BYTES];
        digest_tensor(v, t, now), digest_tensor(parent, t, then);
        assert_true((memcmp(now, then, sizeof now) == 0) == (t != p->tensor));
        if (t != p->tensor) assert_int_equal(view_tensor_type(v, t), view_tensor_type(parent, t));
    }
    char one[DIGEST_TEXT], two[DIGEST_TEXT];
    struct view *again = view_with_delta(parent, d, &e);
    must(again, e);
    digest_view(v, base, one), digest_view(again, base, two);
    assert_string_equal(one, two);
    digest_view(parent, base, two);
    assert_string_not_equal(one, two);
    view_drop(again);
    mem_drop(was), mem_drop(is);
}

/* Two edits, one on the other, in the layer that is chosen by itself and in the first. */
static void check_training(struct golden *g)
{
    struct err e = {0};
    struct facts f;
    struct base_digests base;
    char digest[DIGEST_TEXT];
    make_facts(g, &f);
    must(base_digests_init(&base, g->model, NULL, &e), e);
    struct view *v = view_retain(g->view);
    for (int edit = 0; edit < 2; edit++) {
        struct editor *ed = trained(g, v, &f, edit ? 0 : (double)NAN, 0.02, 40);
        const struct edit_outcome *o = method_locft.outcome(ed);
        double layer = o->resolved.value[method_param(&method_locft, "layer")], before = plain_loss(g, v, &f);
        assert_true(edit ? layer == 0 : layer == g->model->arch.n_layers * 25 / 30 || layer == g->model->arch.n_layers - 1);
        assert_int_equal(o->delta->parts[0].tensor, down_of(g, (uint32_t)layer));
        struct view *next = view_with_delta(v, o->delta, &e);
        must(next, e);
        double after = plain_loss(g, next, &f);
        if (!(after < 0.9 * before || after < 0.02)) /* post-norms and soft-caps leave a matrix only so much to say */
            fail_msg("%s: the loss went from %.4f to %.4f (the editor's last: %.4f)", g->model->path, before, after, o->final_loss);
        check_rebuilt(g, v, next, o->delta, &base);
        method_locft.free(ed);
        view_drop(v);
        v = next;
    }
    for (size_t t = 0; t < g->model->n_tensors; t++) assert_int_equal(view_tensor_type(g->view, t), g->model->tensors[t].stored);
    digest_view(g->view, &base, digest); /* the base is what it was */
    assert_string_equal(digest, base.base);
    base_digests_release(&base);
    view_drop(v);
}

static void test_training(void **state)
{
    (void)state;
    families_each(false, check_training);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradient),
        cmocka_unit_test(test_first_step),
        cmocka_unit_test(test_training),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
