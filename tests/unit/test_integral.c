/* Integrated gradients: both ends against whole runs, the sum against their difference as steps grow, one step
 * against the gradient probe, the points of each rule against integrals of polynomials. Several families. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/session.h"
#include "probes/gradient.h"
#include "probes/integral.h"
#include "support/families.h"
#include "support/numbers.h"

enum { N = 9, READ = 7 };

static const uint32_t answer = 42, foil = 7, read_at = READ;
static const struct metric metric = {METRIC_LOGIT_DIFF, &answer, &foil, 1, 1, READ, NULL};

static void make_ids(const struct golden *g, uint32_t *to, uint32_t *from)
{
    uint64_t seed = 19;
    for (int k = 0; k < N; k++) to[k] = from[k] = below(&seed, g->model->arch.d_vocab);
    from[2] = below(&seed, g->model->arch.d_vocab);
}

static struct integral *integrate(const struct golden *g, const uint32_t *to, const uint32_t *from, enum integral_rule rule, uint32_t steps,
                                  uint32_t most)
{
    struct err e = {0};
    struct integral_request q = {g->view, to, from, N, &metric, rule, steps, most};
    struct integral *k = integral_new(&q, &e);
    must(k && STEP_ALL(integral_step(k, g->session, &e)), e);
    return k;
}

static double residual(const struct golden *g, const uint32_t *to, const uint32_t *from, enum integral_rule rule, uint32_t steps)
{
    struct integral *k = integrate(g, to, from, rule, steps, 0);
    struct integral_found f = integral_result(k);
    assert_int_equal(f.steps, steps);
    integral_free(k);
    return f.residual;
}

static double difference_at(const struct golden *g, const uint32_t *ids)
{
    float *y = logits_at(g, g->view, ids, N, READ, NULL);
    double out = (double)y[answer] - (double)y[foil];
    mem_drop(y);
    return out;
}

/* One left step is the gradient at the start times the change of the embeddings. */
static void one_step(const struct golden *g, const uint32_t *to, const uint32_t *from)
{
    static const uint32_t all[N] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    const size_t d = g->model->arch.d_model;
    struct err e = {0};
    size_t n;
    float *x = floats(N * d), *y = floats(N * d);
    struct tap tap = {.site = {HOOK_EMBED, 0}, .every_pos = true, .dst = x};
    mem_drop(logits_at(g, g->view, to, N, READ, &(struct taps){&tap, 1}));
    tap.dst = y;
    mem_drop(logits_at(g, g->view, from, N, READ, &(struct taps){&tap, 1}));
    struct trace_input in = {.ids = from, .n = N};
    struct trace_place at = {.site = {HOOK_EMBED, 0}, .pos = all, .n_pos = N};
    struct gradient_request q = {.view = g->view, .in = &in, .at = &at, .n_at = 1, .metric = metric, .pos = &read_at, .n_pos = 1};
    struct gradient *k = gradient_new(&q, &e);
    must(k && STEP_ALL(gradient_step(k, g->session, &e)), e);
    const float *slope = gradient_values(k, 0, &n);
    struct integral *one = integrate(g, to, from, RULE_LEFT, 1, 0);
    for (size_t p = 0; p < N; p++) {
        double want = 0;
        for (size_t i = 0; i < d; i++) want += ((double)x[p * d + i] - (double)y[p * d + i]) * (double)slope[p * d + i];
        assert_true(fabs(integral_result(one).values[p] - want) <= 1e-4 * (1 + fabs(want)));
    }
    integral_free(one);
    gradient_free(k);
    mem_drop(x), mem_drop(y);
}

static void converges(const char *name)
{
    struct golden g;
    uint32_t to[N], from[N];
    golden_open_family(&g, name, NULL);
    make_ids(&g, to, from);
    struct integral *k = integrate(&g, to, from, RULE_MIDPOINT, 20, 2560);
    struct integral_found f = integral_result(k);
    double effect = difference_at(&g, to) - difference_at(&g, from);
    assert_true(fabs(f.at_to - difference_at(&g, to)) <= 1e-4 && fabs(f.at_from - difference_at(&g, from)) <= 1e-4);
    if (!f.complete) fail_msg("%s: %.5f of %.5f is left after %u steps", name, f.residual, effect, f.steps);
    for (int p = 0; p < N; p++) assert_true(p == 2 ? f.values[p] != 0 : f.values[p] == 0);
    integral_free(k);
    double left[2] = {residual(&g, to, from, RULE_LEFT, 160), residual(&g, to, from, RULE_LEFT, 320)};
    if (!(fabs(left[0] / left[1] - 2) < 0.2)) fail_msg("%s: left leaves %.6f and %.6f", name, left[0], left[1]);
    double middle[2] = {residual(&g, to, from, RULE_MIDPOINT, 40), residual(&g, to, from, RULE_MIDPOINT, 80)};
    if (!(fabs(middle[1]) <= 0.35 * fabs(middle[0]) + 2e-5)) fail_msg("%s: midpoint leaves %.7f and %.7f", name, middle[0], middle[1]);
    k = integrate(&g, to, NULL, RULE_MIDPOINT, 1, 0);
    assert_true(isfinite(integral_result(k).total) && integral_result(k).values[0] != 0);
    integral_free(k);
    one_step(&g, to, from);
    golden_close(&g);
}

static void test_converges(void **state)
{
    static const char *const families[] = {"gpt2", "llama", "qwen3", "gemma2", "gpt_neox"};
    (void)state;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) converges(families[i]);
}

/* Gauss's m points are exact for polynomials up to degree 2m − 1. */
static void test_points(void **state)
{
    double a[64], w[64];
    (void)state;
    for (uint32_t m = 1; m <= 64; m++) {
        integral_points(RULE_GAUSS, m, a, w);
        for (uint32_t degree = 0; degree < 2 * m; degree++) {
            double sum = 0;
            for (uint32_t i = 0; i < m; i++) sum += w[i] * pow(a[i], degree);
            if (!(fabs(sum - 1.0 / (degree + 1)) < 1e-12)) fail_msg("%u points, degree %u: %.15f", m, degree, sum);
        }
    }
    integral_points(RULE_LEFT, 4, a, w);
    assert_true(a[0] == 0 && a[3] == 0.75 && w[0] == 0.25);
    integral_points(RULE_RIGHT, 4, a, w);
    assert_true(a[0] == 0.25 && a[3] == 1);
    integral_points(RULE_MIDPOINT, 4, a, w);
    assert_true(a[0] == 0.125 && a[3] == 0.875);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_points), cmocka_unit_test(test_converges)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
