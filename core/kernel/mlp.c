#include "mlp.h"

#include "simd.h"

/* Every activation here is x times a gate that rises from 0 to 1:
 *
 *     silu  σ(x)      gelu, erf  Φ(x)      gelu, tanh  ½(1 + tanh u) = σ(2u)
 *
 * so its derivative is gate + x · gate'. */
struct gate {
    v16 at, slope;
};

INLINE v16 sigmoid(v16 x) { return 1.0f / (1.0f + exp16(-x)); }

INLINE struct gate silu_gate(v16 x)
{
    v16 s = sigmoid(x);
    return (struct gate){s, s * (1.0f - s)};
}

/* 2u = √(8/π) (x + 0.044715 x³) */
INLINE struct gate tanh_gate(v16 x)
{
    const float c = 1.59576912160573071f, cubic = 0.044715f;
    v16 s = sigmoid(c * (x + cubic * (x * x * x)));
    return (struct gate){s, s * (1.0f - s) * (c + 3.0f * cubic * c * (x * x))};
}

/* e^(−x²/2) to a few ulp also where x² is large: x = h + r with h of 12 bits, whose square is exact. */
INLINE v16 bell(v16 x)
{
    v16 h = (v16)((i16)x & ~0xfff);
    return exp16(-0.5f * (h * h)) * exp16(-0.5f * ((x - h) * (x + h)));
}

/* Φ(−|x|) e^(x²/2) is smooth and falls slowly: a polynomial in w = 1/(1 + 0.34 |x|), fitted to its
 * relative error (3e-8) for |x| below 14. */
INLINE struct gate erf_gate(v16 x)
{
    v16 size = (v16)((i16)x & 0x7fffffff), w = 1.0f / (1.0f + 0.34f * size), e = bell(size);
    v16 p = splat16(-0.02612046594f);
    p = p * w + 0.1394994538f;
    p = p * w - 0.2731326762f;
    p = p * w + 0.2021826044f;
    p = p * w - 0.04471840918f;
    p = p * w + 0.1153591457f;
    p = p * w + 0.1151976631f;
    p = p * w + 0.1361121961f;
    p = p * w + 0.1356205035f;
    v16 tail = p * w * e;
    return (struct gate){pick16(x < 0.0f, tail, 1.0f - tail), 0.398942280401432678f * e};
}

INLINE struct gate gate_of(enum activation act, v16 x)
{
    return act == ACT_SILU ? silu_gate(x) : act == ACT_GELU_TANH ? tanh_gate(x) : erf_gate(x);
}

INLINE void forward(enum activation act, bool gated, const float *pre, float *post, size_t rows, uint32_t m)
{
    for (size_t r = 0; r < rows; r++, pre += (gated ? 2 : 1) * (size_t)m, post += m)
        for (uint32_t i = 0; i < m; i += LANES) {
            uint32_t n = m - i < LANES ? m - i : LANES;
            v16 x = load_some(pre + i, n), y = x * gate_of(act, x).at;
            store_some(post + i, gated ? y * load_some(pre + m + i, n) : y, n);
        }
}

INLINE void backward(enum activation act, bool gated, const float *pre, const float *d_post, float *d_pre,
                     size_t rows, uint32_t m)
{
    size_t row = (gated ? 2 : 1) * (size_t)m;
    for (size_t r = 0; r < rows; r++, pre += row, d_pre += row, d_post += m)
        for (uint32_t i = 0; i < m; i += LANES) {
            uint32_t n = m - i < LANES ? m - i : LANES;
            v16 x = load_some(pre + i, n), d = load_some(d_post + i, n);
            struct gate g = gate_of(act, x);
            v16 slope = g.at + x * g.slope;
            if (gated) {
                v16 up = load_some(pre + m + i, n);
                store_some(d_pre + m + i, d * x * g.at, n);
                slope *= up;
            }
            store_some(d_pre + i, d * slope, n);
        }
}

/* One loop per activation, chosen once. */
KERNEL void mlp_forward(enum activation act, bool gated, const float *pre, float *post, size_t rows, uint32_t m)
{
    switch (act) {
    case ACT_SILU: forward(ACT_SILU, gated, pre, post, rows, m); break;
    case ACT_GELU_TANH: forward(ACT_GELU_TANH, gated, pre, post, rows, m); break;
    case ACT_GELU_ERF: forward(ACT_GELU_ERF, gated, pre, post, rows, m); break;
    }
}

KERNEL void mlp_backward(enum activation act, bool gated, const float *pre, const float *d_post, float *d_pre,
                         size_t rows, uint32_t m)
{
    switch (act) {
    case ACT_SILU: backward(ACT_SILU, gated, pre, d_post, d_pre, rows, m); break;
    case ACT_GELU_TANH: backward(ACT_GELU_TANH, gated, pre, d_post, d_pre, rows, m); break;
    case ACT_GELU_ERF: backward(ACT_GELU_ERF, gated, pre, d_post, d_pre, rows, m); break;
    }
}
