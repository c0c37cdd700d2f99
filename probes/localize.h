/* Localization: which heads (or whole layers of heads) carry the difference between two prompts.
 *
 * Method `patch`: each unit's attention output z is patched alone, at all positions, in one sweep;
 * its score is how far that moves the metric from the base run's towards the source run's:
 * score = ±(metric(patched) − metric(base)), positive towards the source. The region is the k units with the largest scores.
 *
 * Control: n random sets of k other units of the same kind are patched jointly, as is the region,
 * in one ragged run; the percentile says what share of random sets the region's joint effect
 * exceeds. Sets are drawn with the given seed.
 *
 * One thread; borrowed as in patch.h.
 */
#ifndef ENGRAM_LOCALIZE_H
#define ENGRAM_LOCALIZE_H

#include "patch.h"

struct localize_request {
    struct patch_request patch; /* site HOOK_Z; axis PATCH_LAYER_HEAD or PATCH_LAYER */
    uint32_t k;                 /* units in the region */
    uint32_t n_control;
    uint64_t seed;
};

struct unit {
    uint32_t layer, head; /* head: 0 for whole layers */
    double score;
};

struct localize_result {
    struct unit *ranking; /* all units, best first */
    size_t n_units;
    uint32_t k;
    double region_effect;            /* of the k best, patched together */
    double control_mean, control_sd; /* of the random sets' joint effects */
    double percentile;               /* 0..100 */
    uint32_t n_control;              /* 0: too few units were left; the three above are NaN */
    const struct patch_grid *grid;
};

/* The grid's, then the joint run's beside what the grid keeps. */
void localize_plan(const struct localize_request *q, int threads, struct plan *p);

struct localize;
struct localize *localize_new(const struct localize_request *q, struct err *e) MUST_CHECK;
enum step localize_step(struct localize *l, struct session *s, struct err *e);
void localize_free(struct localize *l);
void localize_progress(const struct localize *l, size_t *done, size_t *total);
const struct localize_result *localize_result(const struct localize *l);

#endif
