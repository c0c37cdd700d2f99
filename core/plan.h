/* A plan: how many bytes a piece of work holds at its height, part by part, known before any of them
 * is allocated.
 *
 * The formula of an allocation stands beside the allocation (kv_bytes, session_bytes, tape_bytes) and
 * counts what mem_floats really takes; a module that makes several has an x_plan that adds them up.
 * What lives at the same time is added, what follows one after the other is compared: plan_peak keeps
 * the larger. Plans are upper bounds, so that a work that was let in does not fail half way. Sums stop
 * at SIZE_MAX instead of wrapping.
 *
 * SCRATCH is the session's: however many works hold a plan, one step at a time uses it.
 *
 * Plain memory; any thread.
 */
#ifndef ENGRAM_PLAN_H
#define ENGRAM_PLAN_H

#include "core/base/mem.h"

enum need {
#define NEED(name, word) NEED_##name,
#include "plan.def"
#undef NEED
    NEED_COUNT
};

struct plan {
    size_t bytes[NEED_COUNT];
};

size_t plan_sum(size_t a, size_t b);
size_t plan_times(size_t a, size_t b);

void plan_add(struct plan *p, enum need what, size_t bytes);
void plan_with(struct plan *p, const struct plan *q); /* both at the same time */
void plan_peak(struct plan *p, const struct plan *q); /* one after the other */
size_t plan_total(const struct plan *p);
/* "keys and values 64.0 MiB, logits 1.2 MiB": the largest first, three at most. */
void plan_text(const struct plan *p, struct buf *out);

enum { BYTES_TEXT = 24 };
const char *bytes_text(size_t bytes, char out[BYTES_TEXT]); /* "13.5 GiB"; returns out */

#endif
