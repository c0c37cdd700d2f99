#include "mlp.h"

#include "simd.h"

INLINE v16 sigmoid(v16 x) { return 1.0f / (1.0f + exp16(-x)); }

KERNEL void gated_forward(const float *gate_up, float *post, size_t rows, uint32_t m)
{
    for (size_t r = 0; r < rows; r++, gate_up += 2 * (size_t)m, post += m) {
        const float *gate = gate_up, *up = gate_up + m;
        uint32_t i = 0;
        for (; i + LANES <= m; i += LANES) {
            v16 g = load16(gate + i);
            store16(post + i, g * sigmoid(g) * load16(up + i));
        }
        if (i < m) {
            v16 g = load_tail(gate + i, m - i, 0);
            store_tail(post + i, g * sigmoid(g) * load_tail(up + i, m - i, 0), m - i);
        }
    }
}

/* silu'(g) = σ(g) · (1 + g · (1 − σ(g))). */
KERNEL void gated_backward(const float *gate_up, const float *d_post, float *d_gate_up, size_t rows,
                           uint32_t m)
{
    for (size_t r = 0; r < rows; r++, gate_up += 2 * (size_t)m, d_gate_up += 2 * (size_t)m, d_post += m) {
        for (uint32_t i = 0; i < m; i += LANES) {
            uint32_t n = m - i < LANES ? m - i : LANES;
            v16 g = load_tail(gate_up + i, n, 0), u = load_tail(gate_up + m + i, n, 0),
                d = load_tail(d_post + i, n, 0), s = sigmoid(g);
            store_tail(d_gate_up + i, d * u * s * (1.0f + g * (1.0f - s)), n);
            store_tail(d_gate_up + m + i, d * g * s, n);
        }
    }
}
