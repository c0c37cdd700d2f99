#include "norm.h"

#include <math.h>

#include "simd.h"

/* ---- a row's mean and scale ----------------------------------------------------------------------- */

INLINE float sum(const float *x, uint32_t d)
{
    v16 s = {0};
    uint32_t i = 0;
    for (; i + LANES <= d; i += LANES) s += load16(x + i);
    if (i < d) s += load_tail(x + i, d - i, 0);
    return sum16(s);
}

/* Σ (x − mean)², in two sums so that one addition need not wait for the last. */
INLINE float squares_around(const float *x, float mean, uint32_t d)
{
    v16 even = {0}, odd = {0}, c;
    uint32_t i = 0;
    for (; i + 2 * LANES <= d; i += 2 * LANES) {
        c = load16(x + i) - mean;
        even += c * c;
        c = load16(x + i + LANES) - mean;
        odd += c * c;
    }
    for (; i < d; i += LANES) {
        c = (d - i < LANES ? load_tail(x + i, d - i, mean) : load16(x + i)) - mean;
        even += c * c;
    }
    return sum16(even + odd);
}

struct moments {
    float mean, scale; /* RMS: mean is 0, and x − 0 is x to the last bit */
};

/* Whole norms and their parts share this function and finish_row below as they are compiled, not only as
 * they are written: a hook that only looks changes no bit. */
KERNEL static struct moments moments(const struct norm *n, const float *x, uint32_t d)
{
    float mean = n->kind == NORM_LAYER ? sum(x, d) / (float)d : 0.0f;
    return (struct moments){mean, sqrtf(squares_around(x, mean, d) / (float)d + n->eps)};
}

/* ---- whole norms ---------------------------------------------------------------------------------- */

/* y = (x − mean) · inverse · (offset + gain) + bias */
INLINE void finish(float mean, float inverse, float offset, const float *x, const float *gain, const float *bias,
                   float *y, uint32_t d)
{
    uint32_t i = 0;
    for (; i + LANES <= d; i += LANES) {
        v16 scaled = (load16(x + i) - mean) * inverse * (offset + load16(gain + i));
        store16(y + i, bias ? scaled + load16(bias + i) : scaled);
    }
    if (i == d) return;
    uint32_t k = d - i;
    v16 scaled = (load_tail(x + i, k, 0) - mean) * inverse * (offset + load_tail(gain + i, k, 0));
    store_tail(y + i, bias ? scaled + load_tail(bias + i, k, 0) : scaled, k);
}

KERNEL static void finish_row(const struct norm *n, const float *x, float mean, float inverse, float *y, uint32_t d)
{
    if (n->bias) finish(mean, inverse, n->offset, x, n->gain, n->bias, y, d);
    else finish(mean, inverse, n->offset, x, n->gain, NULL, y, d);
}

KERNEL void norm_forward(const struct norm *n, const float *x, size_t ldx, float *y, size_t ldy, size_t rows, uint32_t d)
{
    for (size_t r = 0; r < rows; r++, x += ldx, y += ldy) {
        struct moments m = moments(n, x, d);
        finish_row(n, x, m.mean, 1.0f / m.scale, y, d);
    }
}

/* With u = (x − mean)/s and g = (offset + gain)·dy:  dx = (g − mean(g) − u · mean(g·u)) / s, where
 * RMS has no mean to pass a gradient through. */
KERNEL void norm_backward(const struct norm *n, const float *x, size_t ldx, const float *dy, size_t lddy,
                          float *dx, size_t lddx, size_t rows, uint32_t d)
{
    for (size_t r = 0; r < rows; r++, x += ldx, dy += lddy, dx += lddx) {
        struct moments m = moments(n, x, d);
        float inverse = 1.0f / m.scale;
        v16 sum_g = {0}, sum_gu = {0};
        for (uint32_t i = 0; i < d; i += LANES) {
            uint32_t k = d - i < LANES ? d - i : LANES;
            v16 g = (n->offset + load_some(n->gain + i, k)) * load_some(dy + i, k);
            sum_g += g; /* lanes past the end are zero in dy */
            sum_gu += g * (load_some(x + i, k) - m.mean);
        }
        float mean_g = n->kind == NORM_LAYER ? sum16(sum_g) / (float)d : 0.0f;
        float mean_gu = sum16(sum_gu) * inverse / (float)d;
        for (uint32_t i = 0; i < d; i += LANES) {
            uint32_t k = d - i < LANES ? d - i : LANES;
            v16 g = (n->offset + load_some(n->gain + i, k)) * load_some(dy + i, k);
            v16 unit = (load_some(x + i, k) - m.mean) * inverse;
            store_some(dx + i, load_some(dx + i, k) + (g - mean_g - unit * mean_gu) * inverse, k);
        }
    }
}

/* ---- parts ---------------------------------------------------------------------------------------- */

KERNEL void norm_scale(const struct norm *n, const float *x, float *scale, float *centred, size_t rows, uint32_t d)
{
    for (size_t r = 0; r < rows; r++, x += d, centred += d) {
        struct moments m = moments(n, x, d);
        scale[r] = m.scale;
        for (uint32_t i = 0; i < d; i++) centred[i] = x[i] - m.mean;
    }
}

KERNEL void norm_divide(const float *centred, const float *scale, float *normalised, size_t rows, uint32_t d)
{
    for (size_t r = 0; r < rows; r++, centred += d, normalised += d) {
        float inverse = 1.0f / scale[r];
        for (uint32_t i = 0; i < d; i++) normalised[i] = centred[i] * inverse;
    }
}

KERNEL void norm_finish(const struct norm *n, const float *normalised, float *y, size_t rows, uint32_t d)
{
    for (size_t r = 0; r < rows; r++) finish_row(n, normalised + r * d, 0.0f, 1.0f, y + r * d, d);
}

KERNEL void norm_finish_backward(const struct norm *n, const float *dy, float *d_normalised, size_t rows, uint32_t d)
{
    for (size_t r = 0; r < rows; r++, dy += d, d_normalised += d)
        for (uint32_t i = 0; i < d; i++) d_normalised[i] = dy[i] * (n->offset + n->gain[i]);
}

KERNEL void norm_divide_backward(const float *d_normalised, const float *centred, const float *scale, float *d_scale,
                                 size_t rows, uint32_t d)
{
    for (size_t r = 0; r < rows; r++, d_normalised += d, centred += d)
        d_scale[r] = -dot(d_normalised, centred, d) / (scale[r] * scale[r]);
}

void norm_gain_backward(const float *dy, const float *normalised, size_t rows, uint32_t d, float *d_gain, float *d_bias)
{
    for (size_t r = 0; r < rows; r++, dy += d, normalised += d)
        for (uint32_t i = 0; i < d; i++) {
            if (d_gain) d_gain[i] += dy[i] * normalised[i];
            if (d_bias) d_bias[i] += dy[i];
        }
}
