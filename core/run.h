/* A run: sequences pushed through the whole model, with taps, chunk by chunk and layer by layer.
 *
 * Sequences are packed into chunks of at most RUN_ROWS rows; one that is longer continues in the
 * next chunk, attending to its cache. One step is one layer of one chunk. A sequence that brings a
 * cache continues after what is in it and leaves its own positions there; a prefix shared by
 * several sequences is a fork of one cache.
 *
 * Results: the final residual (before the last norm) of the positions asked for. Feed them to
 * unembed. Taps name sequences by `seq` and positions absolutely.
 *
 * Ownership: the run copies the input list but borrows ids, want, kv and taps until run_free.
 * One thread.
 */
#ifndef ENGRAM_RUN_H
#define ENGRAM_RUN_H

#include "session.h"
#include "core/base/step.h"
#include "pair.h"
#include "plan.h"
#include "view.h"

enum { RUN_ROWS = 512 };

struct run_input {
    const uint32_t *ids;
    uint32_t n;
    struct kv *kv;         /* or NULL */
    struct kv *kv_against; /* of a run over a pair: as kv, of the other view */
    uint32_t seq;          /* its number for taps */
    const uint32_t *want;  /* ascending positions, counted from the first id of this run */
    size_t n_want;
};

/* What a run is for its plan: inputs added in the order they will be given. */
struct run_size {
    size_t rows, wanted, longest; /* longest: the last position of any, its cache's included */
    size_t cut[2];                /* of those without a cache the two longest: more are never cut at a time */
};
void run_size_add(struct run_size *s, size_t past, size_t n, size_t n_want, bool cached);
/* Matrix products of n rows through all layers. */
double run_flops(const struct arch *a, double n);
/* Stream, results, caches of its own, the session's scratch. */
void run_plan(const struct run_size *s, const struct arch *a, int threads, struct plan *p);

/* What a run over a pair takes besides; some: not all layers are shared. Exact for at most two inputs without caches. */
void run_plan_beside(const struct run_size *s, const struct arch *a, bool terms, bool some, struct plan *p);

struct run;
struct run *run_new(struct view *v, const struct run_input *in, size_t n, struct taps *taps,
                    struct err *e) MUST_CHECK;
/* Before the first step: leave out the layers from `layer` on, when only taps below are wanted. */
void run_stop_before(struct run *r, uint32_t layer);
/* Before the first step: run over a pair, this view and another; borrowed. Wanted positions are those whose terms
 * are told. */
bool run_beside(struct run *r, const struct view_pair *p, struct err *e) MUST_CHECK;
enum step run_step(struct run *r, struct session *s, struct err *e);
void run_free(struct run *r);

const float *run_final(const struct run *r, size_t input); /* [n_want][d], after STEP_DONE */
/* Rows times layers done so far and in all. */
void run_progress(const struct run *r, size_t *done, size_t *total);

#endif
