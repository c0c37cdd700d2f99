/* What sets of units do together: of each pair of prompts, the base run with the z of all units of a set taken from
 * the source run (or set to zero), for many sets.
 *
 *     effect[set][pair] = ±(M(set patched) − M(base))      positive towards the source; of zero |M(set) − M(base)|
 *
 * Pair by pair: both runs, whose z is kept; then the sets, each a sequence of a ragged run of up to JOINT_ROWS rows.
 * Cost: (sets + 2) · Σ positions up to the metric's, in rows of a whole pass. A zero-sized set has effect 0.
 *
 * The sets are lists of units (l·heads + h; localizer.h). Borrowed: everything in the request. One thread; a step is
 * a layer of a run.
 */
#ifndef ENGRAM_JOINT_H
#define ENGRAM_JOINT_H

#include "localizer.h"

enum { JOINT_ROWS = 4096, JOINT_SEQUENCES = 64 };

struct joint_request {
    struct localizer_ask ask;
    bool zero;            /* the clean run's z set to zero, instead of the source's into the base */
    const uint32_t *unit; /* [n_sets][k] ascending */
    size_t n_sets, k;
};

void joint_plan(const struct joint_request *q, int threads, struct plan *p);

struct joint;
struct joint *joint_new(const struct joint_request *q, struct err *e) MUST_CHECK;
enum step joint_step(struct joint *j, struct session *s, struct err *e);
void joint_free(struct joint *j);
void joint_progress(const struct joint *j, size_t *done, size_t *total); /* sets times pairs */

/* After STEP_DONE; owned by it. */
const double *joint_effect(const struct joint *j); /* [n_sets][n_pairs] */
const double *joint_span(const struct joint *j);   /* [n_pairs] |M(source) − M(base)| */
const struct patch_scores *joint_baseline(const struct joint *j); /* of the last pair, without values */

#endif
