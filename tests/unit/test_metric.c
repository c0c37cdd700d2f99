/* Metrics of a next-token distribution against numbers worked out from their definitions in another
 * language, and against what must hold of them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/kernel/softmax.h"
#include "probes/metric.h"
#include "support/numbers.h"

static const float y[] = {1, 2, 3, -1, 0.5f}, r[] = {0, 1, 2, 2, -1};
enum { V = 5 };

static void near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-12 * fmax(1, fabs(want)))) fail_msg("%.17g, %.17g expected", got, want);
}

static void test_by_hand(void **state)
{
    (void)state;
    static const uint32_t answer[] = {2, 0}, foil[] = {1, 3, 4};
    const float panel[] = {3, 1, 2, -1, 0.5f}; /* the answers' logits, then the foils' */
    double ref[V], p[V];
    log_softmax(r, V, ref);
    struct metric m = {METRIC_PROB, answer, foil, 1, 0, 0, NULL};
    near(log_sum_exp(y, NULL, V), 3.472260681386556);
    near(log_sum_exp(y + 1, NULL, 1), 2);
    near(logit_diff(panel, 2, 3), 0.8856167143858156);
    near(logit_diff((float[]){3, 2}, 1, 1), 1);
    near(metric_of_logits(&m, y, V, NULL), 0.6235909331788121);
    m.n_answer = 2;
    near(metric_of_logits(&m, y, V, NULL), 0.7079847887443501);
    m.kind = METRIC_LOGPROB;
    near(metric_of_logits(&m, y, V, NULL), -0.34533267034358367);
    m.kind = METRIC_KL;
    near(metric_of_logits(&m, y, V, ref), 1.0920232241419432);
    double sum = 0;
    log_softmax(y, V, p);
    for (int i = 0; i < V; i++) sum += exp(p[i]);
    near(sum, 1);
    near(p[3], -1 - 3.472260681386556);
}

/* p against itself: nothing; against anything else: something; a shift of all logits: no matter. */
static void test_kl(void **state)
{
    (void)state;
    enum { N = 300 };
    uint64_t seed = 1;
    struct metric m = {.kind = METRIC_KL};
    for (int round = 0; round < 100; round++) {
        float *a = random_floats(&seed, N, 10), *b = random_floats(&seed, N, 10), shifted[N];
        double *ref = zero_doubles(N);
        log_softmax(a, N, ref);
        assert_true(fabs(metric_of_logits(&m, a, N, ref)) < 1e-13);
        assert_true(metric_of_logits(&m, b, N, ref) > 0.1);
        for (int i = 0; i < N; i++) shifted[i] = a[i] + 64; /* exact up to float32 rounding */
        assert_true(fabs(metric_of_logits(&m, shifted, N, ref)) < 1e-8);
        free(a), free(b), free(ref);
    }
}

/* Logits thousands apart: no overflow, no NaN, and small logarithms stay right. */
static void test_extremes(void **state)
{
    (void)state;
    const float far[] = {5000, -5000, 4900}, equal[] = {-3e4f, -3e4f};
    static const uint32_t last[] = {1}, both[] = {0, 1};
    struct metric m = {METRIC_LOGPROB, last, NULL, 1, 0, 0, NULL};
    near(metric_of_logits(&m, far, 3, NULL), -10000);
    m.kind = METRIC_PROB;
    assert_true(metric_of_logits(&m, far, 3, NULL) == 0);
    near(log_sum_exp(equal, NULL, 2), -3e4 + log(2));
    m.answer = both, m.n_answer = 2;
    near(metric_of_logits(&m, equal, 2, NULL), 1);
    near(logit_diff(far, 1, 2), 100);
    m.kind = METRIC_KL;
    double ref[3];
    log_softmax(far, 3, ref);
    near(metric_of_logits(&m, far, 3, ref), 0);
}

/* Gradients with respect to each logit, by central differences; and values, by their definitions. */
static void test_gradients(void **state)
{
    (void)state;
    static const uint32_t one[] = {2}, answer[] = {2, 0}, foil[] = {1, 3, 4}, single[] = {4};
    static const struct metric metrics[] = {
        {METRIC_LOGIT, one, NULL, 1, 0, 0, NULL}, {METRIC_LOGIT, answer, NULL, 2, 0, 0, NULL}, {METRIC_LOGIT_DIFF, one, single, 1, 1, 0, NULL},
        {METRIC_LOGIT_DIFF, answer, foil, 2, 3, 0, NULL}, {METRIC_PROB, one, NULL, 1, 0, 0, NULL}, {METRIC_PROB, answer, NULL, 2, 0, 0, NULL},
        {METRIC_LOGPROB, single, NULL, 1, 0, 0, NULL}, {METRIC_LOGPROB, foil, NULL, 3, 0, 0, NULL}, {METRIC_PROB_DIFF, one, single, 1, 1, 0, NULL},
        {METRIC_PROB_DIFF, answer, foil, 2, 3, 0, NULL}, {METRIC_KL, NULL, NULL, 0, 0, 0, NULL}, {METRIC_LOSS, one, NULL, 1, 0, 0, NULL}};
    const float eps = 0x1p-8f; /* exact beside these logits */
    double ref[V];
    bool seen[METRIC_COUNT] = {0};
    log_softmax(r, V, ref);
    for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++) {
        float slope[V], x[V];
        const struct metric *m = &metrics[i];
        seen[m->kind] = true;
        near(metric_gradient(m, y, V, ref, slope), metric_of_logits(m, y, V, ref));
        for (int k = 0; k < V; k++) {
            memcpy(x, y, sizeof x);
            x[k] = y[k] + eps;
            double up = metric_of_logits(m, x, V, ref);
            x[k] = y[k] - eps;
            double want = (up - metric_of_logits(m, x, V, ref)) / (2 * (double)eps);
            if (!(fabs((double)slope[k] - want) <= 2e-5)) fail_msg("%s: slope %d is %g, %g expected", metric_word(m->kind), k, (double)slope[k], want);
        }
    }
    for (unsigned k = 0; k < METRIC_COUNT; k++) assert_int_equal(seen[k], metric_has_gradient((enum metric_kind)k));
    const struct metric pd = {METRIC_PROB_DIFF, answer, foil, 2, 3, 0, NULL}, loss = {METRIC_LOSS, one, NULL, 1, 0, 0, NULL}, logit = {METRIC_LOGIT, answer, NULL, 2, 0, 0, NULL};
    near(metric_of_logits(&pd, y, V, NULL), 0.7079847887443501 - (1 - 0.7079847887443501));
    near(metric_of_logits(&loss, y, V, NULL), -log(0.6235909331788121));
    near(metric_of_logits(&logit, y, V, NULL), log(exp(3) + exp(1)));
    near(logit_diff((float[]){3, 1}, 2, 0), log(exp(3) + exp(1)));
}

static void test_names(void **state)
{
    (void)state;
    static const struct { const char *word; enum metric_kind kind; bool answer, foil, vocab, gradient; } rows[] = {
        {"logit", METRIC_LOGIT, true, false, false, true}, {"logit_diff", METRIC_LOGIT_DIFF, true, true, false, true},
        {"norm_logit_diff", METRIC_NORM_LOGIT_DIFF, true, true, false, false}, {"prob", METRIC_PROB, true, false, true, true},
        {"logprob", METRIC_LOGPROB, true, false, true, true}, {"prob_diff", METRIC_PROB_DIFF, true, true, true, true},
        {"kl", METRIC_KL, false, false, true, true}, {"loss", METRIC_LOSS, true, false, true, true},
        {"projection", METRIC_PROJECTION, false, false, false, false}};
    assert_int_equal(METRIC_COUNT, sizeof rows / sizeof *rows);
    for (size_t i = 0; i < METRIC_COUNT; i++) {
        enum metric_kind k = METRIC_COUNT;
        assert_true(metric_parse(rows[i].word, &k));
        assert_int_equal(k, rows[i].kind);
        assert_string_equal(metric_word(k), rows[i].word);
        assert_int_equal(metric_needs_answer(k), rows[i].answer);
        assert_int_equal(metric_needs_foil(k), rows[i].foil);
        assert_int_equal(metric_needs_vocab(k), rows[i].vocab);
        assert_int_equal(metric_has_gradient(k), rows[i].gradient);
    }
    enum metric_kind k = METRIC_COUNT;
    assert_false(metric_parse("", &k) || metric_parse("KL", &k) || metric_parse("logits", &k));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_kl),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
