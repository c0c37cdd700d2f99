/* Softmax of one row, in place: p ← exp(p − max p) / Σ. float32, n ≥ 1. Pure. */
#ifndef ENGRAM_SOFTMAX_H
#define ENGRAM_SOFTMAX_H

#include <stdint.h>

void softmax_row(float *p, uint32_t n);

#endif
