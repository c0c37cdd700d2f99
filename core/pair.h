/* A pair: two views of equal description on one stream (arXiv 2506.23423, section 4).
 *
 *     x ← (1−α)·(x + f_against(x)) + α·(x + f_view(x))        f: what a view's block adds to the stream
 *
 * At α = 1 the stream is view's to the bit, at α = 0 that of against's blocks; embedding, final norm and
 * unembedding are always view's. Each view keeps keys and values of its own, made of the one stream's states. A
 * layer whose weights both share is evaluated once.
 *
 * At α = 1 somebody may be told what both blocks add at the rows that the run was asked for (`terms`). Where those
 * are few, against's block makes keys and values of all rows and the rest of the asked ones only; view's is then
 * run for these once more, so that both go through the same products and equal weights held in two places
 * differ by exactly 0.
 *
 * Ownership: all borrowed. One thread.
 */
#ifndef ENGRAM_PAIR_H
#define ENGRAM_PAIR_H

#include "block.h"

struct pair_row { /* a row that was asked for */
    uint32_t row;    /* of the pass */
    uint32_t seq, pos;
    size_t want;     /* which of its input's wanted positions */
};

struct pair_terms { /* of one layer: what view's block adds, and against's */
    uint32_t layer;
    const struct pair_row *row;
    size_t n;
    const float *attn[2], *mlp[2]; /* [n][d]; a shared layer's are the same memory */
};

struct view_pair {
    struct view *against;
    float alpha;  /* ≥ 0 */
    void (*terms)(void *ctx, const struct pair_terms *t); /* or NULL; α is 1 */
    void *ctx;
};

struct pair_pass { /* one layer of some rows */
    const struct view_pair *pair;
    struct block *view;            /* view's block: its x is moved on */
    const struct span *against;    /* the same spans with against's caches */
    const struct pair_row *row;    /* ascending */
    size_t n_rows;
    bool few;                      /* asked rows apart: every span has caches */
    struct span *apart;            /* [n_rows] room */
    float *memory;                 /* pair_floats */
};
size_t pair_floats(const struct arch *a, size_t rows, size_t asked, bool few);
bool pair_forward(const struct pair_pass *p, struct err *e) MUST_CHECK;

/* Do the two share every layer? */
bool pair_shares_all(const struct view *view, const struct view *against);

#endif
