/* Gradients of attention for whole sequences, by matrix products per head; probabilities are made
 * again from q and k rather than kept. */
#include <assert.h>
#include <string.h>

#include "attention_int.h"
#include "blas.h"
#include "simd.h"

struct head { /* of one span; all per head, and used again by the next */
    uint32_t index;
    float *p;      /* [n][n] scores, then probabilities */
    float *dp;     /* [n][n] the gradient of p, then of q·k·scale */
    float *scores; /* [n] a row's scores, soft-capped */
};

/* ds = p ∘ (dp − Σ p·dp), in place. */
KERNEL static void softmax_backward(const float *p, float *dp, uint32_t n)
{
    float inner = dot(p, dp, n);
    for (uint32_t j = 0; j < n; j++) dp[j] = p[j] * (dp[j] - inner);
}

/* Row i: p becomes a distribution over what it sees, dp the gradient of the raw scores; the rest is cleared. */
static void row_backward(const struct attention *a, const struct shape *s, const struct span *sp,
                         const struct head *h, uint32_t i)
{
    uint32_t n = sp->n_rows, first = first_key(s, i), seen = i + 1 - first;
    float *p = h->p + (size_t)i * n, *dp = h->dp + (size_t)i * n;
    softcap_row(p + first, seen, s->softcap);
    memcpy(h->scores, p + first, seen * sizeof *p);
    softmax_row(p + first, seen);
    fire_row(a, HOOK_PATTERN, sp, i, h->index, dp, first, i + 1, 0.0f);
    softmax_backward(p + first, dp + first, seen);
    fire_row(a, HOOK_ATTN_SCORES, sp, i, h->index, dp, first, i + 1, 0.0f);
    softcap_backward(dp + first, h->scores, seen, s->softcap);
    memset(p, 0, first * sizeof *p);
    memset(dp, 0, first * sizeof *dp);
    memset(p + i + 1, 0, (n - i - 1) * sizeof *p);
    memset(dp + i + 1, 0, (n - i - 1) * sizeof *dp);
}

static void head_backward(const struct attention *a, const struct shape *s, const struct span *sp,
                          const struct head *h, const float *dz, float *d_qkv)
{
    uint32_t n = sp->n_rows, g = kv_head(s, h->index);
    size_t zrow = (size_t)s->H * s->e, base = (size_t)sp->first_row * s->row;
    const float *q = a->qkv + base + h->index * s->e, *k = a->qkv + base + (s->H + g) * s->e,
                *v = k + (size_t)s->G * s->e;
    float *dq = d_qkv + base + h->index * s->e, *dk = d_qkv + base + (s->H + g) * s->e,
          *dv = dk + (size_t)s->G * s->e;
    dz += (size_t)sp->first_row * zrow + h->index * s->e;
    gemm_nt(n, n, s->e, q, s->row, k, s->row, h->p, n, s->scale, false);
    gemm_nt(n, n, s->e, dz, zrow, v, s->row, h->dp, n, 1.0f, false);
    for (uint32_t i = 0; i < n; i++) row_backward(a, s, sp, h, i);
    gemm_tn(n, s->e, n, h->p, n, dz, zrow, dv, s->row, 1.0f, true);
    gemm_nn(n, s->e, n, h->dp, n, k, s->row, dq, s->row, s->scale, true);
    gemm_tn(n, s->e, n, h->dp, n, q, s->row, dk, s->row, s->scale, true);
}

static size_t backward_floats(size_t n) { return 2 * n * n + n; }
size_t attention_backward_bytes(size_t longest) { return mem_floats_bytes(backward_floats(longest)); }

bool attention_backward(const struct attention *a, const float *dz, float *d_qkv,
                        struct scratch *scratch, struct err *e)
{
    struct shape s = shape_of(a->arch, a->layer);
    for (size_t i = 0; i < a->n_spans; i++) {
        const struct span *sp = &a->span[i];
        assert(sp->past_len == 0);
        size_t square = (size_t)sp->n_rows * sp->n_rows;
        if (!scratch_grow(scratch, backward_floats(sp->n_rows), e)) return false;
        memset(d_qkv + (size_t)sp->first_row * s.row, 0, (size_t)sp->n_rows * s.row * sizeof *d_qkv);
        struct head h = {.p = scratch->data, .dp = scratch->data + square, .scores = scratch->data + 2 * square};
        for (h.index = 0; h.index < s.H; h.index++) head_backward(a, &s, sp, &h, dz, d_qkv);
    }
    return true;
}
