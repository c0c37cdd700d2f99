/* A few cells of a grid once more, each by one whole run of its base prompt with its writes: the check that
 * the sweep, which shares all it can, gives what the definition gives.
 *
 * The cell that differs most from its baseline, and others at random. Their runs are ragged rows of one
 * pass. So many that they cost no more than a tenth of the sweep, but one in any case where the sweep is
 * short. Private to the patch grid; one thread.
 */
#ifndef ENGRAM_PATCH_NAIVE_H
#define ENGRAM_PATCH_NAIVE_H

#include "patch.h"

enum { NAIVE_MOST = 16 };

/* How many are due, and what they cost. */
size_t patch_naive_cells(const struct patch *p);
double patch_naive_flops(const struct patch *p);
/* Of bases of up to n rows. */
void patch_naive_plan(const struct patch_request *q, uint32_t n, int threads, struct plan *p);

struct patch_naive;
struct patch_naive *patch_naive_new(const struct patch *p, struct err *e) MUST_CHECK;
enum step patch_naive_step(struct patch_naive *n, struct session *s, struct err *e);
void patch_naive_free(struct patch_naive *n);
/* The largest difference of any metric, after STEP_DONE. */
double patch_naive_worst(const struct patch_naive *n, size_t *cells);

#endif
