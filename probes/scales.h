/* What trained scales of some heads do without the others': of rows of data, the loss without any scale less the loss
 * with those of a set of heads, for many sets.
 *
 *     effect[set][row] = loss(row) − loss(row, z' = (1 + A) ⊙ z at the set's heads)
 *     sft     the mean over target tokens of −log p
 *     dpo     −log σ(β·[Δ(chosen) − Δ(rejected)]), Δ the change of the summed log-probability: log 2 without scales
 *
 * Cost: (sets + 1) · the data's rows of a whole pass. Sets are as in probes/joint.h. Borrowed: everything in the
 * request. One thread; a step is a layer of a run, or some logits.
 */
#ifndef ENGRAM_SCALES_H
#define ENGRAM_SCALES_H

#include "localizer.h"

struct scales_request {
    struct localizer_ask ask;
    const struct stream_params *trained; /* of all heads, in their order */
    const uint32_t *unit;                /* [n_sets][k] ascending */
    size_t n_sets, k;
};

void scales_plan(const struct scales_request *q, int threads, struct plan *p);

struct scales;
struct scales *scales_new(const struct scales_request *q, struct err *e) MUST_CHECK;
enum step scales_step(struct scales *x, struct session *s, struct err *e);
void scales_free(struct scales *x);
void scales_progress(const struct scales *x, size_t *done, size_t *total); /* sets times rows */
const double *scales_effect(const struct scales *x); /* [n_sets][n_data] after STEP_DONE; owned by it */

#endif
