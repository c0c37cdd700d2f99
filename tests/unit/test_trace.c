/* Trace: reads, and writes from values, zero, another prompt and another view, against float64 runs
 * in which the same values are put in place. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "probes/trace.h"
#include "support/golden.h"
#include "support/numbers.h"
#include "support/reference.h"

#define CLOSE 2e-5

static const uint32_t all9[] = {0, 1, 2, 3, 4, 5, 6, 7, 8};

static struct trace *trace(const struct golden *g, const struct trace_input *in, size_t n_in, const struct trace_place *read,
                           size_t n_read, const struct trace_write *write, size_t n_write)
{
    struct err e = {0};
    struct trace *t = trace_new(g->view, in, n_in, read, n_read, write, n_write, &e);
    must(t && STEP_ALL(trace_step(t, g->session, &e)), e);
    return t;
}

static void equals_golden(const struct golden *g, const char *name, const float *got, size_t n)
{
    size_t want_n;
    float *want = golden_tensor(g, name, &want_n);
    assert_non_null(want);
    assert_int_equal(n, want_n);
    assert_true(relative_error(got, want, n) <= CLOSE);
    mem_drop(want);
}

/* Several prompts, sites of every axis, some positions and heads, and the logits asked for. */
static void test_reads(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    static const uint32_t pos[] = {1, 4}, head[] = {0, 3}, last[] = {4};
    const struct trace_input in[] = {{g.ids[0], g.n[0], all9, g.n[0]}, {g.ids[1], g.n[1], last, 1}};
    const struct trace_place read[] = {
        {0, {HOOK_RESID_MID, 1}, all9, 9, NULL, 0}, {1, {HOOK_V, 2}, all9, 5, NULL, 0}, {0, {HOOK_PATTERN, 0}, all9, 9, NULL, 0},
        {1, {HOOK_Z, 0}, pos, 2, head, 2}, {1, {HOOK_Z, 0}, all9, 5, NULL, 0}, {0, {HOOK_PATTERN, 0}, pos, 2, head, 2}};
    struct trace *t = trace(&g, in, 2, read, 6, NULL, 0);
    size_t n;
    const float *v = trace_values(t, 0, &n), *z, *some;
    equals_golden(&g, "s0.blocks.1.hook_resid_mid", v, n);
    v = trace_values(t, 1, &n);
    equals_golden(&g, "s1.blocks.2.attn.hook_v", v, n);
    v = trace_values(t, 2, &n);
    equals_golden(&g, "s0.blocks.0.attn.hook_pattern", v, n);
    some = trace_values(t, 5, &n);
    assert_int_equal(n, 2 * 2 * 9); /* [head][pos][source] */
    for (size_t h = 0; h < 2; h++)
        for (size_t p = 0; p < 2; p++) assert_memory_equal(some + (h * 2 + p) * 9, v + (head[h] * 9 + pos[p]) * 9, 9 * sizeof *v);
    some = trace_values(t, 3, &n);
    assert_int_equal(n, 2 * 2 * 8); /* [pos][head][width] */
    z = trace_values(t, 4, &n);
    for (size_t p = 0; p < 2; p++)
        for (size_t h = 0; h < 2; h++) assert_memory_equal(some + (p * 2 + h) * 8, z + (pos[p] * 4 + head[h]) * 8, 8 * sizeof *z);
    equals_golden(&g, "s0.logits", trace_logits(t, 0), 9 * 300);
    size_t logits_n, done, total;
    float *logits = golden_tensor(&g, "s1.logits", &logits_n);
    assert_true(relative_error(trace_logits(t, 1), logits + 4 * 300, 300) <= CLOSE);
    trace_progress(t, &done, &total);
    assert_true(done == total && total == (9 + 5) * 3);
    mem_drop(logits);
    trace_free(t);
    golden_close(&g);
}

/* Positions that somebody reads or writes at the unembedding come there, whether their logits are asked for
 * or not; and so do those of a source. */
static void test_rows_of_the_head(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    static const uint32_t pos[] = {1, 4}, at[] = {6}, last[] = {8};
    const struct site out = {HOOK_UNEMBED_OUT, 0}, in = {HOOK_UNEMBED_IN, 0};
    const struct trace_input inputs[] = {{g.ids[0], 9, last, 1}, {g.ids[1], 5, all9, 5}};
    const struct trace_place read[] = {{0, out, pos, 2, NULL, 0}, {0, out, at, 1, NULL, 0}, {1, out, pos, 1, NULL, 0}};
    const struct trace_write w = {.at = {0, in, at, 1, NULL, 0}, .op = TAP_SET, .weight = 1, .from = FROM_RUN, .source = {1, in, pos, 1, NULL, 0}};
    struct trace *t = trace(&g, inputs, 2, read, 3, &w, 1);
    size_t n, V = 300;
    float *want = golden_tensor(&g, "s0.logits", &n), *other = golden_tensor(&g, "s1.logits", &n);
    const float *got = trace_values(t, 0, &n);
    assert_int_equal(n, 2 * V);
    assert_true(relative_error(got, want + V, V) <= CLOSE && relative_error(got + V, want + 4 * V, V) <= CLOSE);
    got = trace_values(t, 1, &n);
    assert_true(relative_error(got, other + V, V) <= CLOSE && relative_error(want + 6 * V, other + V, V) > 0.1);
    assert_true(relative_error(trace_values(t, 2, &n), other + V, V) <= CLOSE);
    assert_true(relative_error(trace_logits(t, 0), want + 8 * V, V) <= CLOSE && relative_error(trace_logits(t, 1), other, 5 * V) <= CLOSE);
    mem_drop(want);
    mem_drop(other);
    trace_free(t);
    golden_close(&g);
}

/* One write in float64: rows `to` of a hook become (or get added) w times rows of `from`. */
struct replay {
    struct site site;
    const double *from; /* [n_pos or 1][width], NULL: zeros */
    const uint32_t *pos;
    size_t n_pos, n_from, width;
    enum tap_op op;
    double w, *capture;
};

static void replay_hook(void *ctx, enum hook h, uint32_t layer, double *x, size_t n)
{
    struct replay *k = ctx;
    if (h != k->site.hook || layer != k->site.layer) return;
    if (k->capture) memcpy(k->capture, x, n * sizeof *x);
    for (size_t p = 0; p < k->n_pos; p++)
        for (size_t i = 0; i < k->width; i++) {
            double *v = &x[k->pos[p] * k->width + i], src = k->from ? k->from[(k->n_from == 1 ? 0 : p) * k->width + i] : 0;
            *v = k->op == TAP_SET ? (1 - k->w) * *v + k->w * src : k->op == TAP_ADD ? *v + k->w * src : k->w * *v;
        }
}

static void check(const struct golden *g, struct trace *t, struct replay *k, struct view *v)
{
    struct reference *r = reference_new(v);
    double *want = zero_doubles(9 * 300);
    size_t elements;
    float change;
    r->hook = replay_hook;
    r->ctx = k;
    reference_run(r, g->ids[0], 9, NULL, want);
    check_close("logits", trace_logits(t, 0), want, 9 * 300, CLOSE, 0);
    trace_written(t, 0, &elements, &change);
    assert_int_equal(elements, k->n_pos * k->width);
    assert_true(change > 0);
    reference_free(r);
    free(want);
    trace_free(t);
}

static void test_writes(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    static const uint32_t pos[] = {2, 5, 6}, from_pos[] = {0, 3, 4}, one[] = {4};
    struct err e = {0};
    uint64_t seed = 1;
    size_t tensor, d = 32;
    const struct trace_input in[] = {{g.ids[0], 9, all9, 9}, {g.ids[1], 5, NULL, 0}};
    const struct site site = {HOOK_RESID_MID, 1}, other = {HOOK_ATTN_OUT, 0};
    float *values = random_floats(&seed, 3 * d, 1);
    double *wide = zero_doubles(3 * d), *seen = zero_doubles(5 * d), *rows = zero_doubles(3 * d), *logits = zero_doubles(5 * 300);
    for (size_t i = 0; i < 3 * d; i++) wide[i] = (double)values[i];
    assert_true(model_role(g.model, ROLE_V, 0, &tensor));
    float *change = random_floats(&seed, g.model->tensors[tensor].n_elements, 0.3);
    struct delta *delta = delta_new_dense(g.model, tensor, change, &e);
    must(delta, e);
    struct view *edited = view_with_delta(g.view, delta, &e);
    must(edited, e);

    struct replay k = {.site = site, .from = wide, .pos = pos, .n_pos = 3, .n_from = 3, .width = d, .op = TAP_SET, .w = 1};
    struct trace_write w = {.at = {0, site, pos, 3, NULL, 0}, .op = TAP_SET, .weight = 1, .from = FROM_VALUES, .values = values, .n_value_pos = 3};
    check(&g, trace(&g, in, 2, NULL, 0, &w, 1), &k, g.view);
    w.op = k.op = TAP_ADD, w.weight = -0.5f, k.w = -0.5, w.n_value_pos = k.n_from = 1; /* one vector everywhere */
    check(&g, trace(&g, in, 2, NULL, 0, &w, 1), &k, g.view);
    w.op = k.op = TAP_SET, w.from = FROM_ZERO, k.from = NULL, w.weight = 1, k.w = 1;
    check(&g, trace(&g, in, 2, NULL, 0, &w, 1), &k, g.view);
    w.op = k.op = TAP_SCALE, w.weight = 2, k.w = 2;
    check(&g, trace(&g, in, 2, NULL, 0, &w, 1), &k, g.view);

    /* from another prompt, site and positions; then of another view; then one position for all */
    w = (struct trace_write){.at = {0, site, pos, 3, NULL, 0}, .op = TAP_SET, .weight = 0.75f, .from = FROM_RUN, .source = {1, other, from_pos, 3, NULL, 0}};
    for (int how = 0; how < 3; how++) {
        struct view *source = how ? edited : g.view;
        struct reference *r = reference_new(source);
        struct replay look = {.site = other, .capture = seen};
        r->hook = replay_hook;
        r->ctx = &look;
        reference_run(r, g.ids[1], 5, NULL, logits);
        reference_free(r);
        w.source_view = how ? edited : NULL;
        if (how == 2) w.source.pos = one, w.source.n_pos = 1;
        for (size_t p = 0; p < w.source.n_pos; p++) memcpy(rows + p * d, seen + w.source.pos[p] * d, d * sizeof *seen);
        k = (struct replay){.site = site, .from = rows, .pos = pos, .n_pos = 3, .n_from = w.source.n_pos, .width = d, .op = TAP_SET, .w = 0.75};
        check(&g, trace(&g, in, 2, NULL, 0, &w, 1), &k, g.view);
    }
    view_drop(edited);
    delta_free(delta);
    free(values), free(wide), free(seen), free(rows), free(logits), free(change);
    golden_close(&g);
}

/* Sources are runs without any write: two prompts may take from each other at once. */
static void test_prompts_exchange(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    uint32_t n = g.n[1], L = g.model->arch.n_layers;
    size_t V = g.model->arch.d_vocab;
    uint32_t other[9];
    for (uint32_t i = 0; i < n; i++) other[i] = g.ids[0][i];
    const struct trace_input in[] = {{g.ids[1], n, all9, n}, {other, n, all9, n}};
    for (uint32_t l = 0; l < L; l++) {
        const struct site site = {HOOK_RESID_PRE, l};
        struct trace_write w[2];
        for (uint32_t s = 0; s < 2; s++)
            w[s] = (struct trace_write){.at = {s, site, all9, n, NULL, 0}, .op = TAP_SET, .weight = 1, .from = FROM_RUN, .source = {1 - s, site, all9, n, NULL, 0}};
        const struct trace_place read[] = {{0, site, all9, n, NULL, 0}, {1, site, all9, n, NULL, 0}};
        struct trace *plain = trace(&g, in, 2, read, 2, NULL, 0), *swapped = trace(&g, in, 2, read, 2, w, 2);
        for (size_t s = 0; s < 2; s++) {
            size_t values;
            const float *now = trace_values(swapped, s, &values), *was = trace_values(plain, 1 - s, &values);
            assert_true(relative_error(now, was, values) <= 1e-6); /* a read sees what was written */
            assert_true(relative_error(trace_logits(swapped, s), trace_logits(plain, 1 - s), n * V) <= CLOSE);
        }
        assert_true(relative_error(trace_logits(plain, 0), trace_logits(plain, 1), n * V) > 0.1);
        trace_free(plain);
        trace_free(swapped);
    }
    golden_close(&g);
}

static void test_nothing_written(void **state)
{
    (void)state;
    struct err e = {0};
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    const struct trace_input in = {g.ids[0], g.n[0], NULL, 0};
    const struct trace_write w = {.at = {0, {HOOK_RESID_PRE, 0}, NULL, 0, NULL, 0}, .op = TAP_SCALE, .weight = 2, .from = FROM_ZERO};
    struct trace *t = trace_new(g.view, &in, 1, NULL, 0, &w, 1, &e);
    must(t, e);
    assert_false(STEP_ALL(trace_step(t, g.session, &e)));
    assert_int_equal(e.code, ERR_INVALID);
    trace_free(t);
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads),
        cmocka_unit_test(test_rows_of_the_head),
        cmocka_unit_test(test_writes),
        cmocka_unit_test(test_prompts_exchange),
        cmocka_unit_test(test_nothing_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
