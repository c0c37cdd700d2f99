/* The MLP's element-wise part: post = act(pre), or gated, post = act(gate) · up.
 *
 *     silu(x) = x / (1 + e^−x)
 *     gelu(x) = x · Φ(x) (erf), or its tanh form ½x(1 + tanh(√(2/π)(x + 0.044715 x³)))
 */
#ifndef ENGRAM_MLP_H
#define ENGRAM_MLP_H

#include <stddef.h>
#include <stdint.h>

#include "core/arch.h"

/* pre rows are [m], gated [gate m | up m]; post rows are [m]. */
void mlp_forward(enum activation act, bool gated, const float *pre, float *post, size_t rows, uint32_t m);
/* d_pre (same layout as pre, may be it) from d_post. */
void mlp_backward(enum activation act, bool gated, const float *pre, const float *d_post, float *d_pre,
                  size_t rows, uint32_t m);

#endif
