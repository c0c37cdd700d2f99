/* Attribution patching: estimates of a whole patch grid (probes/patch.h) from two runs and one pass back
 * (probes/node.h has the formulas).
 *
 *     source    run once; of each site the values of positions from the first difference on are kept
 *     base      on a tape; the source's values become differences, layer by layer
 *     back      once for each metric, all sites and layers together: a layer's gradients meet the differences
 *               and are forgotten
 *
 * Values estimate M(patched) − M(base): differences, where a patch grid has the metric itself. norm_logit_diff is
 * linear in the difference: its values are those over LD_clean − LD_corrupt.
 *
 * GradDrop (AtP*, arXiv 2403.00745): paths of either sign may cancel. For each layer l one more pass back, from
 * the stream's gradient behind l down, with what flows through l's attention and MLP left out:
 *
 *     c(n) = 1/(L−1) · Σ_l |AtP(n) with the gradient of that pass|              unsigned, for ranking
 *
 * The grids are struct patch_grid with estimates in the place of values and without checks.
 *
 * Borrowed: ids, metrics, sites. One thread. A step is a layer of a pair.
 */
#ifndef ENGRAM_ATTRIBUTION_H
#define ENGRAM_ATTRIBUTION_H

#include "node.h"

struct attribution_request {
    struct view *view;
    const struct patch_pair *pair;
    size_t n_pairs, n_metrics; /* as of a patch */
    bool denoise;
    const enum hook *site;     /* [n_sites] as of a patch */
    size_t n_sites;
    enum patch_axis axis;      /* of all of them */
    bool qk_fix, grad_drop;
};

struct attribution_cost { /* rows times layers */
    size_t forward, backward;
};

void attribution_plan(const struct attribution_request *q, int threads, struct plan *p);
double attribution_flops(const struct attribution_request *q, size_t *rows); /* rows times layers, forward and back */
/* The patch grid of that site. */
struct patch_request attribution_patch(const struct attribution_request *q, size_t site);

struct attribution;
struct attribution *attribution_new(const struct attribution_request *q, struct err *e) MUST_CHECK;
enum step attribution_step(struct attribution *a, struct session *s, struct err *e);
void attribution_free(struct attribution *a);
void attribution_progress(const struct attribution *a, size_t *done, size_t *total); /* rows times layers */

/* After STEP_DONE; owned by it. */
const struct patch_grid *attribution_grid(const struct attribution *a, size_t site);
const double *attribution_drop(const struct attribution *a, size_t site); /* c(n), laid out as all values; or NULL */
struct attribution_cost attribution_cost(const struct attribution *a);

#endif
