/* Edge attribution against what it estimates: the slope of the metric as one reader's copy of the stream takes one
 * writer's change, by central differences; sums over a writer's edges against attribution patching of it, over a
 * reader's against its gradient; along a path the mean of such slopes; the planted circuit. Every family. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/head.h"
#include "probes/attribution.h"
#include "probes/edge.h"
#include "probes/gradient.h"
#include "support/families.h"
#include "support/numbers.h"
#include "support/prompts.h"

#define STEP 0.008f

static const uint32_t answers[] = {42, 3}, foils[] = {7};
static const struct metric metric = {METRIC_LOGIT_DIFF, answers, foils, 2, 1, READ, NULL};
static const enum hook copies[EDGE_FINAL + 1] = {[EDGE_Q] = HOOK_Q_INPUT, [EDGE_K] = HOOK_K_INPUT, [EDGE_V] = HOOK_V_INPUT, [EDGE_MLP] = HOOK_MLP_IN};

static struct edges *edges_run(const struct golden *g, const struct edge_request *q)
{
    struct err e = {0};
    struct edges *k = edges_new(q, &e);
    must(k && STEP_ALL(edges_step(k, g->session, &e)), e);
    return k;
}

static double metric_of(const struct golden *g, const uint32_t *ids, struct tap *tap, size_t n)
{
    float *y = logits_at(g, g->view, ids, N, READ, &(struct taps){tap, n});
    double v = log(exp((double)y[42]) + exp((double)y[3])) - (double)y[7];
    mem_drop(y);
    return v;
}

static float *read_hook(const struct golden *g, const uint32_t *ids, struct site site, const uint32_t *head, size_t width)
{
    float *x = floats(N * width);
    struct tap t = {.site = site, .every_pos = true, .dst = x, .head = head, .n_head = head ? 1 : 0};
    mem_drop(logits_at(g, g->view, ids, N, READ, &(struct taps){&t, 1}));
    return x;
}

/* ---- one edge by itself ---------------------------------------------------------------------------------------- */

/* clean − corrupt of what a writer adds. A normed head's is its result over its run's scale, times the norm's gain. */
static float *change_of(const struct golden *g, const struct prompts *p, struct edge_node u)
{
    static const enum hook hooks[] = {[EDGE_EMBED] = HOOK_RESID_PRE, [EDGE_HEAD] = HOOK_RESULT, [EDGE_MLP] = HOOK_MLP_OUT};
    const struct arch *a = &g->model->arch;
    const size_t d = a->d_model;
    const uint32_t *ids[] = {p->clean, p->corrupt};
    float *x[2];
    for (int i = 0; i < 2; i++) {
        x[i] = read_hook(g, ids[i], (struct site){hooks[u.part], u.layer}, u.part == EDGE_HEAD ? &u.head : NULL, d);
        if (!a->post_norm || u.part != EDGE_HEAD) continue;
        const struct norm norm = view_layer(g->view, u.layer).attn_post_norm;
        float *scale = read_hook(g, ids[i], (struct site){HOOK_LN1_POST_SCALE, u.layer}, NULL, 1);
        for (size_t k = 0; k < N * d; k++) x[i][k] *= (norm.offset + norm.gain[k % d]) / scale[k / d];
        mem_drop(scale);
    }
    for (size_t k = 0; k < N * d; k++) x[0][k] -= x[1][k];
    mem_drop(x[1]);
    return x[0];
}

static struct tap add_to(const struct golden *g, struct edge_node v, const float *change)
{
    struct tap t = {.site = {copies[v.part], v.layer}, .op = TAP_ADD, .every_pos = true, .src = change, .n_src_pos = N};
    if (v.part == EDGE_FINAL) t.site = (struct site){HOOK_RESID_POST, g->model->arch.n_layers - 1};
    return t;
}

/* d/dε of the metric where the reader's copy is x_v + ε·change; extrapolated to a step of nothing. */
static double slope_of(const struct golden *g, const uint32_t *ids, struct edge_node v, const float *change, const struct tap *besides)
{
    double side[4];
    for (int i = 0; i < 4; i++) {
        struct tap t[2] = {add_to(g, v, change)};
        if (v.part == EDGE_Q || v.part == EDGE_K || v.part == EDGE_V) t->head = &v.head, t->n_head = 1;
        t->weight = (i % 2 ? -1 : 1) * (i < 2 ? STEP : 2 * STEP);
        if (besides) t[1] = *besides;
        side[i] = metric_of(g, ids, t, besides ? 2 : 1);
    }
    return (4 * (side[0] - side[1]) / (2 * (double)STEP) - (side[2] - side[3]) / (4 * (double)STEP)) / 3;
}

static void near(const struct golden *g, const char *what, struct edge_node u, struct edge_node v, double got, double want, double tolerance)
{
    char from[EDGE_TEXT], to[EDGE_TEXT];
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%s: %s of %s to %s is %.7f, %.7f expected", g->model->path, what, edge_text(u, from), edge_text(v, to), got, want);
}

static void single_edges(struct golden *g)
{
    const struct arch *a = &g->model->arch;
    const size_t W = edge_writers(a), R = edge_readers(a);
    struct prompts p;
    make_pair(g, &metric, &p);
    struct edge_request q = {.view = g->view, .pair = &p.pair, .n_pairs = 1, .denoise = true, .steps = 1};
    struct edges *k = edges_run(g, &q);
    double most = 0;
    for (size_t u = 0; u < W; u++) {
        float *change = change_of(g, &p, edge_writer(a, u));
        for (size_t v = u % 5; v < R; v += 5) {
            const double got = (double)edges_mean(k)[u * R + v];
            if (!edge_is(a, u, v)) {
                assert_true(got == 0);
                continue;
            }
            const double want = slope_of(g, p.corrupt, edge_reader(a, v), change, NULL);
            near(g, "edge", edge_writer(a, u), edge_reader(a, v), got, want, 4e-4 + 2e-3 * fabs(want));
            most = fmax(most, fabs(got));
        }
        mem_drop(change);
    }
    if (!(most > 1e-3)) fail_msg("%s: no edge moves anything", g->model->path);
    edges_free(k);
}

static void test_single_edges(void **state)
{
    (void)state;
    families_each(false, single_edges);
}

/* ---- sums --------------------------------------------------------------------------------------------------------- */

/* Attribution patching of heads' results and MLPs' outputs is what their edges add up to. */
static void out_edges(struct golden *g)
{
    static const enum hook heads = HOOK_RESULT, plain[] = {HOOK_MLP_OUT, HOOK_RESID_PRE};
    const struct arch *a = &g->model->arch;
    const size_t W = edge_writers(a), R = edge_readers(a);
    struct prompts p;
    struct err e = {0};
    if (a->post_norm) return; /* a head's result is not what is added there */
    make_pair(g, &metric, &p);
    for (int noise = 0; noise < 2; noise++) {
        struct edge_request q = {.view = g->view, .pair = &p.pair, .n_pairs = 1, .denoise = !noise, .steps = 1};
        struct attribution_request by[2] = {
            {.view = g->view, .pair = &p.pair, .n_pairs = 1, .n_metrics = 1, .denoise = !noise, .site = &heads, .n_sites = 1, .axis = PATCH_LAYER_HEAD},
            {.view = g->view, .pair = &p.pair, .n_pairs = 1, .n_metrics = 1, .denoise = !noise, .site = plain, .n_sites = 2, .axis = PATCH_LAYER}};
        struct attribution *of[2];
        for (int i = 0; i < 2; i++) {
            of[i] = attribution_new(&by[i], &e);
            must(of[i] && STEP_ALL(attribution_step(of[i], g->session, &e)), e);
        }
        struct edges *k = edges_run(g, &q);
        for (size_t u = 0; u < W; u++) {
            const struct edge_node n = edge_writer(a, u);
            double sum = 0, want = n.part == EDGE_HEAD ? attribution_grid(of[0], 0)->scores->values[n.layer * a->n_heads + n.head]
                                                       : attribution_grid(of[1], n.part == EDGE_EMBED)->scores->values[n.layer];
            for (size_t v = 0; v < R; v++) sum += (double)edges_mean(k)[u * R + v];
            near(g, "out-edges", n, edge_reader(a, R - 1), sum, want, 1e-4 * (1 + fabs(want)));
        }
        edges_free(k);
        for (int i = 0; i < 2; i++) attribution_free(of[i]);
    }
}

/* The gradient at a reader's copy by the gradient probe, times the change of that copy. */
static double moved(const struct golden *g, const struct prompts *p, struct edge_node v)
{
    static const uint32_t all[N] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    const struct arch *a = &g->model->arch;
    const uint32_t read = READ;
    const struct site at = v.part == EDGE_FINAL ? (struct site){HOOK_RESID_POST, a->n_layers - 1} : (struct site){copies[v.part], v.layer};
    const bool headed = v.part != EDGE_MLP && v.part != EDGE_FINAL;
    const size_t d = a->d_model;
    struct err e = {0};
    size_t n;
    struct trace_input in = {.ids = p->corrupt, .n = N};
    struct trace_place place = {.site = at, .pos = all, .n_pos = N, .head = headed ? &v.head : NULL, .n_head = headed};
    struct gradient_request q = {.view = g->view, .in = &in, .at = &place, .n_at = 1, .metric = metric, .pos = &read, .n_pos = 1};
    struct gradient *k = gradient_new(&q, &e);
    must(k && STEP_ALL(gradient_step(k, g->session, &e)), e);
    const float *slopes = gradient_values(k, 0, &n);
    float *x = read_hook(g, p->clean, at, headed ? &v.head : NULL, d), *y = read_hook(g, p->corrupt, at, headed ? &v.head : NULL, d);
    double sum = 0;
    for (size_t i = 0; i < (size_t)(READ + 1) * d; i++) sum += ((double)x[i] - (double)y[i]) * (double)slopes[i];
    mem_drop(x), mem_drop(y);
    gradient_free(k);
    return sum;
}

static void in_edges(struct golden *g)
{
    const struct arch *a = &g->model->arch;
    const size_t W = edge_writers(a), R = edge_readers(a);
    struct prompts p;
    make_pair(g, &metric, &p);
    struct edge_request q = {.view = g->view, .pair = &p.pair, .n_pairs = 1, .denoise = true, .steps = 1};
    struct edges *k = edges_run(g, &q);
    for (size_t v = 0; v < R; v++) {
        double sum = 0, want = moved(g, &p, edge_reader(a, v));
        for (size_t u = 0; u < W; u++) sum += (double)edges_mean(k)[u * R + v];
        near(g, "in-edges", edge_writer(a, 0), edge_reader(a, v), sum, want, 1e-4 * (1 + fabs(want)));
    }
    edges_free(k);
}

static void test_sums(void **state)
{
    (void)state;
    families_each(false, out_edges);
    families_each(false, in_edges);
}

/* ---- along a path --------------------------------------------------------------------------------------------------- */

/* Each point is a run whose embeddings are written. */
static void along_a_path(struct golden *g)
{
    enum { M = 3 };
    static const enum integral_rule rules[] = {RULE_LEFT, RULE_GAUSS};
    const struct arch *a = &g->model->arch;
    const size_t W = edge_writers(a), R = edge_readers(a), d = a->d_model;
    struct prompts p;
    make_pair(g, &metric, &p);
    float *to = read_hook(g, p.clean, (struct site){HOOK_EMBED, 0}, NULL, d), *from = read_hook(g, p.corrupt, (struct site){HOOK_EMBED, 0}, NULL, d);
    float *x = floats(N * d);
    for (int i = 0; i < 2; i++) {
        double at[M], weight[M];
        struct edge_request q = {.view = g->view, .pair = &p.pair, .n_pairs = 1, .denoise = true, .steps = M, .rule = rules[i]};
        struct edges *k = edges_run(g, &q);
        struct tap write = {.site = {HOOK_EMBED, 0}, .op = TAP_SET, .weight = 1, .every_pos = true, .src = x, .n_src_pos = N};
        integral_points(rules[i], M, at, weight);
        for (size_t u = 0; u < W; u += 2) {
            float *change = change_of(g, &p, edge_writer(a, u));
            for (size_t v = u % 7; v < R; v += 7) {
                double want = 0;
                for (int m = 0; edge_is(a, u, v) && m < M; m++) {
                    for (size_t j = 0; j < N * d; j++) x[j] = (float)((double)from[j] + at[m] * ((double)to[j] - (double)from[j]));
                    want += weight[m] * slope_of(g, p.corrupt, edge_reader(a, v), change, &write);
                }
                near(g, "edge along a path", edge_writer(a, u), edge_reader(a, v), (double)edges_mean(k)[u * R + v], want, 4e-4 + 2e-3 * fabs(want));
            }
            mem_drop(change);
        }
        edges_free(k);
    }
    mem_drop(to), mem_drop(from), mem_drop(x);
}

static void test_along_a_path(void **state)
{
    static const char *const families[] = {"gpt2", "llama", "qwen3", "gemma2", "gpt_neox"};
    (void)state;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        struct golden g;
        golden_open_family(&g, families[i], NULL);
        along_a_path(&g);
        golden_close(&g);
    }
}

/* Points that fill more than one tape; and pairs, whose mean it is. */
static void test_tapes_and_pairs(void **state)
{
    enum { LONG = 60, M = 9 };
    struct golden g;
    uint32_t ids[3][LONG];
    const struct metric last = {METRIC_NORM_LOGIT_DIFF, answers, foils, 2, 1, LONG - 1, NULL};
    (void)state;
    golden_open_family(&g, "llama", NULL);
    const size_t all = edge_writers(&g.model->arch) * edge_readers(&g.model->arch);
    for (uint32_t i = 0; i < LONG; i++) ids[0][i] = ids[1][i] = ids[2][i] = (i * 7 + 3) % g.model->arch.d_vocab;
    ids[1][30] += 5, ids[2][50] += 9;
    const struct patch_pair pairs[] = {{ids[0], ids[1], LONG, &last}, {ids[0], ids[2], LONG, &last}};
    struct edge_request q = {.view = g.view, .pair = pairs, .n_pairs = 2, .denoise = true, .steps = M, .rule = RULE_MIDPOINT};
    struct edges *both = edges_run(&g, &q);
    for (size_t i = 0; i < 2; i++) {
        size_t done, total;
        struct patch_scores s;
        struct edge_request one = q;
        one.pair = &pairs[i], one.n_pairs = 1;
        struct edges *k = edges_run(&g, &one);
        edges_progress(k, &done, &total);
        assert_int_equal(done, total);
        edges_baseline(k, 0, &s);
        assert_true(s.clean == 1 && s.corrupt == 0 && edges_difference(k, 0) == (i ? 50 : 30));
        for (size_t j = 0; j < all; j++) assert_true(fabs((double)edges_mean(k)[j] - (double)edges_of(both, i)[j]) <= 1e-6);
        edges_free(k);
    }
    for (size_t j = 0; j < all; j++)
        assert_true(fabs(((double)edges_of(both, 0)[j] + (double)edges_of(both, 1)[j]) / 2 - (double)edges_mean(both)[j]) <= 1e-6);
    edges_free(both);
    golden_close(&g);
}

/* ---- the planted circuit ------------------------------------------------------------------------------------------------ */

static double edge(struct edges *k, const struct arch *a, const char *from, const char *to)
{
    const size_t R = edge_readers(a);
    char text[EDGE_TEXT];
    size_t u = 0, v = 0;
    while (strcmp(edge_text(edge_writer(a, u), text), from) != 0) u++;
    while (strcmp(edge_text(edge_reader(a, v), text), to) != 0) v++;
    return (double)edges_mean(k)[u * R + v];
}

/* The circuit is embed → L0H0.v, L0H0 → L1H0.k, L1H0 → logits. The clean run's attention is saturated: at it the key's edge
 * has no slope, and at the corrupt one far too much; along the path between them both directions find all three. */
static void test_planted(void **state)
{
    static const uint32_t clean[] = {0, 1, 2, 3, 4, 1}, corrupt[] = {0, 5, 2, 3, 4, 1}, two = 2, three = 3;
    static const struct metric m = {METRIC_LOGIT_DIFF, &two, &three, 1, 1, 5, NULL};
    const struct patch_pair pair = {clean, corrupt, 6, &m};
    struct err e = {0};
    struct golden g = {.name = "planted"};
    (void)state;
    g.model = model_open("tests/golden/planted", NULL, NULL, NULL, &e);
    must(g.model, e);
    g.view = view_base(g.model);
    g.session = session_new(1, &e);
    must(g.session, e);
    const struct arch *a = &g.model->arch;
    for (uint32_t steps = 1; steps <= 10; steps += 9)
        for (int noise = 0; noise < 2; noise++) {
            struct edge_request q = {.view = g.view, .pair = &pair, .n_pairs = 1, .denoise = !noise, .steps = steps};
            struct edges *k = edges_run(&g, &q);
            size_t top[4];
            assert_int_equal(edges_top(k, top, 4), 4);
            const double sign = noise ? -1 : 1, value = edge(k, a, "embed", "L0H0.v"), key = edge(k, a, "L0H0", "L1H0.k"), out = edge(k, a, "L1H0", "logits");
            for (size_t i = 1; i < 4; i++) assert_true(fabsf(edges_mean(k)[top[i]]) <= fabsf(edges_mean(k)[top[i - 1]]));
            if (steps == 1) {
                near(&g, "edge", edge_writer(a, 1), edge_reader(a, 0), out, noise ? -0.9154 * 9.0103 : 1.0452 * 9.0103, 1e-3);
                assert_true(noise ? fabs(key) < 1e-6 : key > 5 * 9.0103);
            }
            if (steps > 1 || !noise) { /* the three, and nothing like them */
                assert_true(sign * value > 8 && sign * key > 8 && sign * out > 8);
                assert_true(fabs((double)edges_mean(k)[top[3]]) < 2);
            }
            edges_free(k);
        }
    session_free(g.session);
    view_drop(g.view);
    model_drop(g.model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single_edges), cmocka_unit_test(test_sums), cmocka_unit_test(test_along_a_path),
        cmocka_unit_test(test_tapes_and_pairs), cmocka_unit_test(test_planted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
