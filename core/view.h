/* A view: a base model plus an ordered list of deltas. It materialises only what it changes.
 *
 * Building one never subtracts: a changed tensor is base, then its deltas in order, in the fixed
 * arithmetic of core/delta_apply.c, so the same list gives the same bytes on any machine and for
 * any thread count. A changed tensor is float32 memory of the view's own, shared with the views
 * made from it.
 *
 * Ownership: counted, thread safe. Immutable after creation: a job pins a view and reads it while
 * newer ones are published.
 */
#ifndef ENGRAM_VIEW_H
#define ENGRAM_VIEW_H

#include "core/kernel/norm.h"
#include "delta.h"
#include "linear.h"
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
/* A tensor as it is held: of the base's type, or float32 where a delta has touched it. */
struct matrix view_matrix(const struct view *v, size_t tensor);
/* Its values in float32, [n_elements]. */
void view_tensor_copy(const struct view *v, size_t tensor, float *out);
/* Its Frobenius norm, in float64. */
double view_tensor_norm(const struct view *v, size_t tensor);
bool view_changes(const struct view *v, size_t tensor); /* differs from the base's storage */
/* True when every weight of that layer is the very same memory in both views. */
bool view_same_layer(const struct view *a, const struct view *b, uint32_t layer);
size_t view_overlay_bytes(const struct view *v);

/* One layer's weights. What a family does not have is NULL or has no parts. */
struct layer_weights {
    struct norm attn_norm, attn_post_norm, mlp_norm, mlp_post_norm; /* gain NULL: none */
    const float *q_norm, *k_norm;                                   /* gains of q/k norm */
    struct linear qkv, o, gate_up, down;
};
struct layer_weights view_layer(const struct view *v, uint32_t layer);
struct matrix view_embed(const struct view *v);     /* [V][d] */
struct matrix view_pos_embed(const struct view *v); /* [context][d], where positions are learned */
struct linear view_head(const struct view *v);      /* the embedding when tied */
struct norm view_final_norm(const struct view *v);

/* The element bytes of a tensor as its digest counts them: little-endian float32, or the 16-bit
 * type it was stored in while no delta has touched it. `sink` gets consecutive chunks. */
enum dtype view_tensor_type(const struct view *v, size_t tensor);
void view_tensor_bytes(const struct view *v, size_t tensor,
                       void (*sink)(void *ctx, const void *bytes, size_t n), void *ctx);

#endif
