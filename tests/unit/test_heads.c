/* Patterns, value weights and detector scores on every family, from the committed patterns and values of PyTorch. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "probes/heads.h"
#include "support/families.h"
#include "support/numbers.h"

static void near(const struct golden *g, const char *what, double got, double want)
{
    if (isnan(got) && isnan(want)) return;
    if (!(fabs(got - want) <= 1e-4 * fmax(1, fabs(want)))) fail_msg("%s: %s is %.9f, %.9f expected", g->model->path, what, got, want);
}

static float *golden_of(const struct golden *g, const char *hook, uint32_t layer)
{
    char name[96];
    size_t n;
    (void)snprintf(name, sizeof name, "s0.blocks.%u.%s", layer, hook);
    float *x = golden_tensor(g, name, &n);
    if (!x) fail_msg("%s has no %s", g->model->path, name);
    return x;
}

/* Sum over marked pairs over the destinations that have one: masks first, as the definitions are drawn. */
static double by_mask(const float *a, const bool *mask, uint32_t n)
{
    double sum = 0, rows = 0;
    for (uint32_t i = 0; i < n; i++) {
        bool any = false;
        for (uint32_t j = 0; j < n; j++)
            if (mask[i * n + j]) any = true, sum += (double)a[i * n + j];
        rows += any;
    }
    return rows > 0 ? sum / rows : (double)NAN;
}

static double detected(const uint32_t *ids, const float *a, uint32_t n, enum detector d)
{
    bool *mask = calloc((size_t)n * n, sizeof *mask);
    double entropy = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < i; j++) {
            bool twin = ids[i] == ids[j];
            if (d == DETECT_PREVIOUS) mask[i * n + j] = j + 1 == i;
            if (d == DETECT_FIRST) mask[i * n + j] = j == 0;
            if (d == DETECT_DUPLICATE) mask[i * n + j] = twin;
            if (d == DETECT_INDUCTION && twin) mask[i * n + j + 1] = true;
        }
    for (uint32_t k = n; k < n * n; k++)
        if (a[k] > 0) entropy -= (double)a[k] * log((double)a[k]) / (n - 1);
    double out = d == DETECT_ENTROPY ? entropy : by_mask(a, mask, n);
    free(mask);
    return out;
}

static struct heads *heads(const struct golden *g, const struct heads_request *q)
{
    struct err e = {0};
    struct heads *h = heads_new(q, &e);
    must(h && STEP_ALL(heads_step(h, g->session, &e)), e);
    return h;
}

/* ‖W_O[h] v_j‖ */
static double weight_of(const struct golden *g, uint32_t layer, uint32_t head, const float *v, uint32_t j)
{
    const struct arch *a = &g->model->arch;
    const struct layer_weights w = view_layer(g->view, layer);
    float *o = floats((size_t)a->d_model * a->d_head);
    const float *of = v + (j * a->n_kv_heads + head / (a->n_heads / a->n_kv_heads)) * a->d_head;
    double sum = 0;
    linear_inputs(&w.o, head * a->d_head, a->d_head, o);
    for (uint32_t i = 0; i < a->d_model; i++) {
        double x = 0;
        for (uint32_t k = 0; k < a->d_head; k++) x += (double)o[i * a->d_head + k] * (double)of[k];
        sum += x * x;
    }
    mem_drop(o);
    return sqrt(sum);
}

static void check(const struct golden *g, bool weighted)
{
    const struct arch *a = &g->model->arch;
    const uint32_t layers[] = {0, a->n_layers - 1}, chosen[] = {a->n_heads - 1}, n = g->n[0];
    const struct heads_input in = {g->ids[0], n};
    const struct heads_request q = {.view = g->view, .in = &in, .n_in = 1, .layer = layers, .n_layers = 2, .head = chosen,
                                    .n_heads = 1, .keep = true, .value_weighted = weighted};
    struct heads *h = heads(g, &q);
    for (size_t l = 0; l < 2; l++) {
        float *all = golden_of(g, "attn.hook_pattern", layers[l]), *v = golden_of(g, "attn.hook_v", layers[l]);
        const float *want = all + (size_t)*chosen * n * n, *got = heads_pattern(h, 0, l);
        for (uint32_t j = 0; j < n; j++) {
            double w = weighted ? weight_of(g, layers[l], *chosen, v, j) : 1;
            for (uint32_t i = 0; i < n; i++) near(g, "pattern", (double)got[i * n + j], w * (double)want[i * n + j]);
        }
        for (int d = 0; d < DETECTORS; d++)
            near(g, detector_word((enum detector)d), heads_scores(h, 0, (enum detector)d)[l], detected(g->ids[0], want, n, (enum detector)d));
        mem_drop(all);
        mem_drop(v);
    }
    heads_free(h);
}

static void check_family(struct golden *g)
{
    check(g, false);
    check(g, true);
}

static void test_definitions(void **state)
{
    (void)state;
    families_each(true, check_family);
}

/* Tokens that come again: the classic diagonals, against the patterns that the probe itself keeps. */
static void check_repeat(struct golden *g)
{
    enum { T = 9, N = 2 * T };
    const struct arch *a = &g->model->arch;
    uint32_t ids[N], layers[1] = {a->n_layers - 1}, *all = mem_new(a->n_heads * sizeof *all);
    for (uint32_t i = 0; i < T; i++) ids[i] = ids[T + i] = 7 * i + 3;
    for (uint32_t i = 0; i < a->n_heads; i++) all[i] = i;
    const struct heads_input in[2] = {{ids, N}, {ids, T}};
    struct heads_request q = {.view = g->view, .in = in, .n_in = 2, .layer = layers, .n_layers = 1, .head = all,
                              .n_heads = a->n_heads, .keep = true};
    struct heads *h = heads(g, &q);
    q.keep = false;
    struct heads *again = heads(g, &q);
    for (uint32_t k = 0; k < a->n_heads; k++) {
        const float *p = heads_pattern(h, 0, 0) + (size_t)k * N * N;
        double duplicate = 0, induction = 0;
        for (uint32_t i = T; i < N; i++) duplicate += (double)p[i * N + i - T] / T, induction += (double)p[i * N + i - T + 1] / T;
        near(g, "duplicate", heads_scores(h, 0, DETECT_DUPLICATE)[k], duplicate);
        near(g, "induction", heads_scores(h, 0, DETECT_INDUCTION)[k], induction);
        assert_true(isnan(heads_scores(h, 1, DETECT_INDUCTION)[k]) && isnan(heads_scores(h, 1, DETECT_DUPLICATE)[k]));
        for (int d = 0; d < DETECTORS; d++)
            assert_true(heads_scores(h, 0, (enum detector)d)[k] == heads_scores(again, 0, (enum detector)d)[k]);
    }
    heads_free(h);
    heads_free(again);
    mem_drop(all);
}

static void test_repeat(void **state)
{
    (void)state;
    families_each(false, check_repeat);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definitions),
        cmocka_unit_test(test_repeat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
