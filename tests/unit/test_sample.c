/* Choosing tokens: the greedy rule, the order of the best, and the distributions that top_k,
 * top_p and temperature leave, against probabilities worked out here. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/sample.h"
#include "support/golden.h"
#include "support/numbers.h"

static void test_greedy(void **state)
{
    (void)state;
    struct err e = {0};
    struct random r, before;
    uint32_t id;
    const float logits[] = {-2, 3, 1, 3, -9};
    random_init(&r, 1);
    before = r;
    must(sample(logits, 5, &(struct sampling){.temperature = 0, .top_p = 1}, &r, &id, &e), e);
    assert_int_equal(id, 1); /* the lowest id among equals */
    assert_memory_equal(&r, &before, sizeof r); /* and no luck was needed */
}

/* The next best by a plain search, again and again. */
static void test_top_logits(void **state)
{
    (void)state;
    enum { V = 300 };
    struct err e = {0};
    uint64_t seed = 2;
    float logits[V];
    uint32_t got[V];
    for (int i = 0; i < V; i++) logits[i] = (float)floor(uniform(&seed, 20)); /* with many equals */
    static const uint32_t counts[] = {1, 2, 5, 63, 64, 65, 100, V};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        bool taken[V] = {false};
        must(top_logits(logits, V, counts[c], got, &e), e);
        for (uint32_t k = 0; k < counts[c]; k++) {
            int best = -1;
            for (int i = 0; i < V; i++)
                if (!taken[i] && (best < 0 || logits[i] > logits[best])) best = i;
            taken[best] = true;
            assert_int_equal(got[k], best);
        }
    }
}

/* Counts of N draws against p: a token of probability 0 never comes, the others within five
 * standard deviations. */
static void check_draws(const float *logits, uint32_t V, struct sampling how, const double *p)
{
    enum { N = 40000 };
    struct err e = {0};
    struct random r;
    int count[16] = {0};
    random_init(&r, 3);
    for (int i = 0; i < N; i++) {
        uint32_t id;
        must(sample(logits, V, &how, &r, &id, &e), e);
        assert_in_range(id, 0, V - 1);
        count[id]++;
    }
    for (uint32_t i = 0; i < V; i++) {
        double off = fabs(count[i] - N * p[i]), deviation = sqrt(N * p[i] * (1 - p[i]));
        if (p[i] == 0 ? count[i] != 0 : off > 5 * deviation + 1)
            fail_msg("T %g k %u p %g: token %u came %d times, %.0f expected", how.temperature, how.top_k, how.top_p, i, count[i], N * p[i]);
    }
}

/* softmax(logits / T) of the tokens kept, zero elsewhere. */
static void kept_softmax(const double *logits, uint32_t V, double T, const bool *keep, double *p)
{
    double sum = 0;
    for (uint32_t i = 0; i < V; i++) sum += p[i] = keep[i] ? exp(logits[i] / T) : 0;
    for (uint32_t i = 0; i < V; i++) p[i] /= sum;
}

static void test_distributions(void **state)
{
    (void)state;
    /* softmax at T = 1: 0.4 0.2 0.2 0.1 0.06 0.04 (logarithms of these), in a mixed order */
    static const double share[] = {0.2, 0.06, 0.4, 0.04, 0.2, 0.1};
    enum { V = 6 };
    float logits[V];
    double wide[V], p[V];
    for (int i = 0; i < V; i++) wide[i] = (double)(logits[i] = (float)log(share[i]) + 5);
    static const struct { struct sampling how; bool keep[V]; } rows[] = {
        {{1, 1, 0}, {1, 1, 1, 1, 1, 1}},
        {{0.5, 1, 0}, {1, 1, 1, 1, 1, 1}},
        {{2, 1, 0}, {1, 1, 1, 1, 1, 1}},
        {{1, 1, 1}, {0, 0, 1, 0, 0, 0}},
        {{1, 1, 2}, {1, 0, 1, 0, 0, 0}},        /* of two equals the lower id */
        {{1, 1, 3}, {1, 0, 1, 0, 1, 0}},
        {{1, 1, 99}, {1, 1, 1, 1, 1, 1}},
        {{1, 0.3, 0}, {0, 0, 1, 0, 0, 0}},      /* 0.4 reaches 0.3 */
        {{1, 0.45, 0}, {1, 0, 1, 0, 0, 0}},     /* 0.6 */
        {{1, 0.85, 0}, {1, 0, 1, 0, 1, 1}},     /* 0.9 */
        {{1, 0.001, 0}, {0, 0, 1, 0, 0, 0}},    /* at least one */
        {{0.5, 0.75, 0}, {1, 0, 1, 0, 0, 0}},   /* squared: .16 .04 .04 .01 … of .2552: .627, .784 */
        {{1, 0.9, 3}, {1, 0, 1, 0, 1, 0}},      /* of the best three, .5 .25 .25 */
        {{1, 0.7, 3}, {1, 0, 1, 0, 0, 0}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        kept_softmax(wide, V, rows[i].how.temperature, rows[i].keep, p);
        check_draws(logits, V, rows[i].how, p);
    }
}

/* Logits a thousand apart, or a temperature near zero, neither overflow nor divide by zero. */
static void test_extremes(void **state)
{
    (void)state;
    static const float far[] = {-1000, 1000, 0, 900};
    check_draws(far, 4, (struct sampling){1, 1, 0}, (const double[]){0, 1, 0, 0});
    static const float near[] = {1, 1.001f, 1, 1};
    check_draws(near, 4, (struct sampling){1e-6, 1, 0}, (const double[]){0, 1, 0, 0});
    check_draws(near, 4, (struct sampling){1e6, 1, 0}, (const double[]){0.25, 0.25, 0.25, 0.25});
}

static void test_same_seed_same_draws(void **state)
{
    (void)state;
    struct err e = {0};
    struct random a, b, c;
    uint64_t seed = 4;
    float logits[100];
    int differ = 0;
    for (int i = 0; i < 100; i++) logits[i] = (float)uniform(&seed, 2);
    random_init(&a, 7), random_init(&b, 7), random_init(&c, 8);
    for (int i = 0; i < 500; i++) {
        uint32_t x, y, z;
        const struct sampling how = {0.9, 0.95, 50};
        must(sample(logits, 100, &how, &a, &x, &e) && sample(logits, 100, &how, &b, &y, &e) && sample(logits, 100, &how, &c, &z, &e), e);
        assert_int_equal(x, y);
        differ += x != z;
    }
    assert_true(differ > 300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),   cmocka_unit_test(test_top_logits),
        cmocka_unit_test(test_distributions), cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_same_seed_same_draws),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
