/* The gated MLP's element-wise part: post = silu(gate) · up, silu(x) = x / (1 + e^−x). */
#ifndef ENGRAM_MLP_H
#define ENGRAM_MLP_H

#include <stddef.h>
#include <stdint.h>

/* gate_up rows are [gate m | up m]; post rows are [m]. */
void gated_forward(const float *gate_up, float *post, size_t rows, uint32_t m);
/* d_gate_up (same layout as gate_up) from d_post. */
void gated_backward(const float *gate_up, const float *d_post, float *d_gate_up, size_t rows, uint32_t m);

#endif
