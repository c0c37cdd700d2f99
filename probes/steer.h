/* Steering vectors: the mean of a site over some prompts, or of those less the mean over others.
 *
 *     v = Σ_k share_k · mean over the positions of prompt k of h_k      share: 1/n, or 1/n₊ and −1/n₋
 *
 * One pair of prompts gives ActAdd (Turner et al., arXiv 2308.10248), many CAA (Panickssery et al., arXiv
 * 2312.06681). The prompts are run without writes, on the view's own weights; sums in float64.
 *
 * Borrowed: ids, places, shares, out. One thread.
 */
#ifndef ENGRAM_STEER_H
#define ENGRAM_STEER_H

#include "trace.h"

struct steer_request {
    struct view *view;
    const struct trace_input *in;   /* [n] */
    const struct trace_place *read; /* [n], of input k at number k; positions are averaged */
    const double *share;            /* [n] */
    size_t n, width;                /* width: heads × values of the site */
    float *out;                     /* [width] */
};

void steer_plan(const struct steer_request *q, int threads, struct plan *p);

struct steer;
struct steer *steer_new(const struct steer_request *q, struct err *e) MUST_CHECK;
enum step steer_step(struct steer *v, struct session *s, struct err *e);
void steer_free(struct steer *v);
double steer_norm(const struct steer *v); /* ‖v‖, after STEP_DONE */

#endif
