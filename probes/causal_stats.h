/* What a causal trace says on the whole: of each kind, token role and layer the mean indirect effect
 * (score − low) over facts with its interval (bootstrap over facts, probes/stats.h); and of high, low and the
 * total effect.
 *
 * Roles: the subject's first token, those between, its last; the token behind it; those further; the prompt's
 * last. A token has one role: a subject of one token has only a last, and the prompt's last token is `last`
 * wherever it is not the subject's. A fact without a role counts for nothing there; n says how many had it.
 *
 * The trace is borrowed and must be done. One thread; a step is a few estimates.
 */
#ifndef ENGRAM_CAUSAL_STATS_H
#define ENGRAM_CAUSAL_STATS_H

#include "causal.h"
#include "stats.h"

enum causal_role { ROLE_FIRST_SUBJECT, ROLE_MIDDLE_SUBJECT, ROLE_LAST_SUBJECT, ROLE_FIRST_AFTER, ROLE_FURTHER, ROLE_LAST, CAUSAL_ROLES };
extern const char *const causal_role_words[CAUSAL_ROLES];
enum causal_total { TOTAL_HIGH, TOTAL_LOW, TOTAL_EFFECT, CAUSAL_TOTALS };

/* The role of a token at or behind the subject's first. */
enum causal_role causal_role_of(const struct causal_fact *f, uint32_t pos);

void causal_stats_plan(const struct causal_request *q, struct plan *p);

struct causal_stats;
struct causal_stats *causal_stats_new(const struct causal_request *q, const struct causal *c, uint64_t seed, struct err *e) MUST_CHECK;
enum step causal_stats_step(struct causal_stats *t, struct err *e);
void causal_stats_free(struct causal_stats *t);

/* After STEP_DONE. n 0: no fact has that role. kind: by place in the request's. */
const struct estimate *causal_stats_effect(const struct causal_stats *t, size_t kind, enum causal_role r, uint32_t layer);
const struct estimate *causal_stats_total(const struct causal_stats *t, enum causal_total which);

#endif
