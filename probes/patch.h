/* Activation patching as one sweep: every cell of a grid in a single walk through the layers.
 *
 * Two prompts of equal length. denoise: values of the clean run go into the corrupt run; noise:
 * the other way. The run values come from is the source, the run they go into the base.
 *
 *   hook_resid_pre by layer × position   cell (l, p): the stream entering block l at p
 *   attn.hook_z    by layer × head       cell (l, h): head h's output of block l, all positions
 *
 * The sweep: base and source are run once, keeping the stream, z, keys and values. A patch at
 * layer l and position p changes nothing below l and nothing before p. So the layers are walked
 * once; at layer l the cells of that layer join; a cell carries only its rows from p to the
 * metric's position and attends to the base's keys and values for the rest. Each weight matrix is
 * read once for the whole grid and the products are tall. In the last layer only the metric's row
 * goes past attention. Cells that cannot differ (before the prompts first differ, or after the
 * metric's position) are not run and hold the base's metric. Columns are taken in turns when the
 * rows would not fit the memory budget.
 *
 * Checks, in the same sweep: cells patched with the base's own values (identity), and cells with
 * everything patched, whose metric must be the source's (full).
 *
 * Borrowed: ids and the metric's lists. One thread. A step is one tile of rows in one layer.
 */
#ifndef ENGRAM_PATCH_H
#define ENGRAM_PATCH_H

#include "core/run.h"
#include "metric.h"

enum patch_axis { PATCH_LAYER_POS, PATCH_LAYER_HEAD, PATCH_LAYER /* all heads of a layer */ };

struct patch_request {
    struct view *view;
    const uint32_t *clean, *corrupt;
    uint32_t n;
    bool denoise;
    enum hook site;         /* HOOK_RESID_PRE or HOOK_Z */
    enum patch_axis axis;   /* LAYER_POS for the former, LAYER_HEAD or LAYER for the latter */
    struct metric metric;
    size_t memory_bytes;    /* for the sweep's rows; 0: 512 MiB */
};

struct patch_grid {
    uint32_t n_layers, n_columns;
    double *values;             /* [n_layers][n_columns] */
    double clean, corrupt;      /* the metric of both runs */
    uint32_t first_difference;  /* first position where the prompts differ; n when they do not */
    double check_identity, check_full;
    size_t cells, cells_run, rows; /* rows: token rows times layers pushed through a block */
    double flops;               /* of the sweep's matrix products */
};

/* Both runs' activations, the base's cache, the sweep, the metric's logits. */
void patch_plan(const struct patch_request *q, int threads, struct plan *p);

struct patch;
struct patch *patch_new(const struct patch_request *q, struct err *e) MUST_CHECK;
enum step patch_step(struct patch *p, struct session *s, struct err *e);
void patch_free(struct patch *p);
void patch_progress(const struct patch *p, size_t *done, size_t *total); /* cells */
/* The request's metric of final residual rows x [n][d] (other runs of the same prompts), after the
 * grid is done. */
bool patch_metric(struct patch *p, struct session *s, const float *x, size_t n, double *out,
                  struct err *e) MUST_CHECK;
/* After STEP_DONE; owned by the patch. */
const struct patch_grid *patch_result(const struct patch *p);

#endif
