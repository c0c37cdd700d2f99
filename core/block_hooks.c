/* Hooks a pass does not make by itself, because their values are H times the residual stream: what
 * each head reads (hook_attn_in, hook_q_input, hook_k_input, hook_v_input) and what it adds
 * (hook_result). They are made one head at a time, and only for heads somebody names. */
#include <string.h>

#include "block_int.h"
#include "core/kernel/blas.h"
#include "core/kernel/norm.h"

enum { PART_Q, PART_K, PART_V, PARTS };
static const enum hook part_input[PARTS] = {HOOK_Q_INPUT, HOOK_K_INPUT, HOOK_V_INPUT};

/* First column of that part's head in a [q|k|v] row, and first output of the matrix that makes it. */
static uint32_t column_of(const struct arch *a, int part, uint32_t head)
{
    uint32_t e = a->d_head;
    return part == PART_Q ? head * e : (a->n_heads + (part == PART_V ? a->n_kv_heads : 0) + head) * e;
}
static uint32_t output_of(const struct arch *a, int part, uint32_t head)
{
    return a->qkv_woven ? (head * 3 + (uint32_t)part) * a->d_head : column_of(a, part, head);
}

static void fire_head(struct block *b, enum hook h, uint32_t head, float *data)
{
    const struct arch *a = block_arch(b);
    for (size_t i = 0; i < b->n_spans; i++) {
        const struct span *s = &b->span[i];
        taps_fire_head(b->taps, (struct site){h, b->layer}, s->seq, s->past_len, s->n_rows, head,
                       data + s->first_row * a->d_model, a->d_model, hook_heads(a, h), a->d_model);
    }
}

static bool named(const struct block *b, enum hook h, uint32_t head)
{
    return head < hook_heads(block_arch(b), h) && taps_head(b->taps, h, b->layer, head);
}

static bool any_input(const struct block *b)
{
    return block_listens(b, HOOK_ATTN_IN) || block_listens(b, HOOK_Q_INPUT) || block_listens(b, HOOK_K_INPUT) ||
           block_listens(b, HOOK_V_INPUT);
}

/* ---- inputs ------------------------------------------------------------------------------------ */

struct head_work {
    float *own, *in; /* [R][d]: the head's copy of the stream; one part's copy of that */
    float *w;        /* [d][e] or [e][d] */
    float *out;      /* [R][e] */
    uint32_t *row;   /* [R] those that were written */
};

static bool work_for(const struct block *b, struct head_work *k, struct err *e)
{
    const struct arch *a = block_arch(b);
    size_t rows = (size_t)b->n_rows * a->d_model;
    k->own = mem_floats(2 * rows + (size_t)a->d_model * a->d_head + (size_t)b->n_rows * a->d_head, e);
    k->row = k->own ? mem_take(b->n_rows, sizeof *k->row, e) : NULL;
    k->in = k->own ? k->own + rows : NULL;
    k->w = k->own ? k->in + rows : NULL;
    k->out = k->own ? k->w + (size_t)a->d_model * a->d_head : NULL;
    if (k->row) return true;
    mem_drop(k->own);
    return false;
}

static void work_release(struct head_work *k)
{
    mem_drop(k->own);
    mem_drop(k->row);
}

/* Rows of `in` that are no longer the stream's, moved to its front. */
static uint32_t gather_written(const struct block *b, struct head_work *k)
{
    size_t d = block_arch(b)->d_model;
    uint32_t n = 0;
    for (uint32_t r = 0; r < b->n_rows; r++) {
        if (memcmp(k->in + r * d, b->x + r * d, d * sizeof *k->in) == 0) continue;
        if (n != r) memcpy(k->in + n * d, k->in + r * d, d * sizeof *k->in);
        k->row[n++] = r;
    }
    return n;
}

/* The part's head of rows.qkv from a stream of its own; other rows keep the bits they have. */
static void project_head(struct block *b, const struct layer_weights *w, struct head_work *k, int part, uint32_t head)
{
    const struct arch *a = block_arch(b);
    size_t qkv = block_widths(a).qkv, d = a->d_model, e = a->d_head;
    uint32_t from = output_of(a, part, head), n = gather_written(b, k);
    const float *bias = linear_bias(&w->qkv, from, a->d_head);
    if (n == 0) return;
    if (a->pre_norm) norm_forward(&w->attn_norm, k->in, d, k->in, d, n, a->d_model);
    linear_outputs(&w->qkv, from, a->d_head, k->w);
    gemm_nt(n, e, d, k->in, d, k->w, d, k->out, e, 1.0f, false);
    for (size_t r = 0; r < n; r++) {
        float *to = b->rows.qkv + k->row[r] * qkv + column_of(a, part, head);
        for (size_t i = 0; i < e; i++) to[i] = k->out[r * e + i] + (bias ? bias[i] : 0.0f);
    }
}

bool block_head_inputs(struct block *b, const struct layer_weights *w, struct err *e)
{
    const struct arch *a = block_arch(b);
    struct head_work k;
    size_t bytes = (size_t)b->n_rows * a->d_model * sizeof(float);
    if (!any_input(b)) return true;
    if (!work_for(b, &k, e)) return false;
    bool whole_write = taps_write(b->taps, HOOK_ATTN_IN, b->layer);
    for (uint32_t head = 0; head < a->n_heads; head++) {
        bool whole = named(b, HOOK_ATTN_IN, head);
        memcpy(k.own, b->x, bytes);
        if (whole) fire_head(b, HOOK_ATTN_IN, head, k.own);
        for (int part = 0; part < PARTS; part++) {
            bool mine = named(b, part_input[part], head), exists = part == PART_Q || head < a->n_kv_heads;
            bool write = (mine && taps_write(b->taps, part_input[part], b->layer)) || (whole && whole_write);
            if (!exists || (!mine && !write)) continue;
            memcpy(k.in, k.own, bytes);
            if (mine) fire_head(b, part_input[part], head, k.in);
            if (write) project_head(b, w, &k, part, head);
        }
    }
    work_release(&k);
    return true;
}

/* in ← gradient of the stream through one part of one head. */
static void part_gradient(struct block *b, const struct layer_weights *w, struct head_work *k, int part, uint32_t head,
                          const float *x_pre, const float *d_qkv)
{
    const struct arch *a = block_arch(b);
    size_t qkv = block_widths(a).qkv, d = a->d_model;
    float *d_norm = b->rows.norm, *to = a->pre_norm ? d_norm : k->in;
    linear_outputs(&w->qkv, output_of(a, part, head), a->d_head, k->w);
    gemm_nn(b->n_rows, d, a->d_head, d_qkv + column_of(a, part, head), qkv, k->w, d, to, d, 1.0f, false);
    if (!a->pre_norm) return;
    memset(k->in, 0, b->n_rows * d * sizeof *k->in);
    norm_backward(&w->attn_norm, x_pre, d, d_norm, d, k->in, d, b->n_rows, a->d_model);
}

bool block_head_inputs_backward(struct block *b, const struct layer_weights *w, const float *x_pre,
                                const float *d_qkv, struct err *e)
{
    const struct arch *a = block_arch(b);
    struct head_work k;
    size_t floats = (size_t)b->n_rows * a->d_model;
    if (!any_input(b)) return true;
    if (!work_for(b, &k, e)) return false;
    for (uint32_t head = 0; head < a->n_heads; head++) {
        bool whole = named(b, HOOK_ATTN_IN, head);
        memset(k.own, 0, floats * sizeof *k.own);
        for (int part = 0; part < PARTS; part++) {
            bool mine = named(b, part_input[part], head);
            if (!whole && !mine) continue;
            part_gradient(b, w, &k, part, head, x_pre, d_qkv);
            for (size_t i = 0; i < floats; i++) k.own[i] += k.in[i];
            if (mine) fire_head(b, part_input[part], head, k.in);
        }
        if (whole) fire_head(b, HOOK_ATTN_IN, head, k.own);
    }
    work_release(&k);
    return true;
}

/* ---- results ----------------------------------------------------------------------------------- */

bool block_head_results(struct block *b, const struct layer_weights *w, float *out, struct err *e)
{
    const struct arch *a = block_arch(b);
    size_t d = a->d_model, floats = b->n_rows * d, z = block_widths(a).z;
    struct head_work k;
    if (!block_listens(b, HOOK_RESULT)) return true;
    if (!work_for(b, &k, e)) return false;
    for (uint32_t head = 0; head < a->n_heads; head++) {
        if (!named(b, HOOK_RESULT, head)) continue;
        linear_inputs(&w->o, head * a->d_head, a->d_head, k.w);
        gemm_nt(b->n_rows, d, a->d_head, b->rows.z + head * a->d_head, z, k.w, a->d_head, k.in, d, 1.0f, false);
        memcpy(k.own, k.in, floats * sizeof *k.own);
        fire_head(b, HOOK_RESULT, head, k.in);
        for (size_t i = 0; i < floats; i++) out[i] += k.in[i] - k.own[i];
    }
    work_release(&k);
    return true;
}

bool block_head_results_backward(struct block *b, const float *d_out, struct err *e)
{
    const struct arch *a = block_arch(b);
    size_t floats = (size_t)b->n_rows * a->d_model;
    if (!block_listens(b, HOOK_RESULT)) return true;
    float *copy = mem_floats(floats, e);
    if (!copy) return false;
    memcpy(copy, d_out, floats * sizeof *copy); /* a gradient is the same for every head */
    for (uint32_t head = 0; head < a->n_heads; head++)
        if (named(b, HOOK_RESULT, head)) fire_head(b, HOOK_RESULT, head, copy);
    mem_drop(copy);
    return true;
}
