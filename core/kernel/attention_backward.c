/* Gradients of attention for whole sequences, by matrix products per head; probabilities are made
 * again from q and k rather than kept. */
#include <assert.h>
#include <string.h>

#include "attention_int.h"
#include "blas.h"

/* Row i of p [n][n] is a distribution over 0..i; the rest is cleared. */
static void causal_softmax(float *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        softmax_row(p + (size_t)i * n, i + 1);
        memset(p + (size_t)i * n + i + 1, 0, (n - i - 1) * sizeof *p);
    }
}

/* p and its gradient dp, [n][n] each, of one head: p from q and k again. */
static void head_backward(const struct attention *a, const struct shape *s, const struct span *sp,
                          uint32_t head, const float *dz, float *d_qkv, float *p, float *dp)
{
    uint32_t n = sp->n_rows, g = kv_head(s, head);
    size_t zrow = (size_t)s->H * s->e, base = (size_t)sp->first_row * s->row;
    const float *q = a->qkv + base + head * s->e, *k = own_k(a, s, sp, g), *v = k + (size_t)s->G * s->e;
    float *dq = d_qkv + base + head * s->e, *dk = d_qkv + base + (s->H + g) * s->e,
          *dv = dk + (size_t)s->G * s->e;
    dz += (size_t)sp->first_row * zrow + head * s->e;
    gemm_nt(n, n, s->e, q, s->row, k, s->row, p, n, s->scale, false);
    gemm_nt(n, n, s->e, dz, zrow, v, s->row, dp, n, 1.0f, false);
    causal_softmax(p, n);
    gemm_tn(n, s->e, n, p, n, dz, zrow, dv, s->row, 1.0f, true);
    for (uint32_t i = 0; i < n; i++) { /* dp → ds, in place: p ∘ (dp − Σ p·dp) */
        float *row = dp + (size_t)i * n, *pr = p + (size_t)i * n, inner = 0;
        if (a->taps) taps_fire_pattern(a->taps, a->layer, sp->seq, i, head, row, i + 1);
        for (uint32_t j = 0; j <= i; j++) inner += pr[j] * row[j];
        for (uint32_t j = 0; j <= i; j++) row[j] = pr[j] * (row[j] - inner);
        memset(row + i + 1, 0, (n - i - 1) * sizeof *row);
    }
    gemm_nn(n, s->e, n, dp, n, k, s->row, dq, s->row, s->scale, true);
    gemm_tn(n, s->e, n, dp, n, q, s->row, dk, s->row, s->scale, true);
}

bool attention_backward(const struct attention *a, const float *dz, float *d_qkv,
                        struct attention_scratch *scratch, struct err *e)
{
    struct shape s = shape_of(a->arch);
    for (size_t i = 0; i < a->n_spans; i++) {
        const struct span *sp = &a->span[i];
        assert(sp->past_len == 0);
        size_t square = (size_t)sp->n_rows * sp->n_rows;
        if (!attention_scratch_for(scratch, 2 * square, e)) return false;
        memset(d_qkv + (size_t)sp->first_row * s.row, 0, (size_t)sp->n_rows * s.row * sizeof *d_qkv);
        for (uint32_t h = 0; h < s.H; h++)
            head_backward(a, &s, sp, h, dz, d_qkv, scratch->data, scratch->data + square);
    }
    return true;
}
