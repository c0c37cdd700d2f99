/* Shared by the three files of the block: forward (block.c), backward (block_backward.c) and the
 * hooks whose values a pass does not make by itself (block_hooks.c). */
#ifndef ENGRAM_BLOCK_INT_H
#define ENGRAM_BLOCK_INT_H

#include "block.h"

struct widths { /* of rows, in floats */
    size_t d, z, kv, qkv, m, pre;
};
struct widths block_widths(const struct arch *a);

static inline const struct arch *block_arch(const struct block *b) { return &view_model(b->view)->arch; }

/* Fire a hook on all rows; data of row r at data + r·stride. */
void block_fire(struct block *b, enum hook h, float *data, size_t stride);
bool block_listens(const struct block *b, enum hook h);

struct norm_hooks {
    enum hook scale, normalized;
};
extern const struct norm_hooks hooks_ln1, hooks_ln2, hooks_ln1_post, hooks_ln2_post;

/* y ← norm(x), both [R][d], firing its hooks; y may be x. */
void block_norm(struct block *b, const struct norm *n, struct norm_hooks h, const float *x, float *y);
/* dx += gradient of x through the norm of dy; gradients of gain and bias where asked for. */
bool block_norm_backward(struct block *b, const struct norm *n, struct norm_hooks h, const float *x,
                         const float *dy, float *dx, float *d_gain, float *d_bias, struct err *e) MUST_CHECK;

/* Turn q and k of all rows by their positions; −1 turns gradients back. */
void block_rotate(struct block *b, float *qkv, float direction);
/* Norm of q and k in place; raw gets what they were. */
void block_qk_norm(struct block *b, const struct layer_weights *w, float *qkv, float *raw);
struct norm block_qk_norm_of(const struct arch *a, const float *gain);

/* Between [q|k|v] and a woven matrix' order. */
void block_unweave(struct block *b, const float *woven, float *qkv);
void block_weave(struct block *b, const float *qkv, float *woven);

/* ---- block_hooks.c ---- */

/* hook_attn_in, hook_q_input, hook_k_input, hook_v_input: heads that read a stream of their own. */
bool block_head_inputs(struct block *b, const struct layer_weights *w, struct err *e) MUST_CHECK;
/* hook_result: what each head adds; a change moves rows.out. */
bool block_head_results(struct block *b, const struct layer_weights *w, float *out, struct err *e) MUST_CHECK;
/* Gradients at the same. */
bool block_head_inputs_backward(struct block *b, const struct layer_weights *w, const float *x_pre,
                                const float *d_qkv, struct err *e) MUST_CHECK;
bool block_head_results_backward(struct block *b, const float *d_out, struct err *e) MUST_CHECK;

#endif
