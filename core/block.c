#include "block_int.h"

#include <assert.h>
#include <string.h>

#include "core/kernel/mlp.h"
#include "core/kernel/norm.h"
#include "core/kernel/rotary.h"

/* ---- buffers ---------------------------------------------------------------------------------- */

struct widths block_widths(const struct arch *a)
{
    struct widths w = {.d = a->d_model, .z = (size_t)a->n_heads * a->d_head,
                       .kv = (size_t)a->n_kv_heads * a->d_head, .m = a->d_mlp};
    w.qkv = w.z + 2 * w.kv;
    w.pre = arch_branches(a) * w.m;
    return w;
}

static size_t padded(size_t floats) { return (floats + 15) & ~(size_t)15; }

/* Hand out `width` floats a row where the family needs them; counts only when memory is NULL. */
static float *carve(float *memory, size_t *used, size_t rows, size_t width, bool needed)
{
    float *at = memory && needed ? memory + *used : NULL;
    if (needed) *used += padded(rows * width);
    return at;
}

static size_t carve_all(const struct arch *a, size_t rows, float *memory, struct block_rows *out)
{
    struct widths w = block_widths(a);
    size_t used = 0;
    bool qk_norm = a->qk_norm != QK_NORM_NONE;
    out->qkv = carve(memory, &used, rows, w.qkv, true);
    out->z = carve(memory, &used, rows, w.z, true);
    out->pre = carve(memory, &used, rows, w.pre, true);
    out->post = carve(memory, &used, rows, w.m, true);
    out->norm = carve(memory, &used, rows, w.d, true);
    out->out = carve(memory, &used, rows, w.d, true);
    out->scale = carve(memory, &used, rows, 1, true);
    out->attn = carve(memory, &used, rows, w.d, a->parallel);
    out->woven = carve(memory, &used, rows, w.qkv, a->qkv_woven);
    out->raw_qk = carve(memory, &used, rows, w.z + w.kv, qk_norm);
    out->raw_attn = carve(memory, &used, rows, w.d, a->post_norm);
    out->raw_mlp = carve(memory, &used, rows, w.d, a->post_norm);
    return used;
}

size_t block_rows_floats(const struct arch *a, size_t rows)
{
    struct block_rows none;
    return carve_all(a, rows, NULL, &none);
}

void block_rows_place(const struct arch *a, size_t rows, float *memory, struct block_rows *out)
{
    (void)carve_all(a, rows, memory, out);
}

/* ---- what fires and what runs on all threads --------------------------------------------------- */

bool block_listens(const struct block *b, enum hook h) { return taps_any(b->taps, h, b->layer); }

void block_fire(struct block *b, enum hook h, float *data, size_t stride)
{
    const bool back = taps_write(b->written, h, b->layer);
    if (!back && !block_listens(b, h)) return;
    const struct arch *a = block_arch(b);
    for (size_t i = 0; i < b->n_spans; i++) {
        const struct span *s = &b->span[i];
        taps_fire(b->taps, (struct site){h, b->layer}, s->seq, s->past_len, s->n_rows,
                  data + s->first_row * stride, stride, hook_heads(a, h), hook_width(a, h));
        if (back)
            taps_back(b->written, (struct site){h, b->layer}, s->seq, s->past_len, s->n_rows,
                      data + s->first_row * stride, stride, hook_heads(a, h), hook_width(a, h));
    }
}

struct rows_job { /* work on rows [from, to), whose positions follow from the spans */
    struct block *b;
    const struct norm *norm;
    const struct layer_weights *w;
    const float *in;
    float *out;
    float direction;
};

static void each_row(struct block *b, void (*range)(void *, size_t, size_t, int), struct rows_job job)
{
    job.b = b;
    par_for(b->session->par, b->n_rows, range, &job);
}

static void norm_range(void *ctx, size_t from, size_t to, int thread)
{
    const struct rows_job *j = ctx;
    (void)thread;
    size_t d = block_arch(j->b)->d_model;
    norm_forward(j->norm, j->in + from * d, d, j->out + from * d, d, to - from, (uint32_t)d);
}

static void activation_range(void *ctx, size_t from, size_t to, int thread)
{
    const struct rows_job *j = ctx;
    (void)thread;
    const struct arch *a = block_arch(j->b);
    size_t m = a->d_mlp, pre = arch_branches(a) * m;
    mlp_forward(a->act, a->gated, j->in + from * pre, j->out + from * m, to - from, a->d_mlp);
}

static void add_range(void *ctx, size_t from, size_t to, int thread)
{
    const struct rows_job *j = ctx;
    (void)thread;
    size_t d = block_arch(j->b)->d_model;
    for (size_t i = from * d; i < to * d; i++) j->out[i] += j->in[i];
}

const struct norm_hooks hooks_ln1 = {HOOK_LN1_SCALE, HOOK_LN1_NORMALIZED},
                        hooks_ln2 = {HOOK_LN2_SCALE, HOOK_LN2_NORMALIZED},
                        hooks_ln1_post = {HOOK_LN1_POST_SCALE, HOOK_LN1_POST_NORMALIZED},
                        hooks_ln2_post = {HOOK_LN2_POST_SCALE, HOOK_LN2_POST_NORMALIZED};

void block_norm(struct block *b, const struct norm *n, struct norm_hooks h, const float *x, float *y)
{
    if (!block_listens(b, h.scale) && !block_listens(b, h.normalized)) {
        each_row(b, norm_range, (struct rows_job){.norm = n, .in = x, .out = y});
        return;
    }
    uint32_t d = block_arch(b)->d_model;
    norm_scale(n, x, b->rows.scale, y, b->n_rows, d);
    block_fire(b, h.scale, b->rows.scale, 1);
    norm_divide(y, b->rows.scale, y, b->n_rows, d);
    block_fire(b, h.normalized, y, d);
    norm_finish(n, y, y, b->n_rows, d);
}

/* ---- queries and keys --------------------------------------------------------------------------- */

static void weave_range(const struct rows_job *j, size_t from, size_t to, bool weave)
{
    const struct arch *a = block_arch(j->b);
    size_t e = a->d_head, H = a->n_heads;
    for (size_t r = from; r < to; r++)
        for (size_t part = 0; part < 3; part++)
            for (size_t h = 0; h < H; h++) {
                size_t flat = r * 3 * H * e + (part * H + h) * e, woven = r * 3 * H * e + (h * 3 + part) * e;
                memcpy(j->out + (weave ? woven : flat), j->in + (weave ? flat : woven), e * sizeof(float));
            }
}
static void weave_rows(void *ctx, size_t from, size_t to, int thread)
{
    (void)thread;
    weave_range(ctx, from, to, true);
}
static void unweave_rows(void *ctx, size_t from, size_t to, int thread)
{
    (void)thread;
    weave_range(ctx, from, to, false);
}

void block_unweave(struct block *b, const float *woven, float *qkv)
{
    each_row(b, unweave_rows, (struct rows_job){.in = woven, .out = qkv});
}
void block_weave(struct block *b, const float *qkv, float *woven)
{
    each_row(b, weave_rows, (struct rows_job){.in = qkv, .out = woven});
}

struct norm block_qk_norm_of(const struct arch *a, const float *gain)
{
    return (struct norm){NORM_RMS, a->norm_eps, a->norm_offset, gain, NULL};
}

static void qk_norm_range(void *ctx, size_t from, size_t to, int thread)
{
    const struct rows_job *j = ctx;
    (void)thread;
    const struct arch *a = block_arch(j->b);
    struct widths w = block_widths(a);
    struct norm nq = block_qk_norm_of(a, j->w->q_norm), nk = block_qk_norm_of(a, j->w->k_norm);
    bool all = a->qk_norm == QK_NORM_ALL;
    for (size_t r = from; r < to; r++) {
        float *q = j->out + r * w.qkv, *k = q + w.z;
        size_t wide_q = all ? w.z : a->d_head, wide_k = all ? w.kv : a->d_head;
        norm_forward(&nq, q, wide_q, q, wide_q, w.z / wide_q, (uint32_t)wide_q);
        norm_forward(&nk, k, wide_k, k, wide_k, w.kv / wide_k, (uint32_t)wide_k);
    }
}

void block_qk_norm(struct block *b, const struct layer_weights *w, float *qkv, float *raw)
{
    struct widths n = block_widths(block_arch(b));
    for (size_t r = 0; r < b->n_rows; r++)
        memcpy(raw + r * (n.z + n.kv), qkv + r * n.qkv, (n.z + n.kv) * sizeof *raw);
    each_row(b, qk_norm_range, (struct rows_job){.w = w, .out = qkv});
}

static void rotate_range(void *ctx, size_t from, size_t to, int thread)
{
    const struct rows_job *j = ctx;
    (void)thread;
    const struct block *b = j->b;
    const struct model *m = view_model(b->view);
    const struct arch *a = &m->arch;
    const struct rotary *rope = &a->rotary;
    const float *frequencies = m->frequencies[arch_windowed(a, b->layer)];
    float cosine[2048], sine[2048];
    size_t row = block_widths(a).qkv;
    assert(rope->dim / 2 <= 2048);
    for (size_t i = 0; i < b->n_spans; i++) {
        const struct span *s = &b->span[i];
        size_t first = s->first_row > from ? s->first_row : from, end = s->first_row + s->n_rows;
        for (size_t r = first; r < end && r < to; r++) {
            uint32_t pos = s->past_len + (uint32_t)(r - s->first_row);
            rotary_angles(frequencies, rope->dim / 2, pos, rope->attention, cosine, sine);
            rotary_turn(j->out + r * row, a->n_heads + a->n_kv_heads, a->d_head, rope->dim / 2, rope->adjacent,
                        cosine, sine, j->direction);
        }
    }
}

void block_rotate(struct block *b, float *qkv, float direction)
{
    if (block_arch(b)->positions != POSITIONS_ROTARY) return;
    each_row(b, rotate_range, (struct rows_job){.out = qkv, .direction = direction});
}

/* Append the rows' keys and values to the caches that keep them. */
static void keep(const struct block *b)
{
    struct widths w = block_widths(block_arch(b));
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

/* rows.qkv from x: projection, hooks, q/k norm and rotary. */
static bool queries_and_keys(struct block *b, const struct layer_weights *w, struct err *e)
{
    const struct arch *a = block_arch(b);
    struct widths n = block_widths(a);
    const float *in = b->x;
    if (a->pre_norm) block_norm(b, &w->attn_norm, hooks_ln1, b->x, b->rows.norm), in = b->rows.norm;
    float *made = a->qkv_woven ? b->rows.woven : b->rows.qkv;
    if (!linear_forward(b->session, &w->qkv, in, n.d, b->n_rows, made, n.qkv, e)) return false;
    if (a->qkv_woven) block_unweave(b, made, b->rows.qkv);
    if (!block_head_inputs(b, w, e)) return false;
    block_fire(b, HOOK_Q, b->rows.qkv, n.qkv);
    block_fire(b, HOOK_K, b->rows.qkv + n.z, n.qkv);
    block_fire(b, HOOK_V, b->rows.qkv + n.z + n.kv, n.qkv);
    if (a->qk_norm != QK_NORM_NONE) block_qk_norm(b, w, b->rows.qkv, b->rows.raw_qk);
    block_fire(b, HOOK_Q_NORMED, b->rows.qkv, n.qkv);
    block_fire(b, HOOK_K_NORMED, b->rows.qkv + n.z, n.qkv);
    block_rotate(b, b->rows.qkv, 1.0f);
    block_fire(b, HOOK_ROT_Q, b->rows.qkv, n.qkv);
    block_fire(b, HOOK_ROT_K, b->rows.qkv + n.z, n.qkv);
    return true;
}

size_t block_qkv_width(const struct arch *a) { return block_widths(a).qkv; }

bool block_keys(struct block *b, struct err *e)
{
    struct layer_weights w = view_layer(b->view, b->layer);
    block_fire(b, HOOK_RESID_PRE, b->x, block_widths(block_arch(b)).d);
    if (!queries_and_keys(b, &w, e)) return false;
    keep(b);
    return true;
}

bool block_attend(struct block *b, struct err *e)
{
    const struct arch *a = block_arch(b);
    struct widths n = block_widths(a);
    bool listens = block_listens(b, HOOK_PATTERN) || block_listens(b, HOOK_ATTN_SCORES);
    struct attention at = {a, b->span, b->n_spans, b->layer, b->rows.qkv, b->rows.z, listens ? b->taps : NULL};
    if (!attention_forward(&at, b->session->par, &b->session->attention, e)) return false;
    block_fire(b, HOOK_Z, b->rows.z, n.z);
    return true;
}

bool block_attention(struct block *b, struct err *e) { return block_keys(b, e) && block_attend(b, e); }

bool block_project(struct block *b, struct err *e)
{
    const struct arch *a = block_arch(b);
    struct layer_weights w = view_layer(b->view, b->layer);
    struct widths n = block_widths(a);
    float *out = a->parallel ? b->rows.attn : b->rows.out, *made = a->post_norm ? b->rows.raw_attn : out;
    if (!linear_forward(b->session, &w.o, b->rows.z, n.z, b->n_rows, made, n.d, e) ||
        !block_head_results(b, &w, made, e))
        return false;
    if (a->post_norm) block_norm(b, &w.attn_post_norm, hooks_ln1_post, made, out);
    block_fire(b, HOOK_ATTN_OUT, out, n.d);
    if (a->parallel) return true;
    each_row(b, add_range, (struct rows_job){.in = out, .out = b->x});
    block_fire(b, HOOK_RESID_MID, b->x, n.d);
    return true;
}

void block_given_z(struct block *b) { block_fire(b, HOOK_Z, b->rows.z, block_widths(block_arch(b)).z); }

void block_given_mid(struct block *b) { block_fire(b, HOOK_RESID_MID, b->x, block_widths(block_arch(b)).d); }

/* rows.out ← what the MLP adds, given its neurons. */
static bool add_of_neurons(struct block *b, const struct layer_weights *w, const float *post, struct err *e)
{
    const struct arch *a = block_arch(b);
    size_t d = a->d_model;
    float *made = a->post_norm ? b->rows.raw_mlp : b->rows.out;
    if (!linear_forward(b->session, &w->down, post, a->d_mlp, b->n_rows, made, d, e)) return false;
    if (a->post_norm) block_norm(b, &w->mlp_post_norm, hooks_ln2_post, made, b->rows.out);
    block_fire(b, HOOK_MLP_OUT, b->rows.out, d);
    return true;
}

bool block_down(struct block *b, const float *post, const float *down, struct err *e)
{
    struct layer_weights w = view_layer(b->view, b->layer);
    struct matrix *held = &w.down.part[0].w;
    *held = matrix_of(DTYPE_F32, down, held->rows, held->cols);
    return add_of_neurons(b, &w, post, e);
}

/* A write at the one norm's hooks reaches both branches, which read the same rows; unless the MLP is
 * given a stream of its own, whose norm is nobody's hook. */
static bool shares_written_norm(const struct block *b)
{
    return block_arch(b)->one_norm && !taps_write(b->taps, HOOK_MLP_IN, b->layer) &&
           (taps_write(b->taps, HOOK_LN1_SCALE, b->layer) || taps_write(b->taps, HOOK_LN1_NORMALIZED, b->layer));
}

/* rows.post from the stream, or where the norm is shared and written at, from attention's rows.norm. */
static bool neurons(struct block *b, const struct layer_weights *w, struct err *e)
{
    const struct arch *a = block_arch(b);
    struct widths n = block_widths(a);
    bool shared = shares_written_norm(b);
    const float *in = b->x;
    if (block_listens(b, HOOK_MLP_IN)) {
        memcpy(b->rows.out, b->x, b->n_rows * n.d * sizeof *b->x);
        block_fire(b, HOOK_MLP_IN, b->rows.out, n.d);
        in = b->rows.out;
    }
    /* Where attention and MLP share one norm its hooks have fired with attention. */
    static const struct norm_hooks silent = {HOOK_COUNT, HOOK_COUNT};
    if (a->pre_norm) {
        if (!shared) block_norm(b, &w->mlp_norm, a->one_norm ? silent : hooks_ln2, in, b->rows.norm);
        in = b->rows.norm;
    }
    if (!linear_forward(b->session, &w->gate_up, in, n.d, b->n_rows, b->rows.pre, n.pre, e)) return false;
    block_fire(b, HOOK_MLP_PRE, b->rows.pre, n.pre);
    if (a->gated) block_fire(b, HOOK_MLP_PRE_LINEAR, b->rows.pre + n.m, n.pre);
    each_row(b, activation_range, (struct rows_job){.in = b->rows.pre, .out = b->rows.post});
    block_fire(b, HOOK_MLP_POST, b->rows.post, n.m);
    return true;
}

bool block_mlp(struct block *b, struct err *e)
{
    const struct arch *a = block_arch(b);
    struct layer_weights w = view_layer(b->view, b->layer);
    if (!neurons(b, &w, e) || !add_of_neurons(b, &w, b->rows.post, e)) return false;
    if (a->parallel) { /* the stream without the MLP is no hook of such a model, but training starts from it */
        each_row(b, add_range, (struct rows_job){.in = b->rows.attn, .out = b->x});
        block_fire(b, HOOK_RESID_MID, b->x, a->d_model);
    }
    each_row(b, add_range, (struct rows_job){.in = b->rows.out, .out = b->x});
    block_fire(b, HOOK_RESID_POST, b->x, a->d_model);
    return true;
}

bool block_forward(struct block *b, struct err *e)
{
    return block_attention(b, e) && block_project(b, e) && block_mlp(b, e);
}
