/* The budget: how much memory the daemon may take, and who holds how much of it.
 *
 *     limit  =  program  +  models  +  views  +  answers  +  works  +  free
 *
 * program   code, tokenizers, connections, ANSWER_BYTES of answers: a fixed sum set aside
 * models    weights, taken before they are read and given back when the model is dropped
 * views     tensors that deltas have changed, counted where they are made (core/view.c)
 * answers   of ended jobs, kept or on their way to somebody, and what was read from the ledger for a
 *           request: what they are above the program's share, counted as long as the bytes live
 * works     plans (core/plan.h) of every job that waits or runs, from its preparation to its end.
 *           Scratch belongs to the one compute thread, so of all works' scratch the largest counts.
 *
 * What does not fit even if every work ended is refused as too large; what only others keep from
 * fitting now, for lack of memory. Both sentences say what is needed and for what, and who holds how
 * much. A change of a view is rebuilt inside a lease and counted again among the views: for that
 * moment the sum is too high, never too low.
 *
 * Ownership: a lease lives in its holder's memory, zeroed at first, and must not move while it holds
 * something; the budget outlives all leases and models. Threads: all functions are thread safe; one lease
 * belongs to one thread at a time.
 */
#ifndef ENGRAM_BUDGET_H
#define ENGRAM_BUDGET_H

#include <stdatomic.h>

#include "core/plan.h"

enum { PROGRAM_BYTES = 192 << 20, ANSWER_BYTES = 64 << 20 };

struct budget;
enum holder { HOLDER_MODELS, HOLDER_WORKS };

struct lease { /* budget NULL: holds nothing */
    struct budget *budget;
    enum holder holder;
    size_t bytes, scratch; /* bytes: without scratch */
    struct lease *next, *previous;
};

struct budget *budget_new(size_t limit_bytes);
void budget_free(struct budget *b);
/* Where views of models add up; for struct model_loading. */
_Atomic size_t *budget_overlays(struct budget *b);

/* Where the bytes of ended jobs add up, whose works had them in their plans. */
_Atomic size_t *budget_answers(struct budget *b);
/* Count an answer that no plan knew of, unless it is more than there is. */
bool budget_take_answer(struct budget *b, size_t bytes, struct err *e) MUST_CHECK;

bool budget_take(struct budget *b, enum holder who, const struct plan *p, struct lease *out, struct err *e) MUST_CHECK;
void lease_give(struct lease *l); /* twice is fine */

struct budget_use {
    size_t limit, program, models, views, answers, works;
};
void budget_use(struct budget *b, struct budget_use *out);

#endif
