/* The gradient of a metric where a tape's pass back begins: at the logits of one position of each sequence.
 *
 * A sequence's metric is read where it is scored; slope_row is what tape_head calls (core/train.h). Sequences
 * are not averaged: each gets the gradient of its own metric. norm_logit_diff is the difference here: it is
 * linear in that, and the caller divides. One thread; borrowed.
 */
#ifndef ENGRAM_SLOPE_H
#define ENGRAM_SLOPE_H

#include "metric.h"

struct slope {
    const struct metric *metric;
    const double *reference; /* [V] log-probabilities; kl only */
    uint32_t V;
    float *work;             /* [V] */
    double *value;           /* [sequences] gets the metric; or NULL */
};

void slope_row(void *ctx, size_t seq, size_t k, float *logits);

#endif
