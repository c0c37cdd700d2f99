/* What sets of units do together: of each pair of prompts, the base run with the output of all units of a set taken
 * from the source run (or set to zero), for many sets.
 *
 *     effect[set][pair] = ±(M(set patched) − M(base))      positive towards the source; of zero |M(set) − M(base)|
 *
 * Pair by pair: both runs, whose outputs are kept; then the sets, each a sequence of a ragged run of up to JOINT_ROWS
 * rows. Cost: (sets + 2) · Σ positions up to the metric's, in rows of a whole pass. An empty set has effect 0.
 *
 * A unit is a head's z (l·heads + h; localizer.h) or, numbered behind all of those, a layer's MLP (units + l), whose
 * output is mlp_out. Borrowed: everything in the request. One thread; a step is a layer of a run.
 */
#ifndef ENGRAM_JOINT_H
#define ENGRAM_JOINT_H

#include "localizer.h"

enum { JOINT_ROWS = 4096, JOINT_SEQUENCES = 64 };

struct joint_set {
    const uint32_t *unit; /* [n] ascending */
    size_t n;
};

struct joint_request {
    struct localizer_ask ask;
    bool zero;            /* the clean run's set to zero, instead of the source's into the base */
    bool mlps;            /* sets may have MLPs */
    const struct joint_set *set;
    size_t n_sets, k;     /* k: units of a set, at most */
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
const double *joint_value(const struct joint *j);  /* [n_sets][n_pairs] M(set) */
const double *joint_base(const struct joint *j);   /* [n_pairs] M(base) */
const struct patch_scores *joint_baseline(const struct joint *j); /* of the last pair, without values */

#endif
