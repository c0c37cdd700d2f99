/* What turns one row of scores into probabilities. float32, in place. Pure.
 *
 *     soft-cap   s ← c · tanh(s/c)             nothing at c = 0; of logits too
 *     softmax    p ← exp(p − max p) / Σ        n ≥ 1
 *     log-sum    log Σ exp x                   n ≥ 1, summed in float64; x is left alone
 */
#ifndef ENGRAM_SOFTMAX_H
#define ENGRAM_SOFTMAX_H

#include <stddef.h>
#include <stdint.h>

void softcap_row(float *s, size_t n, float cap);
/* d ← d · (1 − (s/c)²), with s after the soft-cap. */
void softcap_backward(float *d, const float *s, size_t n, float cap);
void softmax_row(float *p, uint32_t n);
double log_sum_exp_row(const float *x, uint32_t n);

#endif
