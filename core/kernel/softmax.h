/* What turns one row of scores into probabilities. float32, in place. Pure.
 *
 *     soft-cap   s ← c · tanh(s/c)             nothing at c = 0; of logits too
 *     softmax    p ← exp(p − max p) / Σ        n ≥ 1
 *     log-sum    log Σ exp x                   n ≥ 1; x is left alone
 */
#ifndef ENGRAM_SOFTMAX_H
#define ENGRAM_SOFTMAX_H

#include <stddef.h>
#include <stdint.h>

void softcap_row(float *s, size_t n, float cap);
/* d ← d · (1 − (s/c)²), with s after the soft-cap. */
void softcap_backward(float *d, const float *s, size_t n, float cap);
void softmax_row(float *p, uint32_t n);
double log_sum_exp_row(const float *x, uint32_t n); /* float32 exponentials, summed in float64 */
/* The same in float64 all the way, for what is measured: of x[ids[0..n)], or of x[0..n) when ids is NULL. */
double log_sum_exp(const float *x, const uint32_t *ids, size_t n);

#endif
