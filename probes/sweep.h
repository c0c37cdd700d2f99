/* The wavefront: many altered continuations of one base run, walked through the layers together.
 *
 * A cell enters at its layer with rows for positions [first, n); earlier positions are the base's
 * and are read from its cache. It enters either with residual rows at the block's input
 * (ENTER_PRE) or with residual rows and attention outputs z, past attention (ENTER_Z). From then
 * on it is an ordinary span whose past is the base's keys and values.
 *
 * Cells must be sorted by layer. Only their residual rows live between layers; a tile of whole
 * cells (SWEEP_TILE rows or one cell) goes through a block at a time. In the last layer only each
 * cell's last row goes past attention: the result is that row, one per cell.
 *
 * Borrowed: base, cells, fill's context. One thread.
 */
#ifndef ENGRAM_SWEEP_H
#define ENGRAM_SWEEP_H

#include "core/block.h"
#include "core/base/step.h"
#include "core/plan.h"

enum { SWEEP_TILE = 768 };

enum cell_entry { ENTER_PRE, ENTER_Z };

struct cell {
    uint32_t layer, first;
    enum cell_entry entry;
    uint32_t column;   /* the caller's */
    uint32_t kind;     /* the caller's */
    size_t out;        /* the caller's: where its result goes */
};

struct sweep_base {
    struct view *view;
    uint32_t n;            /* rows of every cell end here: the metric's position + 1 */
    const struct kv *kv;
};

/* Write a cell's entering rows: x [n − first][d], and for ENTER_Z z [n − first][H·e]. */
typedef void (*cell_fill)(void *ctx, const struct cell *c, float *x, float *z);

struct sweep_cost {
    size_t rows;  /* token rows times layers */
    double flops; /* matrix products and attention */
};

/* Of cells with so many rows in all, for bases of n rows. */
void sweep_plan(const struct arch *a, uint32_t n, size_t n_cells, size_t rows, int threads, struct plan *p);

struct sweep;
struct sweep *sweep_new(const struct sweep_base *base, const struct cell *cells, size_t n_cells,
                        cell_fill fill, void *ctx, struct err *e) MUST_CHECK;
enum step sweep_step(struct sweep *w, struct session *s, struct err *e);
void sweep_free(struct sweep *w);
const float *sweep_final(const struct sweep *w); /* [n_cells][d], after STEP_DONE */
struct sweep_cost sweep_cost(const struct sweep *w);
size_t sweep_rows(const struct sweep_base *base, const struct cell *c); /* rows one cell keeps */

#endif
