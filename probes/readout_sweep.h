/* One readout at each of many sites (and heads) over the same labelled rows: which of them say the label?
 *
 * Rows are run once, some at a time, and only the asked positions are read, at all sites together; several positions
 * of a row are averaged. Then each cell (a site, or a head of one) is cross-validated on the same folds
 * (readout_cv.h), and the cells that are to be kept are fitted once more on all rows, with
 *
 *     σ = standard deviation of the rows' projections on the unit direction of a class     (arXiv 2306.03341)
 *
 * Kept are those asked for, or the `keep` with the highest accuracy; among equals the larger area under the curve,
 * then the earlier.
 *
 * Borrowed: rows, sites, split, spec. One thread.
 */
#ifndef ENGRAM_READOUT_SWEEP_H
#define ENGRAM_READOUT_SWEEP_H

#include "readout_cv.h"
#include "trace.h"

struct readout_row {
    const uint32_t *ids;
    uint32_t n;
    const uint32_t *pos; /* ascending; averaged */
    size_t n_pos;
};

struct readout_site {
    struct site site;
    uint32_t cells, width; /* cells: heads, or 1 for all of it; width of one */
};

struct readout_sweep_request {
    struct view *view;
    const struct readout_row *row; /* [split->n] */
    const struct readout_site *site;
    size_t n_sites;
    const struct readout_spec *spec;
    const struct readout_split *split;
    const size_t *kept;            /* cells asked for, by number; NULL: the best */
    size_t n_kept;
};

struct readout_kept {
    size_t cell;
    struct readout *readout;
    double *sigma; /* [outputs]; NaN where there is no direction */
};

size_t readout_cells(const struct readout_sweep_request *q);
/* Which site and which part of it a cell is. */
void readout_cell(const struct readout_sweep_request *q, size_t cell, size_t *site, uint32_t *part);

void readout_sweep_plan(const struct readout_sweep_request *q, int threads, struct plan *p);

struct readout_sweep;
struct readout_sweep *readout_sweep_new(const struct readout_sweep_request *q, struct err *e) MUST_CHECK;
enum step readout_sweep_step(struct readout_sweep *w, struct session *s, struct err *e);
void readout_sweep_free(struct readout_sweep *w);
void readout_sweep_progress(const struct readout_sweep *w, size_t *done, size_t *total);
/* After STEP_DONE: [cells], and what is kept, the best first (or in the order asked). */
const struct readout_scores *readout_sweep_scores(const struct readout_sweep *w);
const struct readout_kept *readout_sweep_kept(const struct readout_sweep *w);
size_t readout_sweep_best(const struct readout_sweep *w);

#endif
