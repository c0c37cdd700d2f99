/* Localization: which heads (or whole layers of heads) carry a behaviour, and how surely.
 *
 * A method (probes/localizer.h, localize.def) gives each unit a score; here is what all methods share. The region
 * is the k units with the largest scores. It is then measured: all its units written at once (probes/joint.h), which
 * is not the sum of their scores.
 *
 *     split       groups of pairs are halved by the seed: units are ranked on half A, the region is measured on half B.
 *                 On the rows that chose it, a region looks better than it is.
 *     control     n random sets of k other units, written together on B like the region; the percentile says what share
 *                 of them the region's effect exceeds. Sets are drawn with the given seed
 *     split half  the method once more on B: Spearman's correlation of the two halves' scores
 *     intervals   bootstrap over groups (probes/stats.h): of each unit's score over A's, of the region's effect over B's
 *
 * Faithfulness is Σ effect / Σ |M(source) − M(base)| over B: 1 where the region alone carries all of the difference.
 *
 * Of data in the place of pairs the effect is what trained scales take off the loss (probes/scales.h).
 *
 * One thread; borrowed as in patch.h. A step is one of the method's, a layer of a joint run, or a few intervals.
 */
#ifndef ENGRAM_LOCALIZE_H
#define ENGRAM_LOCALIZE_H

#include "halves.h"
#include "localizer.h"
#include "stats.h"

struct localize_request {
    struct patch_request patch; /* pairs; site HOOK_Z; axis PATCH_LAYER_HEAD or PATCH_LAYER */
    enum localizer_kind method;
    const struct fit_example *example; /* [n_data], of couples twice as many: data in the place of pairs */
    size_t n_data;
    bool couples;
    double param[LOCALIZER_PARAMS];
    const uint32_t *group;      /* [rows] below n_groups; NULL: each row is its own */
    size_t n_groups;
    bool split;                 /* needs HALVES_LEAST groups */
    uint32_t k;                 /* units in the region */
    uint32_t n_control;
    uint64_t seed;
};

struct unit {
    uint32_t layer, head; /* head: 0 for whole layers */
    double score;
    double low, high;     /* NaN with fewer than two groups */
};

struct localize_result {
    struct unit *ranking; /* all units, best first */
    size_t n_units;
    uint32_t k;
    double region_effect;            /* of the k best, written together: the mean over B */
    struct estimate effect;          /* the same with its interval */
    struct estimate faithfulness;    /* value NaN where nothing comes from a source, or the runs do not differ */
    struct control control;          /* of the random sets' joint effects, each the mean over B */
    uint32_t n_control;              /* 0: too few units were left */
    struct half half[2];             /* A and B; the same rows where not split */
    double split_half;               /* NaN where not split */
    struct patch_scores baseline;    /* clean and corrupt of B's last pair; values NULL */
    const struct patch_grid *grid;   /* the method's, of A; NULL where it has none */
    const double *losses;            /* [n_losses] of the training on A; NULL where there is none */
    size_t n_losses;
};

/* The method's on both halves, and the joint runs'. */
void localize_plan(const struct localize_request *q, int threads, struct plan *p);

struct localize;
struct localize *localize_new(const struct localize_request *q, struct err *e) MUST_CHECK;
enum step localize_step(struct localize *l, struct session *s, struct err *e);
void localize_free(struct localize *l);
void localize_progress(const struct localize *l, size_t *done, size_t *total);
const struct localize_result *localize_result(const struct localize *l);

#endif
