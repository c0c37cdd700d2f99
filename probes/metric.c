#include "metric.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static const struct {
    const char *word;
    bool foil, vocab;
} rows[] = {
#define METRIC(name, word, foil, vocab) {word, foil, vocab},
#include "metric.def"
#undef METRIC
};
static_assert(sizeof rows / sizeof *rows == METRIC_COUNT, "one row per metric");

const char *metric_word(enum metric_kind k) { return rows[k].word; }
bool metric_needs_foil(enum metric_kind k) { return rows[k].foil; }
bool metric_needs_vocab(enum metric_kind k) { return rows[k].vocab; }
bool metric_needs_answer(enum metric_kind k) { return k != METRIC_KL; }

bool metric_parse(const char *word, enum metric_kind *out)
{
    for (unsigned k = 0; k < METRIC_COUNT; k++)
        if (strcmp(rows[k].word, word) == 0) {
            *out = (enum metric_kind)k;
            return true;
        }
    return false;
}

/* log Σ exp of x[ids[0..n)], or of x[0..n) when ids is NULL. */
static double log_sum_of(const float *x, const uint32_t *ids, size_t n)
{
    double top = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) {
        double v = (double)x[ids ? ids[i] : i];
        top = v > top ? v : top;
    }
    for (size_t i = 0; i < n; i++) sum += exp((double)x[ids ? ids[i] : i] - top);
    return top + log(sum);
}

double log_sum_exp(const float *x, size_t n) { return log_sum_of(x, NULL, n); }

double logit_diff(const float *panel, size_t n_answer, size_t n_foil)
{
    return log_sum_exp(panel, n_answer) - log_sum_exp(panel + n_answer, n_foil);
}

void log_softmax(const float *logits, uint32_t V, double *out)
{
    double total = log_sum_exp(logits, V);
    for (uint32_t i = 0; i < V; i++) out[i] = (double)logits[i] - total;
}

static double kl(const float *logits, uint32_t V, const double *ref)
{
    double total = log_sum_exp(logits, V), sum = 0;
    for (uint32_t i = 0; i < V; i++) {
        double p = exp(ref[i]);
        if (p > 0) sum += p * (ref[i] - ((double)logits[i] - total));
    }
    return sum;
}

double metric_of_logits(const struct metric *m, const float *logits, uint32_t V, const double *ref)
{
    if (m->kind == METRIC_KL) return kl(logits, V, ref);
    double logprob = log_sum_of(logits, m->answer, m->n_answer) - log_sum_exp(logits, V);
    return m->kind == METRIC_PROB ? exp(logprob) : logprob;
}
