/* LocFT-BF (arXiv 2509.22072): the acceptance tests drawn from the paper and its released trainer.
 * Losses and gradients are held against the float64 model; the trainer with its kept prefix against
 * one that runs the whole model, forward and backward, at every step. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/decode.h"
#include "core/head.h"
#include "core/train.h"
#include "edits/methods.h"
#include "support/golden.h"
#include "support/numbers.h"
#include "support/reference.h"

enum { END = 2, PROMPT = 4, TARGET = 3, FACTS = 10, LAYER = 1 };

/* Random facts: a prompt of four ids, a target of two and the end token. */
static uint32_t fact_ids[FACTS][PROMPT + TARGET];

static void make_facts(struct example *x)
{
    uint64_t seed = 90;
    for (int i = 0; i < FACTS; i++) {
        for (int k = 0; k < PROMPT + TARGET - 1; k++) fact_ids[i][k] = 3 + below(&seed, 290);
        fact_ids[i][PROMPT + TARGET - 1] = END;
        x[i] = (struct example){fact_ids[i], PROMPT + TARGET, PROMPT};
    }
}

static void set(struct edit_params *p, const char *name, double value)
{
    size_t i = method_param(&method_locft, name);
    assert_true(i < method_locft.n_params);
    p->value[i] = value;
}
static double get(const struct edit_params *p, const char *name) { return p->value[method_param(&method_locft, name)]; }

static struct edit_request request(struct view *parent, const struct example *x, size_t n, double lr, double epochs, double batch)
{
    struct edit_request q = {.parent = parent, .example = x, .n = n, .params = method_defaults(&method_locft), .seed = 1};
    set(&q.params, "layer", LAYER);
    set(&q.params, "lr", lr);
    set(&q.params, "epochs", epochs);
    set(&q.params, "batch", batch);
    return q;
}

static struct editor *train(const struct golden *g, const struct edit_request *q)
{
    struct err e = {0};
    struct editor *ed = method_locft.new(q, &e);
    must(ed && STEP_ALL(method_locft.step(ed, g->session, &e)), e);
    assert_non_null(method_locft.outcome(ed)->delta);
    return ed;
}
static const struct edit_outcome *outcome(const struct editor *ed) { return method_locft.outcome(ed); }

static struct view *edited(struct view *parent, const struct editor *ed)
{
    struct err e = {0};
    struct view *v = view_with_delta(parent, outcome(ed)->delta, &e);
    must(v, e);
    return v;
}

static size_t down_of(const struct golden *g, uint32_t layer)
{
    size_t t;
    assert_true(model_role(g->model, ROLE_DOWN, layer, &t));
    return t;
}

/* −log p of each target token, by the reference. */
static void token_losses(const struct reference *r, const struct example *x, double *loss)
{
    uint32_t V = r->model->arch.d_vocab;
    double *logits = zero_doubles((size_t)x->n * V);
    reference_run(r, x->ids, x->n, NULL, logits);
    for (uint32_t t = x->n_prompt; t < x->n; t++) loss[t - x->n_prompt] = reference_nll(logits + (size_t)(t - 1) * V, V, x->ids[t]);
    free(logits);
}

static double sample_loss(const struct reference *r, const struct example *x)
{
    double loss[16], sum = 0;
    token_losses(r, x, loss);
    for (uint32_t i = 0; i < x->n - x->n_prompt; i++) sum += loss[i];
    return sum / (x->n - x->n_prompt);
}

static void near(const char *what, double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance)) fail_msg("%s is %.9g, %.9g expected", what, got, want);
}

/* ---- the loss ---------------------------------------------------------------------------------- */

/* LB-1. Five prompt tokens, two of target and the end: three scored, from logits 4, 5 and 6. */
static void test_scored_positions(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    static const uint32_t ids[] = {50, 60, 70, 80, 90, 100, 110, END};
    const struct example x = {ids, 8, 5};
    struct reference *r = reference_new(g.view);
    double *logits = zero_doubles(8 * 300), want = 0;
    reference_run(r, ids, 8, NULL, logits);
    for (int row = 4; row <= 6; row++) want += reference_nll(logits + row * 300, 300, ids[row + 1]) / 3;
    struct edit_request q = request(g.view, &x, 1, 1e-7, 1, 1);
    struct editor *ed = train(&g, &q);
    near("loss", outcome(ed)->final_loss, want, 1e-5);
    assert_int_equal(outcome(ed)->epochs, 1);
    assert_int_equal(outcome(ed)->updates, 1);
    method_locft.free(ed);
    free(logits);
    reference_free(r);
    golden_close(&g);
}

/* LB-2. Losses {a} and {b, c, d}: (a + (b + c + d)/3)/2. */
static void test_mean_per_sample(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    static const uint32_t one[] = {50, 60, 70, 80}, three[] = {51, 61, 71, 81, END};
    const struct example x[] = {{one, 4, 3}, {three, 5, 2}};
    double a[1], b[3];
    struct reference *r = reference_new(g.view);
    token_losses(r, &x[0], a);
    token_losses(r, &x[1], b);
    double want = (a[0] + (b[0] + b[1] + b[2]) / 3) / 2, wrong = (a[0] + b[0] + b[1] + b[2]) / 4;
    assert_true(fabs(want - wrong) > 0.05); /* or the test says nothing */
    struct edit_request q = request(g.view, x, 2, 1e-7, 1, 2);
    struct editor *ed = train(&g, &q);
    near("loss", outcome(ed)->final_loss, want, 1e-5);
    method_locft.free(ed);
    reference_free(r);
    golden_close(&g);
}

/* LB-3. A sample has one loss, alone or among others of other lengths. */
static void test_loss_does_not_depend_on_neighbours(void **state)
{
    (void)state;
    struct err e = {0};
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    static const uint32_t ids[] = {9, 20, 31, 42, 53, 64, 75, 86, 97}, scored[3][2] = {{1, 2}, {3, 4}, {6, 7}}, n[3] = {4, 6, 9};
    struct tape_seq seq[3];
    double loss, together[3], alone;
    for (int i = 0; i < 3; i++) seq[i] = (struct tape_seq){.n = n[i], .scored = scored[i], .target = ids + 1 + scored[i][0], .n_scored = 2};
    struct tape *t = tape_new(&g.model->arch, seq, 3, 0, false, &e);
    must(t, e);
    assert_int_equal(tape_rows(t), 19);
    size_t d = g.model->arch.d_model;
    for (size_t i = 0, at = 0; i < 3; at += n[i++]) must(embed(g.session, g.view, ids, n[i], 0, NULL, 0, tape_input(t) + at * d, &e), e);
    must(STEP_ALL(tape_forward(t, g.view, g.session, &e)) && tape_loss(t, g.view, g.session, NULL, &loss, together, &e), e);
    tape_free(t);
    near("mean", loss, (together[0] + together[1] + together[2]) / 3, 1e-12);
    for (int i = 0; i < 3; i++) {
        t = tape_new(&g.model->arch, &seq[i], 1, 0, false, &e);
        must(t, e);
        must(embed(g.session, g.view, ids, n[i], 0, NULL, 0, tape_input(t), &e), e);
        must(STEP_ALL(tape_forward(t, g.view, g.session, &e)) && tape_loss(t, g.view, g.session, NULL, &alone, NULL, &e), e);
        near("alone", alone, together[i], 1e-5);
        tape_free(t);
    }
    golden_close(&g);
}

/* ---- the gradient ------------------------------------------------------------------------------ */

struct weight_case {
    struct reference *r;
    const struct example *x;
    size_t n;
};

static double mean_loss(void *ctx)
{
    struct weight_case *k = ctx;
    double sum = 0;
    for (size_t i = 0; i < k->n; i++) sum += sample_loss(k->r, &k->x[i]);
    return sum / (double)k->n;
}

/* The gradient as the editor gets it: rows kept from below, the trained matrix put in their place. */
static float *kept_gradient(const struct golden *g, const struct example *x, size_t n, uint32_t layer)
{
    struct err e = {0};
    const struct arch *a = &g->model->arch;
    struct tape_seq seq[FACTS];
    uint32_t scored[FACTS][TARGET];
    struct run_input in[FACTS];
    struct tap tap[2 * FACTS];
    struct taps taps = {tap, 0};
    for (size_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < TARGET; k++) scored[i][k] = PROMPT - 1 + k;
        seq[i] = (struct tape_seq){.n = x[i].n, .scored = scored[i], .target = x[i].ids + PROMPT, .n_scored = TARGET};
        in[i] = (struct run_input){.ids = x[i].ids, .n = x[i].n, .seq = (uint32_t)i};
    }
    struct tape *t = tape_new(a, seq, n, layer, true, &e);
    must(t, e);
    size_t rows = tape_rows(t), weights = (size_t)a->d_model * a->d_mlp, at = 0;
    float *post = malloc(rows * a->d_mlp * sizeof *post), *grad = calloc(weights, sizeof *grad);
    for (size_t i = 0; i < n; at += x[i++].n) {
        tap[taps.n++] = (struct tap){.site = {HOOK_RESID_MID, layer}, .op = TAP_READ, .seq = (uint32_t)i, .every_pos = true, .dst = tape_input(t) + at * a->d_model};
        tap[taps.n++] = (struct tap){.site = {HOOK_MLP_POST, layer}, .op = TAP_READ, .seq = (uint32_t)i, .every_pos = true, .dst = post + at * a->d_mlp};
    }
    struct run *r = run_new(g->view, in, n, &taps, &e);
    must(r && STEP_ALL(run_step(r, g->session, &e)), e);
    run_free(r);
    struct weight_grads grads[8] = {{.of = {[GROUP_DOWN] = grad}}};
    double loss;
    float *down = malloc(weights * sizeof *down);
    view_tensor_copy(g->view, down_of(g, layer), down);
    tape_train_down(t, down, post);
    must(STEP_ALL(tape_forward(t, g->view, g->session, &e)) && tape_loss(t, g->view, g->session, NULL, &loss, NULL, &e) &&
         STEP_ALL(tape_backward(t, g->view, g->session, grads, NULL, &e)), e);
    tape_free(t);
    free(down);
    free(post);
    return grad;
}

/* LB-7. Twenty entries against differences of the float64 model's loss. */
static void test_finite_differences(void **state)
{
    (void)state;
    static const struct { const char *model; uint32_t layer; } rows[] = {{"gqa_tied", 0}, {"gqa_tied", 1}, {"gqa_tied", 2}, {"gqa_untied_odd", 0}, {"wide_head", 1}};
    struct example x[FACTS];
    uint64_t seed = 91;
    make_facts(x);
    for (size_t m = 0; m < sizeof rows / sizeof *rows; m++) {
        struct golden g;
        golden_open(&g, rows[m].model, NULL);
        size_t t = down_of(&g, rows[m].layer), n = g.model->tensors[t].n_elements;
        float *grad = kept_gradient(&g, x, 3, rows[m].layer);
        struct weight_case k = {reference_new(g.view), x, 3};
        for (int i = 0; i < 20; i++) {
            size_t at = below(&seed, (uint32_t)n);
            double want = slope(mean_loss, &k, &k.r->weight[t][at], 1e-5);
            near("gradient", (double)grad[at], want, 1e-3 * fabs(want) + 1e-6);
        }
        free(grad);
        reference_free(k.r);
        golden_close(&g);
    }
}

/* LB-8. The first step of Adam: every weight with a gradient moves by lr against its sign. */
static void test_first_step(void **state)
{
    (void)state;
    struct golden g;
    struct example x[FACTS];
    golden_open(&g, "gqa_tied", NULL);
    make_facts(x);
    const double lr = 1e-3;
    struct edit_request q = request(g.view, x, 3, lr, 1, 3);
    struct editor *ed = train(&g, &q);
    float *grad = kept_gradient(&g, x, 3, LAYER), *moved = outcome(ed)->delta->parts[0].a;
    for (size_t i = 0; i < g.model->tensors[down_of(&g, LAYER)].n_elements; i++) {
        if (fabsf(grad[i]) < 1e-6f) continue;
        double size = fabs((double)grad[i]), want = (grad[i] > 0 ? -1 : 1) * lr * size / (size + 1e-8);
        near("step", (double)moved[i], want, 1e-3 * lr);
    }
    free(grad);
    method_locft.free(ed);
    golden_close(&g);
}

/* ---- the trainer ------------------------------------------------------------------------------- */

/* LB-6. The whole model run forward and backward at every step, Adam in float64, all facts in one
 * batch; losses[e] is the loss of epoch e before its step. */
static double *train_in_full(const struct golden *g, const struct example *x, size_t n, double lr, int epochs, double *losses)
{
    struct err e = {0};
    const struct arch *a = &g->model->arch;
    size_t t = down_of(g, LAYER), weights = g->model->tensors[t].n_elements, d = a->d_model;
    double *w = zero_doubles(weights), *m = zero_doubles(weights), *v = zero_doubles(weights);
    float *now = malloc(weights * sizeof *now), *grad = malloc(weights * sizeof *grad);
    struct tape_seq seq[FACTS];
    uint32_t scored[FACTS][TARGET];
    for (size_t i = 0; i < weights; i++) w[i] = (double)held_floats(g->view, t)[i];
    for (size_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < TARGET; k++) scored[i][k] = PROMPT - 1 + k;
        seq[i] = (struct tape_seq){.n = x[i].n, .scored = scored[i], .target = x[i].ids + PROMPT, .n_scored = TARGET};
    }
    for (int epoch = 0; epoch < epochs; epoch++) {
        struct tape *tape = tape_new(a, seq, n, 0, false, &e);
        must(tape, e);
        for (size_t i = 0; i < weights; i++) now[i] = (float)w[i];
        const float *data = now;
        struct view *view = view_with_tensors(g->view, &t, &data, 1, &e);
        must(view, e);
        for (size_t i = 0, at = 0; i < n; at += x[i++].n) must(embed(g->session, view, x[i].ids, x[i].n, 0, NULL, 0, tape_input(tape) + at * d, &e), e);
        struct weight_grads grads[8] = {{{0}}};
        grads[LAYER].of[GROUP_DOWN] = memset(grad, 0, weights * sizeof *grad);
        must(STEP_ALL(tape_forward(tape, view, g->session, &e)) && tape_loss(tape, view, g->session, NULL, &losses[epoch], NULL, &e) &&
             STEP_ALL(tape_backward(tape, view, g->session, grads, NULL, &e)), e);
        for (size_t i = 0; i < weights; i++) {
            double gi = (double)grad[i];
            m[i] = 0.9 * m[i] + 0.1 * gi;
            v[i] = 0.999 * v[i] + 0.001 * gi * gi;
            w[i] -= lr * (m[i] / (1 - pow(0.9, epoch + 1))) / (sqrt(v[i] / (1 - pow(0.999, epoch + 1))) + 1e-8);
        }
        tape_free(tape);
        view_drop(view);
    }
    free(m), free(v), free(now), free(grad);
    return w;
}

static void test_kept_prefix_is_the_full_run(void **state)
{
    (void)state;
    enum { EPOCHS = 6, N = 5 };
    struct golden g;
    struct example x[FACTS];
    double losses[EPOCHS];
    golden_open(&g, "gqa_tied", NULL);
    make_facts(x);
    double *want = train_in_full(&g, x, N, 5e-3, EPOCHS, losses), off = 0, size = 0, moved = 0;
    for (int epochs = 1; epochs <= EPOCHS; epochs++) {
        struct edit_request q = request(g.view, x, N, 5e-3, epochs, N);
        struct editor *ed = train(&g, &q);
        near("loss curve", outcome(ed)->final_loss, losses[epochs - 1], 1e-5 * losses[epochs - 1]);
        if (epochs == EPOCHS) {
            struct view *v = edited(g.view, ed);
            size_t t = down_of(&g, LAYER);
            for (size_t i = 0; i < g.model->tensors[t].n_elements; i++) {
                double was = (double)held_floats(g.view, t)[i];
                off += pow((double)held_floats(v, t)[i] - want[i], 2);
                size += want[i] * want[i];
                moved += pow(want[i] - was, 2);
            }
            view_drop(v);
        }
        method_locft.free(ed);
    }
    near("final weights", sqrt(off / size), 0, 1e-4);
    near("final change", sqrt(off / moved), 0, 1e-3);
    assert_true(losses[EPOCHS - 1] < losses[0] - 0.3);
    free(want);
    golden_close(&g);
}

/* LB-4. One part, one tensor; every other of the edited view is the parent's own memory or bytes. */
static void test_only_the_target_moves(void **state)
{
    (void)state;
    struct golden g;
    struct example x[FACTS];
    golden_open(&g, "gqa_tied", NULL);
    make_facts(x);
    for (uint32_t layer = 0; layer < 3; layer++) {
        struct edit_request q = request(g.view, x, FACTS, 5e-3, 3, 4);
        set(&q.params, "layer", layer);
        struct editor *ed = train(&g, &q);
        struct view *v = edited(g.view, ed);
        assert_int_equal(outcome(ed)->delta->n_parts, 1);
        assert_int_equal(outcome(ed)->delta->parts[0].kind, DELTA_DENSE);
        assert_int_equal(outcome(ed)->epochs, 3);
        assert_int_equal(outcome(ed)->updates, 9); /* 4 + 4 + 2 facts */
        for (size_t t = 0; t < g.model->n_tensors; t++) {
            bool target = t == down_of(&g, layer);
            assert_int_equal(view_changes(v, t), target);
            assert_int_equal(memcmp(held_floats(v, t), held_floats(g.view, t), g.model->tensors[t].n_elements * sizeof(float)) != 0, target);
        }
        view_drop(v);
        method_locft.free(ed);
    }
    golden_close(&g);
}

static bool is_zero(const struct edit_outcome *o, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (o->delta->parts[0].a[i] != 0) return false;
    return true;
}

/* LB-5. A batch under the floor is left alone, moments and step count included, and still counts
 * in the epoch's mean, which ends training. */
static void test_loss_floor(void **state)
{
    (void)state;
    struct golden g;
    struct example x[FACTS];
    golden_open(&g, "gqa_tied", NULL);
    make_facts(x);
    struct reference *r = reference_new(g.view);
    double loss[FACTS];
    int low = 0, high = 0;
    for (int i = 0; i < FACTS; i++) {
        loss[i] = sample_loss(r, &x[i]);
        if (loss[i] < loss[low]) low = i;
        if (loss[i] > loss[high]) high = i;
    }
    size_t n = g.model->tensors[down_of(&g, LAYER)].n_elements;

    struct edit_request q = request(g.view, &x[low], 1, 5e-3, 5, 1);
    set(&q.params, "loss_floor", loss[low] + 0.01); /* all is well already */
    struct editor *ed = train(&g, &q);
    assert_int_equal(outcome(ed)->updates, 0);
    assert_int_equal(outcome(ed)->epochs, 1);
    assert_true(is_zero(outcome(ed), n));
    near("loss", outcome(ed)->final_loss, loss[low], 1e-5);
    method_locft.free(ed);

    set(&q.params, "loss_floor", loss[low] - 0.01); /* not quite */
    ed = train(&g, &q);
    assert_true(outcome(ed)->updates > 0 && !is_zero(outcome(ed), n));
    method_locft.free(ed);

    const struct example two[] = {x[low], x[high]}; /* one under, one over, in batches of one */
    q = request(g.view, two, 2, 1e-5, 1, 1);
    set(&q.params, "loss_floor", (loss[low] + loss[high]) / 2);
    struct edit_request one = q;
    one.example = &x[high], one.n = 1;
    struct editor *alone = train(&g, &one);
    for (q.seed = 0; q.seed < 8; q.seed++) { /* in either order */
        ed = train(&g, &q);
        assert_int_equal(outcome(ed)->updates, 1);
        /* steps of 1e-5; a product's last bits depend on how many rows it has, so the prefix's do */
        assert_true(farthest(outcome(ed)->delta->parts[0].a, outcome(alone)->delta->parts[0].a, n) < 1e-6);
        near("mean with the one left alone", outcome(ed)->final_loss, (loss[low] + loss[high]) / 2, 2e-3);
        method_locft.free(ed);
    }
    method_locft.free(alone);
    reference_free(r);
    golden_close(&g);
}

/* Training ends at the first epoch whose mean is under the floor, not before, not after. */
static void test_early_stop(void **state)
{
    (void)state;
    struct golden g;
    struct example x[FACTS];
    golden_open(&g, "gqa_tied", NULL);
    make_facts(x);
    double before = HUGE_VAL;
    for (int epochs = 1; epochs <= 40; epochs++) {
        struct edit_request q = request(g.view, x, 2, 2e-2, epochs, 2);
        set(&q.params, "loss_floor", 0.5);
        struct editor *ed = train(&g, &q);
        uint32_t ran = outcome(ed)->epochs;
        double loss = outcome(ed)->final_loss;
        method_locft.free(ed);
        if (ran < (uint32_t)epochs) { /* the limit is no longer what stops it */
            assert_true(loss < 0.5 && before < 0.5 && ran == (uint32_t)epochs - 1);
            golden_close(&g);
            return;
        }
        before = loss;
    }
    fail_msg("never under the floor: %g", before);
}

/* ---- the bytes --------------------------------------------------------------------------------- */

static struct buf bytes_of(const struct golden *g, const struct editor *ed)
{
    struct err e = {0};
    struct buf b = {0};
    must(delta_write(outcome(ed)->delta, g->model, &b, &e), e);
    return b;
}

/* One request, one delta: run again, run with brief work of others between its steps, or seeded
 * otherwise. */
static void test_determinism(void **state)
{
    (void)state;
    struct err e = {0};
    struct golden g;
    struct example x[FACTS];
    golden_open(&g, "gqa_tied", NULL);
    make_facts(x);
    struct edit_request q = request(g.view, x, FACTS, 5e-3, 4, 3);
    struct editor *first = train(&g, &q), *again = train(&g, &q), *mixed = method_locft.new(&q, &e);
    must(mixed, e);
    for (enum step step = STEP_MORE; step != STEP_DONE;) {
        step = method_locft.step(mixed, g.session, &e);
        assert_int_not_equal(step, STEP_FAIL);
        struct decode_request d = {.prompt = g.ids[1], .n_prompt = g.n[1], .max_tokens = 2, .sampling = {1, 1, 0}, .seed = 5};
        struct decoder *brief = decoder_new(g.view, &d, 1, NULL, &e);
        must(brief && STEP_ALL(decoder_step(brief, g.session, &e)), e);
        decoder_free(brief);
    }
    q.seed = 2;
    struct editor *other = train(&g, &q);
    struct buf a = bytes_of(&g, first), b = bytes_of(&g, again), c = bytes_of(&g, mixed), d = bytes_of(&g, other);
    assert_true(a.len == b.len && a.len == c.len && a.len == d.len);
    assert_memory_equal(a.data, b.data, a.len);
    assert_memory_equal(a.data, c.data, a.len);
    assert_memory_not_equal(a.data, d.data, a.len);
    buf_release(&a), buf_release(&b), buf_release(&c), buf_release(&d);
    method_locft.free(first), method_locft.free(again), method_locft.free(mixed), method_locft.free(other);
    golden_close(&g);
}

/* LB-13. The parent is never touched: its bytes and its logits before, during and after. */
static void test_parent_is_untouched(void **state)
{
    (void)state;
    struct err e = {0};
    struct golden g;
    struct example x[FACTS];
    golden_open(&g, "gqa_tied", NULL);
    make_facts(x);
    size_t t = down_of(&g, LAYER), bytes = g.model->tensors[t].n_elements * sizeof(float), d = g.model->arch.d_model;
    uint32_t last = PROMPT - 1;
    float *saved = memcpy(malloc(bytes), held_floats(g.view, t), bytes), before[32], after[32];
    assert_int_equal(d, 32);
    for (int round = 0; round < 2; round++) {
        struct run_input in = {.ids = x[0].ids, .n = PROMPT, .want = &last, .n_want = 1};
        struct run *r = run_new(g.view, &in, 1, NULL, &e);
        must(r && STEP_ALL(run_step(r, g.session, &e)), e);
        memcpy(round ? after : before, run_final(r, 0), sizeof before);
        run_free(r);
        if (round) continue;
        struct edit_request q = request(g.view, x, FACTS, 1e-2, 5, 4);
        struct editor *ed = train(&g, &q);
        struct view *v = edited(g.view, ed);
        assert_memory_not_equal(held_floats(v, t), saved, bytes);
        view_drop(v);
        method_locft.free(ed);
    }
    assert_memory_equal(held_floats(g.view, t), saved, bytes);
    assert_memory_equal(before, after, sizeof before);
    free(saved);
    golden_close(&g);
}

/* Thrown away at any moment, nothing leaks (the sanitizer looks on), progress never runs backwards. */
static void test_cancelled_anywhere(void **state)
{
    (void)state;
    struct err e = {0};
    struct golden g;
    struct example x[FACTS];
    golden_open(&g, "gqa_tied", NULL);
    make_facts(x);
    struct edit_request q = request(g.view, x, FACTS, 5e-3, 2, 4);
    for (int stop = 0;; stop++) {
        struct editor *ed = method_locft.new(&q, &e);
        size_t done = 0, now, total;
        enum step step = STEP_MORE;
        must(ed, e);
        for (int i = 0; i < stop && step == STEP_MORE; i++) {
            step = method_locft.step(ed, g.session, &e);
            method_locft.progress(ed, &now, &total);
            assert_true(now >= done && now <= total);
            done = now;
        }
        method_locft.free(ed);
        if (step == STEP_DONE) {
            assert_true(done == total && total == 2 * FACTS && stop > 20);
            break;
        }
    }
    golden_close(&g);
}

/* ---- what it is for ---------------------------------------------------------------------------- */

/* The greedy continuation is the target, ended by the end token. */
static bool says(const struct golden *g, struct view *v, const struct example *x, enum finish *finish)
{
    struct err e = {0};
    struct decode_request q = {.prompt = x->ids, .n_prompt = x->n_prompt, .max_tokens = 8, .sampling = {0, 1, 0}};
    struct decoder *d = decoder_new(v, &q, 1, NULL, &e);
    must(d && STEP_ALL(decoder_step(d, g->session, &e)), e);
    const struct decode_result *r = decoder_result(d, 0);
    uint32_t n = x->n - x->n_prompt;
    bool same = r->ids.n >= n && memcmp(r->ids.id, x->ids + x->n_prompt, n * sizeof *x->ids) == 0;
    *finish = r->finish;
    decoder_free(d);
    return same;
}

/* LB-9. Fact by fact forgets, breadth first does not: five shards of two facts, as many steps. */
static void test_breadth_first_keeps_all(void **state)
{
    (void)state;
    struct golden g;
    struct example x[FACTS];
    enum finish finish;
    golden_open(&g, "gqa_tied", NULL);
    make_facts(x);
    struct edit_request q = request(g.view, x, FACTS, 2e-2, 60, 1);
    struct editor *ed = train(&g, &q);
    struct view *breadth = edited(g.view, ed), *depth = view_retain(g.view);
    size_t steps = outcome(ed)->updates, depth_steps = 0;
    method_locft.free(ed);
    int at_first = 0, at_last = 0, kept = 0;
    for (int f = 0; f < FACTS; f++) {
        q = request(depth, &x[f], 1, 2e-2, 60, 1);
        ed = train(&g, &q);
        struct view *next = edited(depth, ed);
        depth_steps += outcome(ed)->updates;
        method_locft.free(ed);
        view_drop(depth);
        depth = next;
        if (f == 1) at_first = says(&g, depth, &x[0], &finish) + says(&g, depth, &x[1], &finish);
    }
    at_last = says(&g, depth, &x[0], &finish) + says(&g, depth, &x[1], &finish);
    for (int f = 0; f < FACTS; f++) {
        kept += says(&g, breadth, &x[f], &finish);
        assert_false(says(&g, g.view, &x[f], &finish)); /* it could not before */
    }
    if (at_first != 2 || at_last >= at_first || kept != FACTS || depth_steps > steps)
        fail_msg("first shard %d, then %d; breadth first %d of %d; %zu and %zu steps", at_first, at_last, kept, FACTS, depth_steps, steps);
    view_drop(breadth);
    view_drop(depth);
    golden_close(&g);
}

/* LB-14. With the end token scored, edited prompts end by it; without, they run on. */
static void test_end_token(void **state)
{
    (void)state;
    struct golden g;
    struct example x[FACTS];
    golden_open(&g, "gqa_tied", NULL);
    for (int append = 0; append < 2; append++) {
        int ended = 0, said = 0;
        make_facts(x);
        for (int i = 0; i < FACTS; i++) x[i].n -= !append;
        struct edit_request q = request(g.view, x, FACTS, 2e-2, 60, 2);
        struct editor *ed = train(&g, &q);
        struct view *v = edited(g.view, ed);
        for (int i = 0; i < FACTS; i++) {
            enum finish finish;
            said += says(&g, v, &x[i], &finish);
            ended += finish == FINISH_END_TOKEN;
        }
        assert_int_equal(said, FACTS);
        if (append) assert_int_equal(ended, FACTS);
        else assert_in_range(ended, 0, FACTS / 2);
        view_drop(v);
        method_locft.free(ed);
    }
    golden_close(&g);
}

/* ---- parameters -------------------------------------------------------------------------------- */

/* LB-12. The same relative depth, halves rounded up. */
static void test_layer_rule(void **state)
{
    (void)state;
    assert_int_equal(locft_layer(30, 22, 32), 21);
    assert_int_equal(locft_layer(80, 6, 28), 19);
    assert_int_equal(locft_layer(30, 6, 28), 7);
    assert_int_equal(locft_layer(32, 22, 32), 22);
    for (uint32_t L = 1; L < 200; L++) assert_true(locft_layer(L, 22, 32) < L);
}

static void test_parameters(void **state)
{
    (void)state;
    struct err e = {0};
    struct golden g;
    struct example x[FACTS];
    golden_open(&g, "gqa_tied", NULL);
    make_facts(x);
    struct edit_params p = method_defaults(&method_locft);
    assert_true(isnan(get(&p, "layer")) && get(&p, "lr") == 5e-4 && isnan(get(&p, "epochs")) && get(&p, "loss_floor") == 0.01 && get(&p, "append_eos") == 1);
    struct edit_request q = {.parent = g.view, .example = x, .n = 1, .params = p};
    set(&q.params, "epochs", 1);
    struct editor *ed = train(&g, &q);
    const struct edit_params *r = &outcome(ed)->resolved;
    assert_true(get(r, "layer") == locft_layer(3, 24, 30) && get(r, "batch") >= 1 && get(r, "lr") == 5e-4 && get(r, "epochs") == 1);
    assert_int_equal(outcome(ed)->delta->parts[0].tensor, down_of(&g, locft_layer(3, 24, 30)));
    method_locft.free(ed);
    set(&q.params, "layer", 3);
    assert_null(method_locft.new(&q, &e));
    assert_int_equal(e.code, ERR_INVALID);
    assert_string_equal(e.field, "params.layer");
    assert_non_null(strstr(e.text, "0..2"));
    golden_close(&g);
}

/* Every method's table is sound: this is what validates requests. */
static void test_method_table(void **state)
{
    (void)state;
    size_t n = 0;
    for (const struct method *m; (m = method_at(n)); n++) {
        assert_ptr_equal(method_find(m->name), m);
        assert_true(m->summary[0] && m->source[0] && m->n_params <= MAX_PARAMS);
        assert_true(m->new && m->step && m->progress && m->outcome && m->free);
        struct edit_params p = method_defaults(m);
        for (size_t i = 0; i < m->n_params; i++) {
            const struct param *q = &m->params[i];
            assert_true(q->name[0] && q->help[0] && q->least < q->most);
            assert_int_equal(method_param(m, q->name), i);
            assert_true(isnan(q->initial) ? isnan(p.value[i]) : p.value[i] == q->initial && q->initial >= q->least && q->initial <= q->most);
        }
        assert_int_equal(method_param(m, "no such parameter"), m->n_params);
    }
    assert_true(n > 0);
    assert_null(method_at(n + 1));
    assert_null(method_find(""));
    assert_null(method_find("LOCFT"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scored_positions),
        cmocka_unit_test(test_mean_per_sample),
        cmocka_unit_test(test_loss_does_not_depend_on_neighbours),
        cmocka_unit_test(test_finite_differences),
        cmocka_unit_test(test_first_step),
        cmocka_unit_test(test_kept_prefix_is_the_full_run),
        cmocka_unit_test(test_only_the_target_moves),
        cmocka_unit_test(test_loss_floor),
        cmocka_unit_test(test_early_stop),
        cmocka_unit_test(test_determinism),
        cmocka_unit_test(test_parent_is_untouched),
        cmocka_unit_test(test_cancelled_anywhere),
        cmocka_unit_test(test_breadth_first_keeps_all),
        cmocka_unit_test(test_end_token),
        cmocka_unit_test(test_layer_rule),
        cmocka_unit_test(test_parameters),
        cmocka_unit_test(test_method_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
