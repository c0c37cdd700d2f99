#include "metric.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/kernel/softmax.h"

static const struct {
    const char *word;
    bool answer, foil, vocab, gradient;
} rows[] = {
#define METRIC(name, word, answer, foil, vocab, gradient) {word, answer, foil, vocab, gradient},
#include "metric.def"
#undef METRIC
};
static_assert(sizeof rows / sizeof *rows == METRIC_COUNT, "one row per metric");

const char *metric_word(enum metric_kind k) { return rows[k].word; }
bool metric_needs_foil(enum metric_kind k) { return rows[k].foil; }
bool metric_needs_vocab(enum metric_kind k) { return rows[k].vocab; }
bool metric_needs_answer(enum metric_kind k) { return rows[k].answer; }
bool metric_has_gradient(enum metric_kind k) { return rows[k].gradient; }

bool metric_any(const struct metric *m, size_t n, enum metric_kind k)
{
    for (size_t i = 0; i < n; i++)
        if (m[i].kind == k) return true;
    return false;
}

bool metric_parse(const char *word, enum metric_kind *out)
{
    for (unsigned k = 0; k < METRIC_COUNT; k++)
        if (strcmp(rows[k].word, word) == 0) {
            *out = (enum metric_kind)k;
            return true;
        }
    return false;
}

double logit_diff(const float *panel, size_t n_answer, size_t n_foil)
{
    double answer = log_sum_exp(panel, NULL, n_answer);
    return n_foil ? answer - log_sum_exp(panel + n_answer, NULL, n_foil) : answer;
}

void log_softmax(const float *logits, uint32_t V, double *out)
{
    double total = log_sum_exp(logits, NULL, V);
    for (uint32_t i = 0; i < V; i++) out[i] = (double)logits[i] - total;
}

/* ---- formulas ------------------------------------------------------------------------------------ */

/* Log-sum-exps of a row of logits: what all formulas are made of. */
struct sums {
    double answer, foil, all;
};

/* A formula's value, and its slope with respect to each of the sums. (d LSE over a set is the softmax
 * within that set.) */
struct formula {
    double value;
    struct sums slope;
};

static struct formula logit_of(struct sums s) { return (struct formula){s.answer, {1, 0, 0}}; }
static struct formula difference(struct sums s) { return (struct formula){s.answer - s.foil, {1, -1, 0}}; }
static struct formula logprob(struct sums s) { return (struct formula){s.answer - s.all, {1, 0, -1}}; }
static struct formula loss(struct sums s) { return (struct formula){s.all - s.answer, {-1, 0, 1}}; }

static struct formula prob(struct sums s)
{
    double p = exp(s.answer - s.all);
    return (struct formula){p, {p, 0, -p}};
}

static struct formula prob_diff(struct sums s)
{
    double p = exp(s.answer - s.all), q = exp(s.foil - s.all);
    return (struct formula){p - q, {p, -q, q - p}};
}

static struct formula (*const formulas[METRIC_COUNT])(struct sums) = {
    [METRIC_LOGIT] = logit_of, [METRIC_LOGIT_DIFF] = difference, [METRIC_NORM_LOGIT_DIFF] = difference,
    [METRIC_PROB] = prob,      [METRIC_LOGPROB] = logprob,       [METRIC_PROB_DIFF] = prob_diff,
    [METRIC_LOSS] = loss,
};

static struct sums sums_of(const struct metric *m, const float *logits, uint32_t V)
{
    return (struct sums){log_sum_exp(logits, m->answer, m->n_answer),
                         m->n_foil ? log_sum_exp(logits, m->foil, m->n_foil) : 0, log_sum_exp(logits, NULL, V)};
}

static double kl(const float *logits, uint32_t V, const double *ref)
{
    double total = log_sum_exp(logits, NULL, V), sum = 0;
    for (uint32_t i = 0; i < V; i++) {
        double p = exp(ref[i]);
        if (p > 0) sum += p * (ref[i] - ((double)logits[i] - total));
    }
    return sum;
}

double metric_of_logits(const struct metric *m, const float *logits, uint32_t V, const double *ref)
{
    assert(m->kind != METRIC_PROJECTION);
    if (m->kind == METRIC_KL) return kl(logits, V, ref);
    return formulas[m->kind](sums_of(m, logits, V)).value;
}

double metric_of_row(const struct metric *m, const float *x, size_t d, const float *logits, uint32_t V, const double *ref)
{
    double sum = 0;
    if (m->kind != METRIC_PROJECTION) return metric_of_logits(m, logits, V, ref);
    for (size_t i = 0; i < d; i++) sum += (double)x[i] * (double)m->direction[i];
    return sum;
}

/* ---- gradients ----------------------------------------------------------------------------------- */

/* p − p_ref, since both sum to 1. */
static void kl_gradient(const float *logits, uint32_t V, const double *ref, float *out)
{
    double total = log_sum_exp(logits, NULL, V);
    for (uint32_t i = 0; i < V; i++) out[i] = (float)(exp((double)logits[i] - total) - exp(ref[i]));
}

/* The entries of one set, in float64 from both sums they are in: answer and foil do not overlap. */
struct set {
    const uint32_t *ids;
    size_t n;
    double sum, slope;
};

static void set_gradient(const float *logits, struct set s, double all, double all_slope, float *out)
{
    for (size_t i = 0; i < s.n; i++) {
        double y = (double)logits[s.ids[i]];
        out[s.ids[i]] = (float)(s.slope * exp(y - s.sum) + all_slope * exp(y - all));
    }
}

double metric_gradient(const struct metric *m, const float *logits, uint32_t V, const double *ref, float *out)
{
    assert(metric_has_gradient(m->kind));
    if (m->kind == METRIC_KL) {
        kl_gradient(logits, V, ref, out);
        return kl(logits, V, ref);
    }
    struct sums s = sums_of(m, logits, V);
    struct formula f = formulas[m->kind](s);
    for (uint32_t i = 0; i < V; i++)
        out[i] = f.slope.all != 0 ? (float)(f.slope.all * exp((double)logits[i] - s.all)) : 0.0f;
    set_gradient(logits, (struct set){m->answer, m->n_answer, s.answer, f.slope.answer}, s.all, f.slope.all, out);
    set_gradient(logits, (struct set){m->foil, m->n_foil, s.foil, f.slope.foil}, s.all, f.slope.all, out);
    return f.value;
}
