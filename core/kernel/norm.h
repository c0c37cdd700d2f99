/* The two norms, forward, backward and in their parts. Rows of width d.
 *
 *     RMS     y = x / s · (offset + gain),          s = sqrt(mean(x²) + eps)
 *     Layer   y = (x − mean) / s · gain + bias,     s = sqrt(var(x) + eps)
 *
 * The parts (scale s, normalised n = (x − mean)/s) are what hooks see; y from given parts is
 * norm_finish. Means are float32 sums of sixteen lanes.
 */
#ifndef ENGRAM_NORM_H
#define ENGRAM_NORM_H

#include <stddef.h>
#include <stdint.h>

#include "core/arch.h"

struct norm {
    enum norm_kind kind;
    float eps, offset;
    const float *gain; /* [d] */
    const float *bias; /* [d], NORM_LAYER only */
};

/* y [rows][d] from x [rows][d] (row strides ldy, ldx); may run in place. */
void norm_forward(const struct norm *n, const float *x, size_t ldx, float *y, size_t ldy, size_t rows, uint32_t d);
/* dx += gradient through the norm of dy, given the forward's x. dy may be dx when it is overwritten
 * by the caller beforehand; strides as above. */
void norm_backward(const struct norm *n, const float *x, size_t ldx, const float *dy, size_t lddy,
                   float *dx, size_t lddx, size_t rows, uint32_t d);

/* The parts, rows contiguous: scale [rows], centred [rows][d] = x − mean (RMS: x). */
void norm_scale(const struct norm *n, const float *x, float *scale, float *centred, size_t rows, uint32_t d);
/* normalised [rows][d] = centred / scale. */
void norm_divide(const float *centred, const float *scale, float *normalised, size_t rows, uint32_t d);
/* y = normalised · gain (+ bias). */
void norm_finish(const struct norm *n, const float *normalised, float *y, size_t rows, uint32_t d);
/* d_normalised = dy · (offset + gain). */
void norm_finish_backward(const struct norm *n, const float *dy, float *d_normalised, size_t rows, uint32_t d);
/* d_gain [d] += Σ over rows of dy · normalised, d_bias [d] += Σ of dy; either may be NULL. */
void norm_gain_backward(const float *dy, const float *normalised, size_t rows, uint32_t d, float *d_gain, float *d_bias);
/* d_scale [rows] = −Σ d_normalised · centred / scale². */
void norm_divide_backward(const float *d_normalised, const float *centred, const float *scale, float *d_scale,
                          size_t rows, uint32_t d);

#endif
