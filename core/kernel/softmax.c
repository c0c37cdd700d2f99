#include "softmax.h"

#include <math.h>

#include "simd.h"

KERNEL static void cap_row(float *s, size_t n, float cap)
{
    float inverse = 1.0f / cap;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) store16(s + i, cap * tanh16(load16(s + i) * inverse));
    if (i < n) {
        uint32_t left = (uint32_t)(n - i);
        store_tail(s + i, cap * tanh16(load_tail(s + i, left, 0) * inverse), left);
    }
}

void softcap_row(float *s, size_t n, float cap)
{
    if (cap > 0.0f) cap_row(s, n, cap);
}

KERNEL static void cap_backward(float *d, const float *s, size_t n, float cap)
{
    float inverse = 1.0f / cap;
    for (size_t i = 0; i < n; i++) {
        float t = s[i] * inverse;
        d[i] *= (1.0f - t) * (1.0f + t);
    }
}

void softcap_backward(float *d, const float *s, size_t n, float cap)
{
    if (cap > 0.0f) cap_backward(d, s, n, cap);
}

KERNEL void softmax_row(float *p, uint32_t n)
{
    float top = -INFINITY, total = 0;
    for (uint32_t i = 0; i < n; i++) top = p[i] > top ? p[i] : top;
    v16 sum = {0};
    for (uint32_t i = 0; i < n; i += LANES) {
        uint32_t k = n - i < LANES ? n - i : LANES;
        v16 x = exp16((k == LANES ? load16(p + i) : load_tail(p + i, k, -INFINITY)) - top);
        if (k == LANES) {
            store16(p + i, x);
            sum += x;
        } else {
            store_tail(p + i, x, k);
            sum += load_tail(p + i, k, 0);
        }
    }
    total = 1.0f / sum16(sum);
    for (uint32_t i = 0; i < n; i++) p[i] *= total;
}

KERNEL static float largest(const float *x, uint32_t n)
{
    v16 top = splat16(-INFINITY);
    for (uint32_t i = 0; i < n; i += LANES) {
        v16 v = n - i < LANES ? load_tail(x + i, n - i, -INFINITY) : load16(x + i);
        top = pick16(v > top, v, top);
    }
    float best = top[0];
    for (int i = 1; i < LANES; i++) best = top[i] > best ? top[i] : best;
    return best;
}

enum { SUM_LANES = 64 }; /* so many float32 additions a lane before float64 takes over */

KERNEL double log_sum_exp_row(const float *x, uint32_t n)
{
    float top = largest(x, n);
    double total = 0;
    for (uint32_t from = 0; from < n; from += SUM_LANES * LANES) {
        uint32_t to = n - from < SUM_LANES * LANES ? n : from + SUM_LANES * LANES;
        v16 sum = {0};
        for (uint32_t i = from; i < to; i += LANES)
            sum += exp16((to - i < LANES ? load_tail(x + i, to - i, -INFINITY) : load16(x + i)) - top);
        for (int i = 0; i < LANES; i++) total += (double)sum[i];
    }
    return (double)top + log(total);
}

double log_sum_exp(const float *x, const uint32_t *ids, size_t n)
{
    double top = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) {
        double v = (double)x[ids ? ids[i] : i];
        top = v > top ? v : top;
    }
    for (size_t i = 0; i < n; i++) sum += exp((double)x[ids ? ids[i] : i] - top);
    return top + log(sum);
}
