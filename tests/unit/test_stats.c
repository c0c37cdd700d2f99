/* Intervals, ranks and areas against scipy (tests/golden/stats.json, by make_stats.py) and closed forms.
 * An interval of 2,000 draws is a random thing: a tenth of its width is five standard errors. */
#include "probes/stats.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "core/base/mem.h"
#include "support/golden.h"

enum { MOST = 256 };

static size_t numbers(const struct json *list, double out[MOST])
{
    size_t n = 0;
    for (const struct json *v = list ? list->child : NULL; v; v = v->next) {
        assert_true(n < MOST);
        out[n++] = v->type == JSON_BOOL ? v->boolean : v->number;
    }
    return n;
}

static double number(const struct json *o, const char *key) { return json_get(o, key)->number; }

static void intervals_are_scipys(void **state)
{
    (void)state;
    const struct json *all = golden_json("tests/golden/stats.json", &golden_arena);
    for (const struct json *c = json_get(all, "intervals")->child; c; c = c->next) {
        double x[MOST], y[MOST], of[MOST];
        uint32_t cluster[MOST], most = 0;
        struct err e = {0};
        struct draws d;
        struct estimate got;
        size_t n = numbers(json_get(c, "x"), x), ratio = numbers(json_get(c, "y"), y);
        assert_int_equal(numbers(json_get(c, "cluster"), of), n);
        for (size_t i = 0; i < n; i++) {
            cluster[i] = (uint32_t)of[i];
            if (cluster[i] > most) most = cluster[i];
        }
        must(draws_make(&d, cluster, n, most + 1u, 7, &e), e);
        must(ratio ? stats_ratio(&d, x, y, 1, 0.95, &got, &e) : stats_mean(&d, x, 1, 0.95, &got, &e), e);
        double width = number(c, "high") - number(c, "low");
        assert_int_equal(got.n, n);
        assert_true(fabs(got.value - number(c, "mean")) <= 1e-12);
        if (!(fabs(got.low - number(c, "low")) <= 0.1 * width && fabs(got.high - number(c, "high")) <= 0.1 * width))
            fail_msg("%g..%g, %g..%g expected", got.low, got.high, number(c, "low"), number(c, "high"));
        mem_drop(d.count);
    }
}

static void ranks_are_scipys(void **state)
{
    (void)state;
    const struct json *all = golden_json("tests/golden/stats.json", &golden_arena);
    double x[MOST], y[MOST], got;
    struct err e = {0};
    for (const struct json *c = json_get(all, "spearman")->child; c; c = c->next) {
        size_t n = numbers(json_get(c, "x"), x);
        assert_int_equal(numbers(json_get(c, "y"), y), n);
        must(stats_spearman(x, y, n, &got, &e), e);
        assert_true(fabs(got - number(c, "rho")) <= 1e-12);
    }
    for (const struct json *c = json_get(all, "auc")->child; c; c = c->next) {
        bool member[MOST];
        size_t n = numbers(json_get(c, "score"), x);
        assert_int_equal(numbers(json_get(c, "member"), y), n);
        for (size_t i = 0; i < n; i++) member[i] = y[i] != 0;
        must(stats_auc(x, member, n, &got, &e), e);
        assert_true(fabs(got - number(c, "auc")) <= 1e-12);
    }
}

static void what_cannot_be_said_is_nan(void **state)
{
    (void)state;
    static const double x[] = {1, 2, NAN, 4}, same[] = {3, 3, 3, 3};
    static const uint32_t one[] = {0, 0, 0, 0}, two[] = {0, 0, 1, 0}; /* cluster 1 has no value */
    static const bool all[] = {true, true, true, true};
    struct err e = {0};
    struct draws d;
    struct estimate got;
    double value;
    must(draws_make(&d, one, 4, 1, 1, &e) && stats_mean(&d, x, 1, 0.95, &got, &e), e);
    assert_true(fabs(got.value - 7.0 / 3) < 1e-15 && got.n == 3 && isnan(got.low) && isnan(got.high));
    mem_drop(d.count);
    must(draws_make(&d, two, 4, 2, 1, &e) && stats_mean(&d, x, 1, 0.95, &got, &e), e);
    assert_true(isnan(got.low) && isnan(got.high));
    mem_drop(d.count);
    must(stats_spearman(x, same, 4, &value, &e), e);
    assert_true(isnan(value));
    must(stats_auc(x, all, 4, &value, &e), e);
    assert_true(isnan(value));
}

/* The same seed draws the same; a constant has no spread; strides step over other columns. */
static void draws_are_reproducible(void **state)
{
    (void)state;
    static const double table[] = {5, 1, 5, 2, 5, 3, 5, 9};
    static const uint32_t cluster[] = {0, 1, 2, 3};
    struct err e = {0};
    struct draws a, b;
    struct estimate x, y;
    must(draws_make(&a, cluster, 4, 4, 11, &e) && draws_make(&b, cluster, 4, 4, 11, &e), e);
    must(stats_mean(&a, table, 2, 0.95, &x, &e), e);
    assert_true(x.value == 5 && x.low == 5 && x.high == 5);
    must(stats_mean(&a, table + 1, 2, 0.95, &x, &e) && stats_mean(&b, table + 1, 2, 0.95, &y, &e), e);
    assert_true(x.value == 3.75 && x.low == y.low && x.high == y.high && x.low < 3.75 && x.high > 3.75);
    must(stats_mean(&a, table + 1, 2, 0.5, &y, &e), e);
    assert_true(y.low > x.low && y.high < x.high);
    mem_drop(a.count);
    mem_drop(b.count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(intervals_are_scipys),
        cmocka_unit_test(ranks_are_scipys),
        cmocka_unit_test(what_cannot_be_said_is_nan),
        cmocka_unit_test(draws_are_reproducible),
    };
    return cmocka_run_group_tests(tests, golden_arena_init, golden_arena_release);
}
