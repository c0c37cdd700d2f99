#include <assert.h>
#include <string.h>

#include "block_int.h"
#include "core/kernel/mlp.h"
#include "core/kernel/norm.h"

bool block_back_through(enum hook h)
{
    static const enum hook through[] = {
        HOOK_RESID_PRE, HOOK_Q, HOOK_K, HOOK_V, HOOK_Q_NORMED, HOOK_K_NORMED, HOOK_ROT_Q, HOOK_ROT_K, HOOK_Z,
        HOOK_ATTN_OUT, HOOK_RESID_MID, HOOK_MLP_PRE, HOOK_MLP_PRE_LINEAR, HOOK_MLP_POST, HOOK_MLP_OUT, HOOK_RESID_POST,
    };
    for (size_t i = 0; i < sizeof through / sizeof *through; i++)
        if (through[i] == h) return true;
    return false;
}

/* The gradient of a branch's addend, which the stream's is, unless it was written into: then in `own`. */
static float *addend_gradient(struct block *b, enum hook h, float *dx, float *own)
{
    float *dy = dx;
    if (taps_write(b->written, h, b->layer) && own != dx) {
        memcpy(own, dx, (size_t)b->n_rows * block_arch(b)->d_model * sizeof *dx);
        dy = own;
    }
    block_fire(b, h, dy, block_arch(b)->d_model);
    return dy;
}

/* ---- norms ------------------------------------------------------------------------------------- */

/* Gradients at a norm's hooks and of its gain and bias: only when somebody asks. */
static bool norm_details(struct block *b, const struct norm *n, struct norm_hooks h, const float *x,
                         const float *dy, float *d_gain, float *d_bias, struct err *e)
{
    size_t R = b->n_rows, d = block_arch(b)->d_model;
    float *memory = mem_floats(2 * R * d + R, e), *centred = memory, *work = memory + R * d, *d_scale = work + R * d;
    if (!memory) return false;
    norm_scale(n, x, b->rows.scale, centred, R, (uint32_t)d);
    norm_finish_backward(n, dy, work, R, (uint32_t)d);
    block_fire(b, h.normalized, work, d);
    norm_divide_backward(work, centred, b->rows.scale, d_scale, R, (uint32_t)d);
    block_fire(b, h.scale, d_scale, 1);
    norm_divide(centred, b->rows.scale, centred, R, (uint32_t)d);
    norm_gain_backward(dy, centred, R, (uint32_t)d, d_gain, d_bias);
    mem_drop(memory);
    return true;
}

bool block_norm_backward(struct block *b, const struct norm *n, struct norm_hooks h, const float *x,
                         const float *dy, float *dx, float *d_gain, float *d_bias, struct err *e)
{
    size_t d = block_arch(b)->d_model;
    bool asked = d_gain || d_bias || block_listens(b, h.scale) || block_listens(b, h.normalized);
    if (asked && !norm_details(b, n, h, x, dy, d_gain, d_bias, e)) return false;
    norm_backward(n, x, d, dy, d, dx, d, b->n_rows, (uint32_t)d);
    return true;
}

/* The norm's output is cheap to make again from its saved input. */
static const float *branch_input(struct block *b, const struct norm *n, const float *x)
{
    const struct arch *a = block_arch(b);
    if (!a->pre_norm) return x;
    norm_forward(n, x, a->d_model, b->rows.norm, a->d_model, b->n_rows, a->d_model);
    return b->rows.norm;
}

/* A branch's output gradient before its post-norm: dy itself, or in `work`. */
static const float *before_post_norm(struct block *b, const struct norm *n, struct norm_hooks h, const float *raw,
                                     const float *dy, float *work, float *d_gain, struct err *e)
{
    const struct arch *a = block_arch(b);
    if (!a->post_norm) return dy;
    memset(work, 0, (size_t)b->n_rows * a->d_model * sizeof *work);
    return block_norm_backward(b, n, h, raw, dy, work, d_gain, NULL, e) ? work : NULL;
}

/* ---- the MLP ----------------------------------------------------------------------------------- */

/* Gradient before the post-norm, and of the down-projection. */
static const float *down_backward(struct block *b, const struct layer_weights *w, const struct saved *s,
                                  const float *post, const float *dx, const struct weight_grads *g, struct err *e)
{
    const struct arch *a = block_arch(b);
    const float *dy = before_post_norm(b, &w->mlp_post_norm, hooks_ln2_post, s->rows.raw_mlp, dx, b->rows.raw_mlp,
                                       g->of[GROUP_MLP_POST_NORM], e);
    if (!dy) return NULL;
    if (g->of[GROUP_DOWN]) linear_weight_grad(&w->down, dy, a->d_model, post, a->d_mlp, b->n_rows, g->of[GROUP_DOWN]);
    if (g->of[GROUP_DOWN_B]) linear_bias_grad(&w->down, dy, a->d_model, b->n_rows, g->of[GROUP_DOWN_B]);
    return dy;
}

bool block_down_backward(struct block *b, const struct saved *s, const float *post, const float *dx,
                         const struct weight_grads *g, struct err *e)
{
    struct layer_weights w = view_layer(b->view, b->layer);
    return down_backward(b, &w, s, post, dx, g, e) != NULL;
}

/* What the MLP's reading of the stream adds to its gradient. d_norm: gradient of what gate and up read.
 * Where both branches read one norm's output, attention's part takes both back through it, with d_norm
 * from rows.out; only who listens at hook_mlp_in hears what this branch alone would add. */
static bool mlp_input_backward(struct block *b, const struct layer_weights *w, const float *x, float *d_norm,
                               float *dx, const struct weight_grads *g, struct err *e)
{
    const struct arch *a = block_arch(b);
    static const struct norm_hooks silent = {HOOK_COUNT, HOOK_COUNT};
    if (a->one_norm && !block_listens(b, HOOK_MLP_IN)) return true;
    size_t floats = (size_t)b->n_rows * a->d_model;
    float *d_in = b->rows.norm; /* free by now */
    memset(d_in, 0, floats * sizeof *d_in);
    if (!a->pre_norm) memcpy(d_in, d_norm, floats * sizeof *d_in);
    else if (!block_norm_backward(b, &w->mlp_norm, a->one_norm ? silent : hooks_ln2, x, d_norm, d_in,
                                  g->of[GROUP_MLP_NORM], g->of[GROUP_MLP_NORM_B], e))
        return false;
    block_fire(b, HOOK_MLP_IN, d_in, a->d_model);
    for (size_t i = 0; !a->one_norm && i < floats; i++) dx[i] += d_in[i];
    return true;
}

static bool mlp_part_backward(struct block *b, const struct saved *s, float *dx, const struct weight_grads *g,
                              struct err *e)
{
    const struct arch *a = block_arch(b);
    struct layer_weights w = view_layer(b->view, b->layer);
    struct widths n = block_widths(a);
    size_t R = b->n_rows;
    const float *x = a->parallel ? s->x_pre : s->x_mid;
    float *d_post = b->rows.post, *d_pre = b->rows.pre, *d_norm = b->rows.out;
    block_fire(b, HOOK_RESID_POST, dx, n.d);
    if (a->parallel) memcpy(b->rows.attn, dx, R * n.d * sizeof *dx);
    const float *d_added = addend_gradient(b, HOOK_MLP_OUT, dx, d_norm); /* not in use before dy is used up */
    const float *dy = down_backward(b, &w, s, s->rows.post, d_added, g, e);
    if (!dy || !linear_backward(b->session, &w.down, dy, n.d, R, d_post, n.m, e)) return false;
    block_fire(b, HOOK_MLP_POST, d_post, n.m);
    mlp_backward(a->act, a->gated, s->rows.pre, d_post, d_pre, R, a->d_mlp);
    if (a->gated) block_fire(b, HOOK_MLP_PRE_LINEAR, d_pre + n.m, n.pre);
    block_fire(b, HOOK_MLP_PRE, d_pre, n.pre);
    if (g->of[GROUP_GATE_UP])
        linear_weight_grad(&w.gate_up, d_pre, n.pre, branch_input(b, &w.mlp_norm, x), n.d, R, g->of[GROUP_GATE_UP]);
    if (g->of[GROUP_UP_B]) linear_bias_grad(&w.gate_up, d_pre, n.pre, R, g->of[GROUP_UP_B]);
    if (!linear_backward(b->session, &w.gate_up, d_pre, n.pre, R, d_norm, n.d, e) ||
        !mlp_input_backward(b, &w, x, d_norm, dx, g, e))
        return false;
    if (!a->parallel) block_fire(b, HOOK_RESID_MID, dx, n.d);
    return true;
}

/* ---- attention --------------------------------------------------------------------------------- */

/* d_qkv through the norms of q and k, whose inputs were kept. */
static bool qk_norm_backward(struct block *b, const struct layer_weights *w, const float *raw, float *d_qkv,
                             const struct weight_grads *g, struct err *e)
{
    const struct arch *a = block_arch(b);
    struct widths n = block_widths(a);
    bool all = a->qk_norm == QK_NORM_ALL;
    size_t wide[2] = {all ? n.z : a->d_head, all ? n.kv : a->d_head}, width[2] = {n.z, n.kv};
    float *d_gain[2] = {g->of[GROUP_Q_NORM], g->of[GROUP_K_NORM]}, *work = mem_floats(2 * n.z, e), *centred = work + n.z;
    if (!work) return false;
    for (size_t r = 0; r < b->n_rows; r++)
        for (int part = 0; part < 2; part++) {
            struct norm norm = block_qk_norm_of(a, part ? w->k_norm : w->q_norm);
            const float *x = raw + r * (n.z + n.kv) + (part ? n.z : 0);
            float *dy = d_qkv + r * n.qkv + (part ? n.z : 0), scale;
            memset(work, 0, width[part] * sizeof *work);
            norm_backward(&norm, x, wide[part], dy, wide[part], work, wide[part], width[part] / wide[part], (uint32_t)wide[part]);
            for (size_t v = 0; d_gain[part] && v < width[part]; v += wide[part]) {
                norm_scale(&norm, x + v, &scale, centred, 1, (uint32_t)wide[part]);
                for (size_t i = 0; i < wide[part]; i++) d_gain[part][i] += dy[v + i] * centred[i] / scale;
            }
            memcpy(dy, work, width[part] * sizeof *work);
        }
    mem_drop(work);
    return true;
}

/* Gradients of q, k and v as projected, in rows.qkv, from that of z. */
static bool queries_and_keys_backward(struct block *b, const struct layer_weights *w, const struct saved *s,
                                      const struct weight_grads *g, struct err *e)
{
    const struct arch *a = block_arch(b);
    struct widths n = block_widths(a);
    float *d_qkv = b->rows.qkv;
    bool listens = block_listens(b, HOOK_PATTERN) || block_listens(b, HOOK_ATTN_SCORES);
    struct attention at = {a, b->span, b->n_spans, b->layer, s->rows.qkv, NULL, listens ? b->taps : NULL};
    if (!attention_backward(&at, b->rows.z, d_qkv, &b->session->attention, e)) return false;
    block_fire(b, HOOK_ROT_K, d_qkv + n.z, n.qkv);
    block_fire(b, HOOK_ROT_Q, d_qkv, n.qkv);
    block_rotate(b, d_qkv, -1.0f);
    block_fire(b, HOOK_K_NORMED, d_qkv + n.z, n.qkv);
    block_fire(b, HOOK_Q_NORMED, d_qkv, n.qkv);
    if (a->qk_norm != QK_NORM_NONE && !qk_norm_backward(b, w, s->rows.raw_qk, d_qkv, g, e)) return false;
    block_fire(b, HOOK_V, d_qkv + n.z + n.kv, n.qkv);
    block_fire(b, HOOK_K, d_qkv + n.z, n.qkv);
    block_fire(b, HOOK_Q, d_qkv, n.qkv);
    return true;
}

static bool attention_part_backward(struct block *b, const struct saved *s, float *dx,
                                    const struct weight_grads *g, struct err *e)
{
    const struct arch *a = block_arch(b);
    struct layer_weights w = view_layer(b->view, b->layer);
    struct widths n = block_widths(a);
    size_t R = b->n_rows;
    float *d_norm = a->one_norm ? b->rows.attn : b->rows.out; /* d_added is used up by then */
    const float *d_added = a->parallel ? addend_gradient(b, HOOK_ATTN_OUT, b->rows.attn, b->rows.attn)
                                       : addend_gradient(b, HOOK_ATTN_OUT, dx, d_norm);
    const float *dy = before_post_norm(b, &w.attn_post_norm, hooks_ln1_post, s->rows.raw_attn, d_added,
                                       b->rows.raw_attn, g->of[GROUP_ATTN_POST_NORM], e);
    if (!dy || !block_head_results_backward(b, dy, e)) return false;
    if (g->of[GROUP_O]) linear_weight_grad(&w.o, dy, n.d, s->rows.z, n.z, R, g->of[GROUP_O]);
    if (g->of[GROUP_O_B]) linear_bias_grad(&w.o, dy, n.d, R, g->of[GROUP_O_B]);
    if (!linear_backward(b->session, &w.o, dy, n.d, R, b->rows.z, n.z, e)) return false;
    block_fire(b, HOOK_Z, b->rows.z, n.z);
    if (!queries_and_keys_backward(b, &w, s, g, e) ||
        !block_head_inputs_backward(b, &w, s->x_pre, b->rows.qkv, e))
        return false;
    float *d_qkv = b->rows.qkv;
    if (a->qkv_woven) block_weave(b, b->rows.qkv, b->rows.woven), d_qkv = b->rows.woven;
    if (g->of[GROUP_QKV])
        linear_weight_grad(&w.qkv, d_qkv, n.qkv, branch_input(b, &w.attn_norm, s->x_pre), n.d, R, g->of[GROUP_QKV]);
    if (g->of[GROUP_QKV_B]) linear_bias_grad(&w.qkv, d_qkv, n.qkv, R, g->of[GROUP_QKV_B]);
    if (!linear_backward(b->session, &w.qkv, d_qkv, n.qkv, R, d_norm, n.d, e)) return false;
    for (size_t i = 0; a->one_norm && i < R * n.d; i++) d_norm[i] += b->rows.out[i]; /* the MLP's */
    if (!a->pre_norm)
        for (size_t i = 0; i < R * n.d; i++) dx[i] += d_norm[i];
    else if (!block_norm_backward(b, &w.attn_norm, hooks_ln1, s->x_pre, d_norm, dx, g->of[GROUP_ATTN_NORM],
                                  g->of[GROUP_ATTN_NORM_B], e))
        return false;
    block_fire(b, HOOK_RESID_PRE, dx, n.d);
    return true;
}

bool block_backward(struct block *b, const struct saved *s, float *dx, const struct weight_grads *g,
                    bool from_mid, struct err *e)
{
    static const struct weight_grads none = {0};
    assert(!from_mid || !block_arch(b)->parallel);
    if (!mlp_part_backward(b, s, dx, g ? g : &none, e)) return false;
    return from_mid || attention_part_backward(b, s, dx, g ? g : &none, e);
}
