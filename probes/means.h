/* The mean of a site over prompts, in every layer: what mean ablation puts in the place of a head, a neuron, a
 * stream (Wang et al., arXiv 2211.00593, appendix).
 *
 *     mean[l] = mean over all positions of all prompts of h_l      [L][heads · width], float64 sums
 *
 * Prompts are run one after the other, without writes. Sites whose rows are as wide as the sequence (scores,
 * pattern) have none. Borrowed: the view and ids. One thread; a step is one of the run's.
 */
#ifndef ENGRAM_MEANS_H
#define ENGRAM_MEANS_H

#include "core/run.h"

struct means_text {
    const uint32_t *ids;
    uint32_t n;
};

void means_plan(const struct arch *a, enum hook site, const struct means_text *text, size_t n, int threads, struct plan *p);

struct means;
struct means *means_new(struct view *view, enum hook site, const struct means_text *text, size_t n, struct err *e) MUST_CHECK;
enum step means_step(struct means *m, struct session *s, struct err *e);
void means_free(struct means *m);
/* [heads · width], after STEP_DONE. */
const float *means_of(const struct means *m, uint32_t layer);

#endif
