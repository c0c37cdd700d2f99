/* What a grid over several pairs says on the whole: of each cell the mean over pairs with its interval
 * (bootstrap over groups of pairs, probes/stats.h), and of norm_logit_diff, whose values are ratios, also
 * the ratio of the means: Σ (LD − LD_corrupt) / Σ (LD_clean − LD_corrupt). The mean of ratios weighs every
 * pair alike, the ratio of means every logit.
 *
 * The grid is borrowed and must be done. One thread; a step is a few cells.
 */
#ifndef ENGRAM_PATCH_STATS_H
#define ENGRAM_PATCH_STATS_H

#include "core/base/step.h"
#include "patch.h"
#include "stats.h"

struct patch_stats_request {
    const struct patch_request *patch;
    const struct patch_grid *grid;
    const uint32_t *group; /* [n_pairs] below n_groups */
    size_t n_groups;
    uint64_t seed;
    double level;          /* 0.95 */
};

void patch_stats_plan(const struct patch_request *q, size_t n_groups, struct plan *p);
/* Of a grid of so many cells a pair, whatever they are; of q only pairs and metrics count. */
void patch_stats_plan_cells(const struct patch_request *q, size_t cells, size_t n_groups, struct plan *p);

struct patch_stats;
struct patch_stats *patch_stats_new(const struct patch_stats_request *q, struct err *e) MUST_CHECK;
enum step patch_stats_step(struct patch_stats *t, struct err *e);
void patch_stats_free(struct patch_stats *t);

/* [cells of a pair] of one metric, after STEP_DONE. ratio: NULL where the metric is no ratio. */
const struct estimate *patch_stats_mean(const struct patch_stats *t, size_t metric);
const struct estimate *patch_stats_ratio(const struct patch_stats *t, size_t metric);

#endif
