/* Activation patching as one sweep: every cell of a grid, of every pair of prompts, in a single walk
 * through the layers.
 *
 * A pair is two prompts of equal length. denoise: values of the clean run go into the corrupt run;
 * noise: the other way. The run values come from is the source, the run they go into the base. Any hook
 * of a layer that can be written is a site; what a cell replaces there:
 *
 *   layer × position          all of the site at that position
 *   layer × head              that head, at all positions       (heads as the site counts them)
 *   layer × head × position   that head at that position        (pattern: the row of that destination)
 *   layer                     all of the site
 *   layer × block (× position) of a site without heads so many values side by side, such as neurons: the axes of
 *                             heads, a block in the place of a head
 *
 * in its layer, or in a window of layers around it. In place of the source's values (patch_from):
 *
 *   zero        0
 *   mean        the site's mean over all positions of given prompts, layer by layer (probes/means.h)
 *   noise       the base's own value + N(0, (noise · sd)²), sd that of the base's values there in that layer
 *   subspace    v_base + BᵀB (v_source − v_base): only the component in the span of B's orthonormal rows
 *
 * The sweep: bases and sources are run once, keeping what cells need. A patch at layer l and position p
 * changes nothing below l and nothing before p. So the layers are walked once; at layer l the cells of
 * that layer join, behind the part of the block that a patch at that site leaves alone; a cell carries
 * only its rows from p to the metric's position and attends to its base's keys and values for the rest.
 * Each weight matrix is read once for all and the products are tall. In the last layer only the metric's
 * row goes past attention. Cells that cannot differ (before the prompts first differ, or after the
 * metric's position) are not run and hold the base's metric. Columns are taken in turns when the rows
 * would not fit the memory budget.
 *
 * Checks, in the same sweep, on the first pair: cells patched with the base's own values (identity), and
 * cells that enter with all of the source's rows, whose metric must be the source's (full). And after it a
 * few cells once more, each by one whole run with its writes (naive): the largest and some at random.
 *
 * Borrowed: ids and the metrics' lists. One thread. A step is one tile of rows in one layer.
 */
#ifndef ENGRAM_PATCH_H
#define ENGRAM_PATCH_H

#include "core/run.h"
#include "means.h"
#include "patch_scores.h"

enum patch_axis { PATCH_LAYER_POS, PATCH_LAYER_HEAD, PATCH_LAYER_HEAD_POS, PATCH_LAYER };
enum patch_from { PATCH_FROM_OTHER, PATCH_FROM_ZERO, PATCH_FROM_MEAN, PATCH_FROM_NOISE, PATCH_FROM_SUBSPACE };

struct patch_pair {
    const uint32_t *clean, *corrupt;
    uint32_t n;
    const struct metric *metric; /* [n_metrics], all read at one position */
};

struct patch_request {
    struct view *view;
    struct view *source;    /* whose run values come from; NULL: view */
    const struct patch_pair *pair;
    size_t n_pairs, n_metrics; /* at least one of each; with a position axis all pairs are of one length */
    bool denoise;
    enum patch_from from;
    const struct means_text *mean; /* [n_mean] MEAN: the prompts */
    size_t n_mean;
    double noise;           /* NOISE; drawn by seed, pair and layer */
    const float *basis;     /* [n_basis][width of a head] SUBSPACE, orthonormal */
    size_t n_basis;
    enum hook site;         /* of a layer, writable, and there in this model; for a mean, noise and a subspace one whose
                             * rows are not as wide as the sequence */
    enum patch_axis axis;
    uint32_t block;         /* of a site without heads by an axis of heads; 0 else */
    uint32_t before, after; /* layers below and above a cell's own that it patches as well; 0 for noise and a subspace */
    const size_t *only;     /* [n_only] the cells to run, (layer·heads + head)·positions + position, ascending; NULL: all */
    size_t n_only;          /* others hold the base's metric */
    size_t memory_bytes;    /* for the sweep's rows; 0: 512 MiB */
    uint32_t n_naive;       /* cells to recompute, at most; fewer where that were a tenth of a long sweep */
    uint64_t seed;          /* which ones; and of the noise */
};

struct patch_cost { /* known before anything runs */
    size_t cells, cells_run, rows; /* of all pairs; rows: token rows times layers pushed through a block */
    double flops;                  /* of the sweep's matrix products */
    double all_flops;              /* and of the runs, the metrics' logits and the naive check */
};

struct patch_grid {
    uint32_t n_layers, n_heads, n_pos;
    const struct patch_scores *scores; /* [n_pairs][n_metrics] */
    const uint32_t *first_difference;  /* [n_pairs] where the runs may first differ; n when they do not */
    double check_identity, check_full; /* largest difference of any metric; NaN where there is no such check */
    double check_naive;                /* of the n_naive cells recomputed, as far as they were */
    size_t n_naive;
    struct patch_cost cost;
};

/* Both runs' activations, the bases' caches, the sweep, the metrics' logits. */
void patch_plan(const struct patch_request *q, int threads, struct plan *p);
static inline bool patch_by_pos(enum patch_axis a) { return a == PATCH_LAYER_POS || a == PATCH_LAYER_HEAD_POS; }
static inline bool patch_by_head(enum patch_axis a) { return a == PATCH_LAYER_HEAD || a == PATCH_LAYER_HEAD_POS; }
/* Columns of the grid by head and by position. */
void patch_columns(const struct patch_request *q, uint32_t *heads, uint32_t *pos);

bool patch_forecast(const struct patch_request *q, struct patch_cost *out, struct err *e) MUST_CHECK;

/* Positions that matter, the metric's and all before: of a pair, and most of any of n. */
static inline uint32_t patch_used(const struct patch_pair *pair) { return pair->metric->pos + 1; }
uint32_t patch_longest(const struct patch_pair *pair, size_t n);
/* Where a pair's prompts first differ; n when they do not. */
uint32_t patch_pair_difference(const struct patch_pair *pair);
/* Where its runs may: from the first position on, where values are not the other prompt's on the same view. */
uint32_t patch_difference(const struct patch_request *q, const struct patch_pair *pair);

struct patch;
struct patch *patch_new(const struct patch_request *q, struct err *e) MUST_CHECK;
enum step patch_step(struct patch *p, struct session *s, struct err *e);
void patch_free(struct patch *p);
void patch_progress(const struct patch *p, size_t *done, size_t *total); /* cells */
/* The first pair's source values at the site in a layer, as a read of every position and head gives them;
 * after the grid is done. */
const float *patch_source(const struct patch *p, uint32_t layer);
/* Is the next step part of the naive check? */
bool patch_checking(const struct patch *p);
/* Instead of going on: what the turns that are done have given, NaN where a cell's has not been; NULL where none
 * is. Ends the patch. */
const struct patch_grid *patch_partial(struct patch *p);
/* After STEP_DONE; owned by the patch. */
const struct patch_grid *patch_result(const struct patch *p);

#endif
