/* A view: a base model plus an ordered list of deltas. It materialises only what it changes.
 *
 * Building one never subtracts: a changed tensor is base, then its deltas in order, in the fixed
 * arithmetic of core/delta_apply.c, so the same list gives the same bytes on any machine and for
 * any thread count. When one tensor of a side-by-side group changes, the group's block is copied
 * so that one GEMM still serves it.
 *
 * Ownership: counted, thread safe. Immutable after creation: a job pins a view and reads it while
 * newer ones are published.
 */
#ifndef ENGRAM_VIEW_H
#define ENGRAM_VIEW_H

#include "delta.h"
#include "model.h"

struct view;

/* The base itself. */
struct view *view_base(struct model *m);
/* parent plus one delta: unchanged tensors are shared with the parent. */
struct view *view_with_delta(struct view *parent, const struct delta *d, struct err *e) MUST_CHECK;
/* parent with whole tensors replaced by given bytes (restoring from stored objects): data[i] has
 * the tensor's n_elements floats and is copied. */
struct view *view_with_tensors(struct view *parent, const size_t *tensor, const float *const *data,
                               size_t n, struct err *e) MUST_CHECK;
struct view *view_retain(struct view *v);
void view_drop(struct view *v);

const struct model *view_model(const struct view *v);
const float *view_tensor(const struct view *v, size_t tensor);
bool view_changes(const struct view *v, size_t tensor); /* differs from the base's storage */
/* True when every weight of that layer is the very same memory in both views. */
bool view_same_layer(const struct view *a, const struct view *b, uint32_t layer);
size_t view_overlay_bytes(const struct view *v);

/* One layer's weights, grouped: qkv [(H+2G)e][d], gate_up [2m][d]. */
struct layer_weights {
    const float *attn_norm, *qkv, *o, *mlp_norm, *gate_up, *down;
};
struct layer_weights view_layer(const struct view *v, uint32_t layer);
const float *view_embed(const struct view *v);      /* [V][d] */
const float *view_head(const struct view *v);       /* [V][d], the embedding when tied */
const float *view_final_norm(const struct view *v); /* [d] */

/* The element bytes of a tensor as its digest counts them: little-endian float32, or the 16-bit
 * type it was stored in while no delta has touched it. `sink` gets consecutive chunks. */
enum dtype view_tensor_type(const struct view *v, size_t tensor);
void view_tensor_bytes(const struct view *v, size_t tensor,
                       void (*sink)(void *ctx, const void *bytes, size_t n), void *ctx);

#endif
