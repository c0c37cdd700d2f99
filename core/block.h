/* One decoder block over ragged rows, forward and backward.
 *
 *     x ─► norm ─► q,k,v ─► rotary ─► attention ─► z ─► o_proj ─► + ─► norm ─► gate,up ─► down ─► + ─► x
 *     └──────────────────────────────────────────────────────────┘└────────────────────────────────┘
 *      resid_pre                                          resid_mid                        resid_post
 *
 * The three parts can be called one by one, because a patch grid lets rows enter at any of them:
 * block_attention fills z from x, block_project adds o_proj(z) to x, block_mlp adds the MLP.
 *
 * Buffers: x [R][d] is the caller's; the rest is a struct block_rows, either session scratch
 * (block_rows_scratch) or memory kept for a backward pass (struct saved). Every hook fires once
 * per row, layer and pass, in the order of core/hook.def.
 */
#ifndef ENGRAM_BLOCK_H
#define ENGRAM_BLOCK_H

#include "session.h"
#include "view.h"

struct block_rows { /* activations of R rows in one block */
    float *qkv;     /* [R][(H+2G)e], after rotary */
    float *z;       /* [R][H·e] */
    float *gate_up; /* [R][2m], before the activation */
    float *post;    /* [R][m] */
    float *norm;    /* [R][d], a norm's output */
    float *out;     /* [R][d], an addend */
};
size_t block_rows_floats(const struct arch *a, size_t rows);
/* Lay the buffers out in `memory` of block_rows_floats(a, rows). */
void block_rows_place(const struct arch *a, size_t rows, float *memory, struct block_rows *out);

struct block {
    struct session *session;
    const struct view *view;
    uint32_t layer;
    const struct span *span;
    size_t n_spans;
    uint32_t n_rows;
    float *x;                /* [R][d] */
    const struct taps *taps; /* or NULL */
    struct block_rows rows;
};

bool block_attention(struct block *b, struct err *e) MUST_CHECK;
void block_project(struct block *b);
void block_mlp(struct block *b);
bool block_forward(struct block *b, struct err *e) MUST_CHECK; /* all three */

/* What a block's backward needs, kept by its forward. */
struct saved {
    float *x_pre, *x_mid;   /* [R][d] */
    struct block_rows rows; /* qkv, z, gate_up, post of the forward */
};

/* Gradients of weights that are asked for; NULL where not. Accumulated into. Layouts as weights. */
struct weight_grads {
    float *qkv, *o, *gate_up, *down;
};

/* dx [R][d]: gradient at resid_post in, at resid_pre out. b->x is not used; b->taps read gradients
 * at hooks; b->rows is scratch for gradients. from_mid: stop at resid_mid (dx is then the gradient
 * there), when nothing below is trained or asked for. */
bool block_backward(struct block *b, const struct saved *s, float *dx, const struct weight_grads *g,
                    bool from_mid, struct err *e) MUST_CHECK;

#endif
