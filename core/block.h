/* One decoder block over ragged rows, forward and backward, as struct arch describes it.
 *
 *     x ─► norm ─► q,k,v ─► (q/k norm) ─► rotary ─► attention ─► z ─► o ─► (norm) ─► attn_out
 *     x ─► norm ─► gate,up ─► activation ─► post ─► down ─► (norm) ─► mlp_out
 *
 *     serial    resid_mid = x + attn_out, the MLP reads it, resid_post = resid_mid + mlp_out
 *     parallel  the MLP reads x,          resid_post = x + attn_out + mlp_out
 *
 * The three parts can be called one by one, because a patch grid lets rows enter at any of them:
 * block_attention fills z from x, block_project makes attn_out of z (and adds it to x; a parallel
 * block keeps it for the third), block_mlp adds the MLP.
 *
 * Buffers: x [R][d] is the caller's; the rest is a struct block_rows, either session scratch
 * (block_rows_scratch) or memory kept for a backward pass (struct saved). Every hook fires once
 * per row, layer and pass, about in the order of core/hook.def.
 */
#ifndef ENGRAM_BLOCK_H
#define ENGRAM_BLOCK_H

#include "session.h"
#include "view.h"
#include "weight_grads.h"

struct block_rows { /* activations of R rows in one block; b: branches of the MLP */
    float *qkv;      /* [R][(H+2G)e], after rotary */
    float *z;        /* [R][H·e] */
    float *pre;      /* [R][b·m], gate before up, before the activation */
    float *post;     /* [R][m] */
    float *norm;     /* [R][d], a norm's output */
    float *out;      /* [R][d], an addend */
    float *scale;    /* [R], a norm's denominator */
    float *attn;     /* [R][d], parallel: attention's addend; NULL else */
    float *woven;    /* [R][3H·e], q, k, v as a woven matrix makes them; NULL else */
    float *raw_qk;   /* [R][(H+G)e], before q/k norm; NULL without one */
    float *raw_attn, *raw_mlp; /* [R][d], before the post-norms; NULL without */
};
size_t block_rows_floats(const struct arch *a, size_t rows);
size_t block_qkv_width(const struct arch *a); /* floats of a row of qkv */
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
    const struct taps *written; /* backward: what the forward pass fired, whose writes it comes back through */
    struct block_rows rows;
};

/* The first of the three in two: rows.qkv from x, kept in the spans' caches; z from rows.qkv. */
bool block_keys(struct block *b, struct err *e) MUST_CHECK;
bool block_attend(struct block *b, struct err *e) MUST_CHECK;
bool block_attention(struct block *b, struct err *e) MUST_CHECK;
bool block_project(struct block *b, struct err *e) MUST_CHECK;
bool block_mlp(struct block *b, struct err *e) MUST_CHECK;
/* In place of the first, or of the first two, for rows whose z (rows.z) or whose stream after attention (x;
 * serial models) are given: what listens there hears them. */
void block_given_z(struct block *b);
void block_given_mid(struct block *b);
bool block_forward(struct block *b, struct err *e) MUST_CHECK; /* all three */
/* rows.out ← what the MLP adds, given its neurons post [R][m], with `down` in place of the view's
 * down-projection and laid out as it is (a candidate in training). */
bool block_down(struct block *b, const float *post, const float *down, struct err *e) MUST_CHECK;

/* What a block's backward needs, kept by its forward. */
struct saved {
    float *x_pre, *x_mid;   /* [R][d]; parallel: x_mid is x_pre */
    struct block_rows rows; /* of the forward */
};

/* May a forward pass whose backward follows be written into at that hook? Elsewhere what is kept for the backward
 * pass does not tell what a write made. */
bool block_back_through(enum hook h);
/* dx [R][d]: gradient at resid_post in, at resid_pre out. b->x is not used; b->taps read gradients
 * at hooks; b->rows is scratch for gradients. from_mid: stop at resid_mid (dx is then the gradient
 * there), when nothing below is trained or asked for; serial blocks only. */
bool block_backward(struct block *b, const struct saved *s, float *dx, const struct weight_grads *g,
                    bool from_mid, struct err *e) MUST_CHECK;
/* The first stretch of it only: gradients of the down-projection (and the norm after it), given its
 * input; the gradient with respect to post is not made. */
bool block_down_backward(struct block *b, const struct saved *s, const float *post, const float *dx,
                         const struct weight_grads *g, struct err *e) MUST_CHECK;

#endif
