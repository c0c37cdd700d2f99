/* RMSNorm: y = x / s · gain, s = sqrt(mean(x²) + eps). Rows of width d. */
#ifndef ENGRAM_NORM_H
#define ENGRAM_NORM_H

#include <stdint.h>
#include <stddef.h>

/* y [rows][d] from x [rows][d]; may run in place. */
void norm_forward(const float *x, const float *gain, float eps, float *y, size_t rows, uint32_t d);
/* dx [rows][d] += gradient through the norm of dy, given the forward's x. */
void norm_backward(const float *x, const float *gain, float eps, const float *dy, float *dx,
                   size_t rows, uint32_t d);

#endif
