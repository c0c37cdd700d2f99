/* The wavefront: many altered continuations of a few base runs, walked through the layers together.
 *
 * A cell continues one base run. It enters at its layer with rows for positions [first, n) of it;
 * earlier positions are the base's and are read from its cache. It enters before attention with rows
 * of the stream (ENTER_PRE), behind it with rows of the stream and attention's z (ENTER_Z), or before
 * the MLP with rows of the stream there (ENTER_MID, serial models). In its own layers, from `layer` to
 * `last`, it may write at hooks, as any run can (core/hook.h). From then on it is an ordinary span
 * whose past is the base's keys and values.
 *
 * Cells must be sorted by layer, within a layer by entry. Only their rows of the stream live between
 * layers; a tile of whole cells (SWEEP_TILE rows or one cell) goes through a block at a time. In the
 * last layer only each cell's last row goes past attention: the result is that row, one per cell.
 *
 * Borrowed: bases, cells, the maker and its context. One thread.
 */
#ifndef ENGRAM_SWEEP_H
#define ENGRAM_SWEEP_H

#include "core/block.h"
#include "core/base/step.h"
#include "core/plan.h"

enum { SWEEP_TILE = 768 };

enum cell_entry { ENTER_PRE, ENTER_Z, ENTER_MID };

struct sweep_base {
    uint32_t n;          /* rows of its cells end here: the metric's position + 1 */
    const struct kv *kv;
};

struct cell {
    uint32_t base;       /* which of the bases */
    uint32_t layer, last, first;
    enum cell_entry entry;
    uint32_t pos, head;  /* the caller's: what it writes, its kind, where its result goes */
    uint32_t kind;
    size_t out;
};

struct cell_maker {
    /* A cell's entering rows: x [n − first][d], and for ENTER_Z z [n − first][H·e]. */
    void (*enter)(void *ctx, const struct cell *c, float *x, float *z);
    /* What it writes in this layer, `first` or one up to `last`: how many writes, at most `most`. seq is the sweep's. */
    size_t (*write)(void *ctx, const struct cell *c, uint32_t layer, struct tap *out);
    void *ctx;
    size_t most; /* 0: 1 */
};

struct sweep_cost {
    size_t rows;  /* token rows times layers */
    double flops; /* matrix products and attention */
};
/* What these cells cost, before they run. */
struct sweep_cost sweep_forecast(const struct arch *a, const struct sweep_base *bases, const struct cell *cells, size_t n_cells);

/* Of cells with so many rows in all, for bases of up to n rows; of makers of one write. */
void sweep_plan(const struct arch *a, uint32_t n, size_t n_cells, size_t rows, int threads, struct plan *p);

struct sweep;
struct sweep *sweep_new(struct view *view, const struct sweep_base *bases, const struct cell *cells, size_t n_cells,
                        const struct cell_maker *maker, struct err *e) MUST_CHECK;
enum step sweep_step(struct sweep *w, struct session *s, struct err *e);
void sweep_free(struct sweep *w);
/* About how much of the work is done: cells join layer by layer, so it grows with the square. */
double sweep_share(const struct sweep *w);
const float *sweep_final(const struct sweep *w); /* [n_cells][d], after STEP_DONE */

/* Where in a block rows enter so that a write at that hook is all that is new: at the last place before it. */
enum cell_entry sweep_entry(const struct arch *a, enum hook h);

#endif
