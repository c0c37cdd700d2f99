/* Patch grids: the sweep against the loop it stands for. The loop is one full float64 run per cell,
 * with the cell's values replaced in the middle of it; metrics are computed here, from its logits.
 * Agreement: 1e-4 in the logits, and so in what is made of them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "support/golden.h"
#include "support/numbers.h"
#include "support/one_pair.h"
#include "support/reference.h"

#define CLOSE 1e-4

enum { MOST_LAYERS = 4 };

/* ---- the loop ---------------------------------------------------------------------------------- */

struct loop {
    struct reference *r;
    const uint32_t *base, *source;
    uint32_t n, pos;
    enum hook site;
    enum patch_axis axis;
    double *value[MOST_LAYERS]; /* the source's at the site */
    uint32_t layer, column;     /* the cell in hand */
    bool patch;
};

static void loop_hook(void *ctx, enum hook h, uint32_t layer, double *x, size_t n_values)
{
    struct loop *k = ctx;
    if (h != k->site) return;
    if (!k->patch) {
        k->value[layer] = memcpy(zero_doubles(n_values), x, n_values * sizeof *x);
        return;
    }
    if (layer != k->layer) return;
    size_t width = n_values / k->n, from = 0, len = width;
    if (k->axis == PATCH_LAYER_HEAD) len = k->r->model->arch.d_head, from = k->column * len;
    for (uint32_t p = 0; p < k->n; p++)
        if (k->axis != PATCH_LAYER_POS || p == k->column)
            memcpy(x + p * width + from, k->value[layer] + p * width + from, len * sizeof *x);
}

/* [V] logits at the metric's position. */
static double *logits_of(struct loop *k, const uint32_t *ids)
{
    uint32_t V = k->r->model->arch.d_vocab;
    double *all = zero_doubles((size_t)k->n * V), *out = zero_doubles(V);
    reference_run(k->r, ids, k->n, NULL, all);
    memcpy(out, all + (size_t)k->pos * V, V * sizeof *out);
    free(all);
    return out;
}

struct answers { /* logits of every run */
    uint32_t L, C;
    double *base, *source, **cell; /* [L·C] */
};

static uint32_t columns_of(const struct arch *a, enum patch_axis axis, uint32_t n)
{
    return axis == PATCH_LAYER_POS ? n : axis == PATCH_LAYER ? 1 : a->n_heads;
}

static struct answers loop_of(const struct golden *g, struct one_pair *q)
{
    struct loop k = {.r = reference_new(g->view), .n = q->n, .pos = q->metric.pos, .site = q->site, .axis = q->axis,
                     .base = q->denoise ? q->corrupt : q->clean, .source = q->denoise ? q->clean : q->corrupt};
    struct answers out = {.L = g->model->arch.n_layers, .C = columns_of(&g->model->arch, q->axis, q->n)};
    out.base = logits_of(&k, k.base);
    k.r->hook = loop_hook;
    k.r->ctx = &k;
    out.source = logits_of(&k, k.source);
    k.patch = true;
    out.cell = calloc((size_t)out.L * out.C, sizeof *out.cell);
    for (k.layer = 0; k.layer < out.L; k.layer++)
        for (k.column = 0; k.column < out.C; k.column++)
            out.cell[k.layer * out.C + k.column] = logits_of(&k, k.base);
    for (uint32_t l = 0; l < out.L; l++) free(k.value[l]);
    reference_free(k.r);
    return out;
}

static void answers_free(struct answers *a)
{
    for (size_t i = 0; i < (size_t)a->L * a->C; i++) free(a->cell[i]);
    free(a->cell), free(a->base), free(a->source);
}

/* ---- metrics, by their definitions ------------------------------------------------------------- */

static double log_sum(const double *logits, const uint32_t *ids, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += exp(logits[ids[i]]);
    return log(sum);
}

static double total(const double *logits, uint32_t V)
{
    double sum = 0;
    for (uint32_t i = 0; i < V; i++) sum += exp(logits[i]);
    return log(sum);
}

static double by_definition(const struct metric *m, const double *y, const struct answers *a, bool denoise, uint32_t V)
{
    const double *clean = denoise ? a->source : a->base, *corrupt = denoise ? a->base : a->source;
    double kl = 0, ld = log_sum(y, m->answer, m->n_answer) - log_sum(y, m->foil, m->n_foil), ld_clean, ld_corrupt;
    switch (m->kind) {
    case METRIC_LOGIT_DIFF: return ld;
    case METRIC_NORM_LOGIT_DIFF:
        ld_clean = log_sum(clean, m->answer, m->n_answer) - log_sum(clean, m->foil, m->n_foil);
        ld_corrupt = log_sum(corrupt, m->answer, m->n_answer) - log_sum(corrupt, m->foil, m->n_foil);
        return (ld - ld_corrupt) / (ld_clean - ld_corrupt);
    case METRIC_PROB: return exp(log_sum(y, m->answer, m->n_answer) - total(y, V));
    case METRIC_LOGPROB: return log_sum(y, m->answer, m->n_answer) - total(y, V);
    case METRIC_KL: /* against the source run: clean when denoising, corrupt when noising */
        for (uint32_t i = 0; i < V; i++)
            kl += exp(a->source[i] - total(a->source, V)) * (a->source[i] - total(a->source, V) - y[i] + total(y, V));
        return kl;
    case METRIC_LOGIT: return log_sum(y, m->answer, m->n_answer);
    case METRIC_PROB_DIFF: return exp(log_sum(y, m->answer, m->n_answer) - total(y, V)) - exp(log_sum(y, m->foil, m->n_foil) - total(y, V));
    case METRIC_LOSS: return total(y, V) - log_sum(y, m->answer, m->n_answer);
    case METRIC_PROJECTION: case METRIC_COUNT: break;
    }
    fail();
    return 0;
}

/* ---- comparing --------------------------------------------------------------------------------- */

static struct patch *run_patch(const struct golden *g, struct one_pair *q)
{
    struct err e = {0};
    struct patch_request request = one_request(q);
    struct patch *p = patch_new(&request, &e);
    must(p && STEP_ALL(patch_step(p, g->session, &e)), e);
    return p;
}

static void close_to(const char *what, double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance)) fail_msg("%s is %.8f, %.8f expected", what, got, want);
}

/* Rows that a sweep pushes: each cell's own rows, in its layer and those above; and the six cells
 * of the built-in checks. */
static size_t rows_expected(struct one_pair *q, uint32_t L, uint32_t C, uint32_t first)
{
    size_t rows = 0, n = q->metric.pos + 1u;
    uint32_t checks[3] = {0, L / 2, L - 1};
    for (uint32_t l = 0; l < L; l++)
        for (uint32_t c = 0; c < C; c++) {
            size_t from = q->axis == PATCH_LAYER_POS ? c : first;
            if (from >= first && from < n) rows += (n - from) * (L - l);
        }
    for (int i = 0; i < 3; i++)
        if (i == 0 || checks[i] != checks[i - 1]) rows += 2 * n * (L - checks[i]);
    return rows;
}

static void compare(const struct golden *g, struct one_pair *q, const struct answers *a)
{
    const uint32_t V = g->model->arch.d_vocab, n = q->metric.pos + 1u;
    struct patch *p = run_patch(g, q);
    const struct patch_grid *grid = patch_result(p);
    double base = by_definition(&q->metric, a->base, a, q->denoise, V), source = by_definition(&q->metric, a->source, a, q->denoise, V);
    double close = q->metric.kind == METRIC_NORM_LOGIT_DIFF ? 1e-3 : CLOSE;
    uint32_t first = 0, run = 0;
    while (first < q->n && q->clean[first] == q->corrupt[first]) first++;
    assert_int_equal(*grid->first_difference, first);
    assert_int_equal(grid->n_layers, a->L);
    assert_int_equal(grid->n_heads * grid->n_pos, a->C);
    assert_int_equal(grid->cost.cells, (size_t)a->L * a->C);
    close_to("clean", grid->scores->clean, q->denoise ? source : base, close);
    close_to("corrupt", grid->scores->corrupt, q->denoise ? base : source, close);
    for (uint32_t i = 0; i < a->L * a->C; i++) {
        char what[128];
        uint32_t from = q->axis == PATCH_LAYER_POS ? i % a->C : first;
        bool skipped = from < first || from >= n;
        (void)snprintf(what, sizeof what, "%s %s cell (%u, %u) of %s at %u", g->name, metric_word(q->metric.kind), i / a->C,
                       i % a->C, hook_info(q->site)->spelling, q->metric.pos);
        close_to(what, grid->scores->values[i], by_definition(&q->metric, a->cell[i], a, q->denoise, V), close);
        if (skipped) assert_true(grid->scores->values[i] == (q->denoise ? grid->scores->corrupt : grid->scores->clean));
        run += !skipped;
    }
    assert_int_equal(grid->cost.cells_run, run);
    assert_int_equal(grid->cost.rows, rows_expected(q, a->L, a->C, first));
    assert_true(grid->cost.flops > 0);
    assert_true(grid->check_identity >= 0 && grid->check_identity <= close);
    assert_true(grid->check_full >= 0 && grid->check_full <= close);
    patch_free(p);
}

/* Two prompts of n ids that differ at the given positions. */
static void two_prompts(const struct model *m, uint64_t seed, uint32_t n, const uint32_t *at, size_t n_at, uint32_t *clean, uint32_t *corrupt)
{
    for (uint32_t i = 0; i < n; i++) clean[i] = corrupt[i] = below(&seed, m->arch.d_vocab);
    for (size_t i = 0; i < n_at; i++) corrupt[at[i]] = (clean[at[i]] + 1 + below(&seed, m->arch.d_vocab - 1)) % m->arch.d_vocab;
}

static const uint32_t one_answer[] = {42}, one_foil[] = {7}, answers3[] = {3, 299, 120}, foils2[] = {9, 200};
static const struct { enum hook site; enum patch_axis axis; } grids[] = {
    {HOOK_RESID_PRE, PATCH_LAYER_POS}, {HOOK_Z, PATCH_LAYER_HEAD}, {HOOK_Z, PATCH_LAYER}};
enum { N_GRIDS = sizeof grids / sizeof *grids };

/* All metrics, single answers and lists, under budgets that take one group, some, one per column. */
static void check_grid(const struct golden *g, struct one_pair q)
{
    static const size_t budgets[] = {0, 1, 20000};
    struct answers a = loop_of(g, &q);
    for (unsigned kind = 0; kind < METRIC_PROJECTION; kind++)
        for (int lists = 0; lists < 2; lists++) {
            q.metric.kind = (enum metric_kind)kind;
            q.metric.answer = lists ? answers3 : one_answer;
            q.metric.n_answer = lists ? 3 : 1;
            q.metric.foil = lists ? foils2 : one_foil;
            q.metric.n_foil = lists ? 2 : 1;
            q.memory_bytes = budgets[(kind + (unsigned)lists) % 3];
            compare(g, &q, &a);
        }
    answers_free(&a);
}

static void check_model(const char *name)
{
    struct golden g;
    golden_open(&g, name, NULL);
    enum { N = 11 };
    static const uint32_t differ[] = {3, 4, 7}, pos[] = {N - 1, 8, 3};
    uint32_t clean[N], corrupt[N];
    two_prompts(g.model, 31, N, differ, 3, clean, corrupt);
    for (size_t k = 0; k < N_GRIDS; k++)
        for (int denoise = 0; denoise < 2; denoise++)
            for (size_t at = 0; at < 3; at++)
                check_grid(&g, (struct one_pair){.view = g.view, .clean = clean, .corrupt = corrupt, .n = N, .denoise = denoise,
                                                      .site = grids[k].site, .axis = grids[k].axis, .metric.pos = pos[at]});
    golden_close(&g);
}

static void test_sweep_is_the_loop_grouped_heads(void **state)
{
    (void)state;
    check_model("gqa_tied");
}

static void test_sweep_is_the_loop_odd_sizes(void **state)
{
    (void)state;
    check_model("gqa_untied_odd");
}

/* Enough rows for several tiles, and cells long enough for attention by matrix products. */
static void test_sweep_of_many_tiles(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "wide_head", NULL);
    enum { N = 56 };
    static const uint32_t differ[] = {0, 20, 55};
    uint32_t clean[N], corrupt[N];
    two_prompts(g.model, 32, N, differ, 3, clean, corrupt);
    for (size_t k = 0; k < 2; k++) {
        struct one_pair q = {.view = g.view, .clean = clean, .corrupt = corrupt, .n = N, .denoise = k == 0, .site = grids[k].site,
                                  .axis = grids[k].axis,
                                  .metric = {METRIC_LOGIT_DIFF, one_answer, one_foil, 1, 1, N - 1, NULL}};
        struct answers a = loop_of(&g, &q);
        compare(&g, &q, &a);
        answers_free(&a);
    }
    golden_close(&g);
}

static void test_one_token(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    static const uint32_t clean[] = {50}, corrupt[] = {60};
    for (size_t k = 0; k < N_GRIDS; k++)
        check_grid(&g, (struct one_pair){.view = g.view, .clean = clean, .corrupt = corrupt, .n = 1, .denoise = true,
                                              .site = grids[k].site, .axis = grids[k].axis});
    golden_close(&g);
}

/* ---- algebra ----------------------------------------------------------------------------------- */

/* Putting A's values into B is denoising with A clean, or noising with B clean. */
static void test_denoise_mirrors_noise(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    enum { N = 8 };
    static const uint32_t differ[] = {1, 5};
    uint32_t a[N], b[N];
    two_prompts(g.model, 33, N, differ, 2, a, b);
    for (size_t k = 0; k < N_GRIDS; k++)
        for (unsigned kind = 0; kind < METRIC_PROJECTION; kind++) {
            struct one_pair q = {.view = g.view, .clean = a, .corrupt = b, .n = N, .denoise = true, .site = grids[k].site,
                                      .axis = grids[k].axis, .metric = {(enum metric_kind)kind, answers3, foils2, 3, 2, N - 1, NULL}};
            struct patch *there = run_patch(&g, &q);
            q.clean = b, q.corrupt = a, q.denoise = false;
            struct patch *back = run_patch(&g, &q);
            for (size_t i = 0; i < patch_result(there)->cost.cells; i++) {
                double x = patch_result(there)->scores->values[i], y = patch_result(back)->scores->values[i];
                if (kind == METRIC_NORM_LOGIT_DIFF) close_to("mirrored cell", x, 1 - y, 1e-9); /* 0 and 1 change places */
                else assert_true(x == y);
            }
            patch_free(there);
            patch_free(back);
        }
    golden_close(&g);
}

static void test_baselines(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    enum { N = 8 };
    static const uint32_t differ[] = {2};
    uint32_t clean[N], corrupt[N];
    two_prompts(g.model, 34, N, differ, 1, clean, corrupt);
    struct one_pair q = {.view = g.view, .clean = clean, .corrupt = corrupt, .n = N, .site = HOOK_RESID_PRE,
                              .axis = PATCH_LAYER_POS, .metric = {METRIC_NORM_LOGIT_DIFF, one_answer, one_foil, 1, 1, N - 1, NULL}};
    for (int denoise = 0; denoise < 2; denoise++) {
        q.denoise = denoise;
        q.metric.kind = METRIC_NORM_LOGIT_DIFF;
        struct patch *p = run_patch(&g, &q);
        assert_true(patch_result(p)->scores->clean == 1 && patch_result(p)->scores->corrupt == 0);
        patch_free(p);
        q.metric.kind = METRIC_KL; /* of the source run against itself: none; else positive */
        p = run_patch(&g, &q);
        const struct patch_grid *grid = patch_result(p);
        assert_true((denoise ? grid->scores->clean : grid->scores->corrupt) == 0);
        assert_true((denoise ? grid->scores->corrupt : grid->scores->clean) > 1e-3);
        for (size_t i = 0; i < grid->cost.cells; i++) assert_true(grid->scores->values[i] > -1e-12);
        patch_free(p);
    }
    golden_close(&g);
}

static void test_nothing_to_normalise_by(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    struct err e = {0};
    struct one_pair q = {.view = g.view, .clean = g.ids[0], .corrupt = g.ids[0], .n = g.n[0], .denoise = true, .site = HOOK_RESID_PRE,
                              .axis = PATCH_LAYER_POS, .metric = {METRIC_NORM_LOGIT_DIFF, one_answer, one_foil, 1, 1, g.n[0] - 1, NULL}};
    struct patch_request request = one_request(&q);
    struct patch *p = patch_new(&request, &e);
    must(p, e);
    assert_false(STEP_ALL(patch_step(p, g.session, &e)));
    assert_int_equal(e.code, ERR_UNPROCESSABLE);
    assert_string_equal(e.field, "metric.kind");
    patch_free(p);
    golden_close(&g);
}

/* Equal prompts, or a metric read before they differ: every cell is the baseline, none is run. */
static void test_nothing_differs(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    enum { N = 8 };
    static const uint32_t differ[] = {6};
    uint32_t clean[N], corrupt[N];
    two_prompts(g.model, 35, N, differ, 1, clean, corrupt);
    for (size_t k = 0; k < 2 * N_GRIDS; k++) {
        struct one_pair q = {.view = g.view, .clean = clean, .corrupt = k % 2 ? clean : corrupt, .n = N, .site = grids[k / 2].site,
                                  .axis = grids[k / 2].axis,
                                  .metric = {METRIC_LOGPROB, one_answer, NULL, 1, 0, k % 2 ? N - 1 : 5, NULL}};
        struct patch *p = run_patch(&g, &q);
        const struct patch_grid *grid = patch_result(p);
        assert_int_equal(*grid->first_difference, k % 2 ? N : 6);
        assert_int_equal(grid->cost.cells_run, 0);
        for (size_t i = 0; i < grid->cost.cells; i++) assert_true(grid->scores->values[i] == grid->scores->clean);
        close_to("corrupt", grid->scores->corrupt, grid->scores->clean, 1e-6);
        patch_free(p);
    }
    golden_close(&g);
}

/* Work is counted in steps that a daemon can stop between, and progress ends at its total. */
static void test_progress(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    struct err e = {0};
    static const uint32_t differ[] = {0};
    uint32_t clean[9], corrupt[9];
    size_t done, total, last = 0, steps = 0;
    two_prompts(g.model, 36, 9, differ, 1, clean, corrupt);
    struct one_pair q = {.view = g.view, .clean = clean, .corrupt = corrupt, .n = 9, .denoise = true, .site = HOOK_RESID_PRE,
                              .axis = PATCH_LAYER_POS, .metric = {METRIC_PROB, one_answer, NULL, 1, 0, 8, NULL}, .memory_bytes = 1};
    struct patch_request request = one_request(&q);
    struct patch *p = patch_new(&request, &e);
    must(p, e);
    enum step step;
    do {
        step = patch_step(p, g.session, &e);
        patch_progress(p, &done, &total);
        assert_true(done >= last && done <= total);
        last = done;
        steps++;
    } while (step == STEP_MORE);
    assert_int_equal(step, STEP_DONE);
    assert_true(done == total && steps > 9 * 3);
    patch_free(p);
    golden_close(&g);
}

/* A few cells once more by whole runs: as many as asked for, and what they give is what the sweep gave. */
static void test_naive_cells(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    static const uint32_t differ[] = {1, 4};
    uint32_t clean[9], corrupt[9];
    two_prompts(g.model, 37, 9, differ, 2, clean, corrupt);
    for (size_t k = 0; k < N_GRIDS; k++) {
        struct one_pair q = {.view = g.view, .clean = clean, .corrupt = corrupt, .n = 9, .denoise = k % 2, .site = grids[k].site,
                             .axis = grids[k].axis, .metric = {METRIC_NORM_LOGIT_DIFF, one_answer, one_foil, 1, 1, 8, NULL}};
        struct patch_request request = one_request(&q);
        struct err e = {0};
        request.n_naive = 1;
        struct patch_cost before;
        must(patch_forecast(&request, &before, &e), e);
        struct patch *p = patch_new(&request, &e);
        must(p, e);
        bool checked = false;
        enum step step;
        do {
            checked |= patch_checking(p);
            step = patch_step(p, g.session, &e);
        } while (step == STEP_MORE);
        assert_int_equal(step, STEP_DONE);
        const struct patch_grid *grid = patch_result(p);
        assert_true(checked);
        assert_int_equal(grid->n_naive, 1);
        assert_true(grid->check_naive > 0 && grid->check_naive < 1e-3); /* rounded in another order */
        assert_memory_equal(&grid->cost, &before, sizeof before);
        assert_true(before.all_flops > before.flops);
        patch_free(p);
    }
    golden_close(&g);
}

/* Given up after some turns: the cells of those have their values, the others none. */
static void test_partial(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    struct err e = {0};
    static const uint32_t differ[] = {0};
    uint32_t clean[9], corrupt[9];
    two_prompts(g.model, 38, 9, differ, 1, clean, corrupt);
    struct one_pair q = {.view = g.view, .clean = clean, .corrupt = corrupt, .n = 9, .denoise = true, .site = HOOK_RESID_PRE,
                         .axis = PATCH_LAYER_POS, .metric = {METRIC_NORM_LOGIT_DIFF, one_answer, one_foil, 1, 1, 8, NULL},
                         .memory_bytes = 1};
    struct patch *whole = run_patch(&g, &q);
    struct patch_request request = one_request(&q);
    struct patch *p = patch_new(&request, &e);
    must(p, e);
    assert_null(patch_partial(p));
    size_t done, total, known = 0;
    patch_progress(p, &done, &total);
    while (done < total / 2) {
        assert_int_equal(patch_step(p, g.session, &e), STEP_MORE);
        patch_progress(p, &done, &total);
    }
    const struct patch_grid *some = patch_partial(p), *all = patch_result(whole);
    for (size_t i = 0; i < all->cost.cells; i++)
        if (!isnan(some->scores->values[i])) {
            assert_true(some->scores->values[i] == all->scores->values[i]);
            known++;
        }
    assert_true(known >= all->cost.cells / 3 && known < all->cost.cells);
    assert_true(some->scores->clean == 1 && some->scores->corrupt == 0);
    patch_free(p);
    patch_free(whole);
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sweep_is_the_loop_grouped_heads),
        cmocka_unit_test(test_sweep_is_the_loop_odd_sizes),
        cmocka_unit_test(test_sweep_of_many_tiles),
        cmocka_unit_test(test_one_token),
        cmocka_unit_test(test_denoise_mirrors_noise),
        cmocka_unit_test(test_baselines),
        cmocka_unit_test(test_nothing_to_normalise_by),
        cmocka_unit_test(test_nothing_differs),
        cmocka_unit_test(test_progress),
        cmocka_unit_test(test_naive_cells),
        cmocka_unit_test(test_partial),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
