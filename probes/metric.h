/* Metrics of a next-token distribution, in float64 from float32 logits.
 *
 *   logit            LSE(logits of answer)
 *   logit_diff       LSE(logits of answer) − LSE(logits of foil)
 *   norm_logit_diff  (LD − LD_corrupt) / (LD_clean − LD_corrupt): 0 no recovery, 1 full
 *   prob, logprob    of the answer list: Σ p, log Σ p
 *   prob_diff        Σ p over the answer − Σ p over the foil
 *   kl               Σ p_ref (log p_ref − log p), ref the source run
 *   projection       ⟨h, direction⟩, h the final residual stream before the last norm: of the row, not its logits
 *   loss             −log Σ p of the answer: what comes next
 *
 * LSE is log Σ exp, the value itself for one id. (interpretability conventions: Zhang & Nanda,
 * arXiv 2309.16042.) Pure functions.
 */
#ifndef ENGRAM_METRIC_H
#define ENGRAM_METRIC_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

enum metric_kind {
#define METRIC(name, word, answer, foil, vocab, gradient) METRIC_##name,
#include "metric.def"
#undef METRIC
    METRIC_COUNT
};

struct metric {
    enum metric_kind kind;
    const uint32_t *answer, *foil;
    size_t n_answer, n_foil;
    uint32_t pos;
    const float *direction; /* [d] projection only */
};

const char *metric_word(enum metric_kind k);
bool metric_parse(const char *word, enum metric_kind *out);
bool metric_any(const struct metric *m, size_t n, enum metric_kind k); /* is one of n of that kind? */
bool metric_needs_answer(enum metric_kind k);
bool metric_needs_foil(enum metric_kind k);
/* True when the whole vocabulary must be unembedded, false when answer and foil suffice. */
bool metric_needs_vocab(enum metric_kind k);
/* norm_logit_diff compares three runs and projection is not of the logits: they have none. */
bool metric_has_gradient(enum metric_kind k);

/* From logits of answer ids then foil ids, in order; without a foil the first term alone. */
double logit_diff(const float *panel, size_t n_answer, size_t n_foil);
/* From all V logits, of any but a projection; ref: the reference run's log-probabilities, kl only. norm_logit_diff is left as the
 * difference. */
double metric_of_logits(const struct metric *m, const float *logits, uint32_t V, const double *ref);
/* Of any kind, of the final row x [d] or of its logits, as the kind wants it. */
double metric_of_row(const struct metric *m, const float *x, size_t d, const float *logits, uint32_t V, const double *ref);
/* As metric_of_logits, and its gradient with respect to the logits into out [V]. */
double metric_gradient(const struct metric *m, const float *logits, uint32_t V, const double *ref, float *out);
void log_softmax(const float *logits, uint32_t V, double *out);

#endif
