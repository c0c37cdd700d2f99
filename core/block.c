#include "block.h"

#include <assert.h>
#include <string.h>

#include "core/kernel/blas.h"
#include "core/kernel/mlp.h"
#include "core/kernel/norm.h"
#include "core/kernel/rotary.h"

/* ---- buffers ---------------------------------------------------------------------------------- */

struct widths {
    size_t d, z, kv, qkv, m;
};

static struct widths widths(const struct arch *a)
{
    struct widths w = {.d = a->d_model, .z = (size_t)a->n_heads * a->d_head,
                       .kv = (size_t)a->n_kv_heads * a->d_head, .m = a->d_mlp};
    w.qkv = w.z + 2 * w.kv;
    return w;
}

static size_t padded(size_t floats) { return (floats + 15) & ~(size_t)15; }

size_t block_rows_floats(const struct arch *a, size_t rows)
{
    struct widths w = widths(a);
    return padded(rows * w.qkv) + padded(rows * w.z) + padded(rows * 2 * w.m) + padded(rows * w.m) +
           2 * padded(rows * w.d);
}

void block_rows_place(const struct arch *a, size_t rows, float *memory, struct block_rows *out)
{
    struct widths w = widths(a);
    out->qkv = memory;
    out->z = out->qkv + padded(rows * w.qkv);
    out->gate_up = out->z + padded(rows * w.z);
    out->post = out->gate_up + padded(rows * 2 * w.m);
    out->norm = out->post + padded(rows * w.m);
    out->out = out->norm + padded(rows * w.d);
}

/* ---- what fires and what runs on all threads --------------------------------------------------- */

static void fire(struct block *b, enum hook h, float *data, size_t stride)
{
    if (!taps_any(b->taps, h, b->layer)) return;
    const struct arch *a = &view_model(b->view)->arch;
    for (size_t i = 0; i < b->n_spans; i++) {
        const struct span *s = &b->span[i];
        taps_fire(b->taps, (struct site){h, b->layer}, s->seq, s->past_len, s->n_rows,
                  data + s->first_row * stride, stride, hook_heads(a, h), hook_width(a, h));
    }
}

struct rows_job { /* element-wise work on rows [from, to) */
    const struct block *b;
    const struct arch *a;
    const float *gain;
    const float *inv_freq;
    const float *in;
    float direction;
};

static void norm_range(void *ctx, size_t from, size_t to, int thread)
{
    const struct rows_job *j = ctx;
    (void)thread;
    size_t d = j->a->d_model;
    norm_forward(j->in + from * d, j->gain, j->a->norm_eps, j->b->rows.norm + from * d, to - from,
                 j->a->d_model);
}

static void gated_range(void *ctx, size_t from, size_t to, int thread)
{
    const struct rows_job *j = ctx;
    (void)thread;
    size_t m = j->a->d_mlp;
    gated_forward(j->b->rows.gate_up + from * 2 * m, j->b->rows.post + from * m, to - from, j->a->d_mlp);
}

static void add_range(void *ctx, size_t from, size_t to, int thread)
{
    const struct rows_job *j = ctx;
    (void)thread;
    size_t d = j->a->d_model;
    float *x = j->b->x;
    for (size_t i = from * d; i < to * d; i++) x[i] += j->b->rows.out[i];
}

/* Turn q and k of all rows by their positions; −1 turns gradients back. */
static void rotate(struct block *b, float *qkv, float direction)
{
    const struct model *m = view_model(b->view);
    const struct arch *a = &m->arch;
    uint32_t half = a->d_head / 2;
    size_t row = widths(a).qkv;
    float cosine[2048], sine[2048];
    assert(half <= 2048);
    for (size_t i = 0; i < b->n_spans; i++)
        for (uint32_t r = 0; r < b->span[i].n_rows; r++) {
            rotary_angles(m->rope_inv_freq, half, b->span[i].past_len + r, cosine, sine);
            rotary_turn(qkv + (b->span[i].first_row + r) * row, a->n_heads + a->n_kv_heads, half,
                        cosine, sine, direction);
        }
}

/* Append the rows' keys and values to the caches that keep them. */
static void keep(const struct block *b)
{
    const struct arch *a = &view_model(b->view)->arch;
    struct widths w = widths(a);
    for (size_t i = 0; i < b->n_spans; i++) {
        const struct span *s = &b->span[i];
        for (uint32_t r = 0; s->keep && r < s->n_rows; r++) {
            const float *row = b->rows.qkv + (s->first_row + r) * w.qkv + w.z;
            memcpy(kv_key(s->keep, b->layer, s->past_len + r), row, w.kv * sizeof *row);
            memcpy(kv_value(s->keep, b->layer, s->past_len + r), row + w.kv, w.kv * sizeof *row);
        }
    }
}

/* ---- forward ---------------------------------------------------------------------------------- */

bool block_attention(struct block *b, struct err *e)
{
    const struct arch *a = &view_model(b->view)->arch;
    struct layer_weights w = view_layer(b->view, b->layer);
    struct widths n = widths(a);
    struct par *par = b->session->par;
    fire(b, HOOK_RESID_PRE, b->x, n.d);
    struct rows_job j = {.b = b, .a = a, .gain = w.attn_norm, .in = b->x};
    par_for(par, b->n_rows, norm_range, &j);
    gemm_nt(b->n_rows, n.qkv, n.d, b->rows.norm, n.d, w.qkv, n.d, b->rows.qkv, n.qkv, 1.0f, false);
    fire(b, HOOK_Q, b->rows.qkv, n.qkv);
    fire(b, HOOK_K, b->rows.qkv + n.z, n.qkv);
    fire(b, HOOK_V, b->rows.qkv + n.z + n.kv, n.qkv);
    rotate(b, b->rows.qkv, 1.0f);
    keep(b);
    struct attention at = {a, b->span, b->n_spans, b->layer, b->rows.qkv, b->rows.z,
                           taps_any(b->taps, HOOK_PATTERN, b->layer) ? b->taps : NULL};
    if (!attention_forward(&at, par, &b->session->attention, e)) return false;
    fire(b, HOOK_Z, b->rows.z, n.z);
    return true;
}

void block_project(struct block *b)
{
    const struct arch *a = &view_model(b->view)->arch;
    struct layer_weights w = view_layer(b->view, b->layer);
    struct widths n = widths(a);
    struct rows_job j = {.b = b, .a = a};
    gemm_nt(b->n_rows, n.d, n.z, b->rows.z, n.z, w.o, n.z, b->rows.out, n.d, 1.0f, false);
    fire(b, HOOK_ATTN_OUT, b->rows.out, n.d);
    par_for(b->session->par, b->n_rows, add_range, &j);
    fire(b, HOOK_RESID_MID, b->x, n.d);
}

void block_mlp(struct block *b)
{
    const struct arch *a = &view_model(b->view)->arch;
    struct layer_weights w = view_layer(b->view, b->layer);
    struct widths n = widths(a);
    struct par *par = b->session->par;
    struct rows_job j = {.b = b, .a = a, .gain = w.mlp_norm, .in = b->x};
    par_for(par, b->n_rows, norm_range, &j);
    gemm_nt(b->n_rows, 2 * n.m, n.d, b->rows.norm, n.d, w.gate_up, n.d, b->rows.gate_up, 2 * n.m,
            1.0f, false);
    fire(b, HOOK_MLP_PRE, b->rows.gate_up, 2 * n.m);
    fire(b, HOOK_MLP_PRE_LINEAR, b->rows.gate_up + n.m, 2 * n.m);
    par_for(par, b->n_rows, gated_range, &j);
    fire(b, HOOK_MLP_POST, b->rows.post, n.m);
    gemm_nt(b->n_rows, n.d, n.m, b->rows.post, n.m, w.down, n.m, b->rows.out, n.d, 1.0f, false);
    fire(b, HOOK_MLP_OUT, b->rows.out, n.d);
    par_for(par, b->n_rows, add_range, &j);
    fire(b, HOOK_RESID_POST, b->x, n.d);
}

bool block_forward(struct block *b, struct err *e)
{
    if (!block_attention(b, e)) return false;
    block_project(b);
    block_mlp(b);
    return true;
}

/* ---- backward --------------------------------------------------------------------------------- */

/* The norm's output is cheap to make again from its saved input. */
static const float *norm_again(struct block *b, const float *x, const float *gain)
{
    struct rows_job j = {.b = b, .a = &view_model(b->view)->arch, .gain = gain, .in = x};
    par_for(b->session->par, b->n_rows, norm_range, &j);
    return b->rows.norm;
}

static void mlp_backward(struct block *b, const struct saved *s, float *dx, const struct weight_grads *g)
{
    const struct arch *a = &view_model(b->view)->arch;
    struct layer_weights w = view_layer(b->view, b->layer);
    struct widths n = widths(a);
    size_t R = b->n_rows;
    float *d_post = b->rows.post, *d_gate_up = b->rows.gate_up, *d_norm = b->rows.out;
    fire(b, HOOK_RESID_POST, dx, n.d);
    fire(b, HOOK_MLP_OUT, dx, n.d);
    if (g->down) gemm_tn(n.d, n.m, R, dx, n.d, s->rows.post, n.m, g->down, n.m, 1.0f, true);
    gemm_nn(R, n.m, n.d, dx, n.d, w.down, n.m, d_post, n.m, 1.0f, false);
    fire(b, HOOK_MLP_POST, d_post, n.m);
    gated_backward(s->rows.gate_up, d_post, d_gate_up, R, a->d_mlp);
    fire(b, HOOK_MLP_PRE_LINEAR, d_gate_up + n.m, 2 * n.m);
    fire(b, HOOK_MLP_PRE, d_gate_up, 2 * n.m);
    if (g->gate_up)
        gemm_tn(2 * n.m, n.d, R, d_gate_up, 2 * n.m, norm_again(b, s->x_mid, w.mlp_norm), n.d,
                g->gate_up, n.d, 1.0f, true);
    gemm_nn(R, n.d, 2 * n.m, d_gate_up, 2 * n.m, w.gate_up, n.d, d_norm, n.d, 1.0f, false);
    norm_backward(s->x_mid, w.mlp_norm, a->norm_eps, d_norm, dx, R, a->d_model);
    fire(b, HOOK_RESID_MID, dx, n.d);
}

static bool attention_part_backward(struct block *b, const struct saved *s, float *dx,
                                    const struct weight_grads *g, struct err *e)
{
    const struct arch *a = &view_model(b->view)->arch;
    struct layer_weights w = view_layer(b->view, b->layer);
    struct widths n = widths(a);
    size_t R = b->n_rows;
    float *dz = b->rows.z, *d_qkv = b->rows.qkv, *d_norm = b->rows.out;
    fire(b, HOOK_ATTN_OUT, dx, n.d);
    if (g->o) gemm_tn(n.d, n.z, R, dx, n.d, s->rows.z, n.z, g->o, n.z, 1.0f, true);
    gemm_nn(R, n.z, n.d, dx, n.d, w.o, n.z, dz, n.z, 1.0f, false);
    fire(b, HOOK_Z, dz, n.z);
    struct attention at = {a, b->span, b->n_spans, b->layer, s->rows.qkv, NULL,
                           taps_any(b->taps, HOOK_PATTERN, b->layer) ? b->taps : NULL};
    if (!attention_backward(&at, dz, d_qkv, &b->session->attention, e)) return false;
    rotate(b, d_qkv, -1.0f);
    fire(b, HOOK_V, d_qkv + n.z + n.kv, n.qkv);
    fire(b, HOOK_K, d_qkv + n.z, n.qkv);
    fire(b, HOOK_Q, d_qkv, n.qkv);
    if (g->qkv)
        gemm_tn(n.qkv, n.d, R, d_qkv, n.qkv, norm_again(b, s->x_pre, w.attn_norm), n.d, g->qkv, n.d,
                1.0f, true);
    gemm_nn(R, n.d, n.qkv, d_qkv, n.qkv, w.qkv, n.d, d_norm, n.d, 1.0f, false);
    norm_backward(s->x_pre, w.attn_norm, a->norm_eps, d_norm, dx, R, a->d_model);
    fire(b, HOOK_RESID_PRE, dx, n.d);
    return true;
}

bool block_backward(struct block *b, const struct saved *s, float *dx, const struct weight_grads *g,
                    bool from_mid, struct err *e)
{
    static const struct weight_grads none = {0};
    mlp_backward(b, s, dx, g ? g : &none);
    return from_mid || attention_part_backward(b, s, dx, g ? g : &none, e);
}
