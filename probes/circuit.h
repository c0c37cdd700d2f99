/* Is a circuit the whole of what carries a behaviour, and all of it needed? (Wang et al., arXiv 2211.00593, section 4)
 *
 * Of each pair the base run, in which everything outside a set S of units is ablated: all at once, by the source run's
 * values (resampling) or by zero. M(S) is the metric's mean over pairs, U all units, C the circuit:
 *
 *     F(S) = (M(S) − M(∅)) / (M(U) − M(∅))          M(U): nothing ablated
 *     faithfulness   F(C)                            its interval by bootstrap over groups of pairs (probes/stats.h)
 *     completeness   |F(C∖K) − F(U∖K)|               of random K ⊆ C, each member in it with chance 1/2, K not empty:
 *                                                    small where C behaves like the model when either is broken
 *     minimality     F(C) − F(C∖{v})                 of each member: what C loses without it
 *     control        F(R)                            of random R ⊆ U with as many heads and as many MLPs as C
 *
 * Section 4 takes M itself in these; F is M on a scale where the model is 1 and nothing at all is 0.
 *
 * U is all heads (their z) and, if asked, all MLPs (mlp_out); else MLPs are left alone: they compute from what is
 * there. Sets are written together by probes/joint.h, whose units these are. Cost: 3 + |C| + 2·samples + n_control sets
 * a pair.
 *
 * Borrowed: everything in the request. One thread; a step is a layer of a joint run.
 */
#ifndef ENGRAM_CIRCUIT_H
#define ENGRAM_CIRCUIT_H

#include "joint.h"
#include "stats.h"

#define CIRCUIT_LEAST 1e-3 /* of |M(U) − M(∅)| */

struct circuit_request {
    struct patch_request patch; /* view, pairs of one metric, direction; site HOOK_Z; axis PATCH_LAYER_HEAD */
    bool zero;                  /* ablate by zero, of the clean run whatever the direction */
    bool mlps;                  /* U has MLPs */
    const uint32_t *member;     /* [n] C, ascending, at least one: l·H + h, then L·H + l for MLPs */
    size_t n;
    uint32_t samples, n_control;
    const uint32_t *group;      /* [n_pairs] below n_groups */
    size_t n_groups;
    uint64_t seed;              /* of K, R and the bootstrap */
};

struct circuit_sample { /* one K */
    const uint32_t *member; /* [n] */
    size_t n;
    double circuit, model;  /* F(C∖K), F(U∖K) */
};

struct circuit_result {
    double full, none, circuit;     /* M(U), M(∅), M(C) */
    struct estimate faithfulness;   /* no interval with fewer than two groups: NaN */
    const struct circuit_sample *sample;
    size_t n_samples, worst;        /* worst: where the difference is largest */
    double completeness_mean, completeness_max; /* NaN without samples */
    const double *minimality;       /* [n] by member */
    struct control control;         /* of F(R) beside F(C) */
    double check_none_ablated;      /* largest |M(nothing written) − M(base)| of a pair: a set's run beside the base's own */
};

/* Units of U. */
size_t circuit_units(const struct circuit_request *q);
/* Sets written a pair. */
size_t circuit_sets(const struct circuit_request *q);
void circuit_plan(const struct circuit_request *q, int threads, struct plan *p);

struct circuit;
struct circuit *circuit_new(const struct circuit_request *q, struct err *e) MUST_CHECK;
/* Fails as ERR_UNPROCESSABLE where |M(U) − M(∅)| is below CIRCUIT_LEAST. */
enum step circuit_step(struct circuit *c, struct session *s, struct err *e);
void circuit_free(struct circuit *c);
void circuit_progress(const struct circuit *c, size_t *done, size_t *total); /* sets times pairs */
/* After STEP_DONE; owned by it. */
const struct circuit_result *circuit_result(const struct circuit *c);
/* The metric of the last pair's two runs. */
const struct patch_scores *circuit_baseline(const struct circuit *c);

#endif
