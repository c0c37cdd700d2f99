/* A work within a work: one verb's own handler, run by another work of the same daemon.
 *
 *     part_begin ── part_step* ── part_end        (part_release at any point gives it up)
 *
 * begin validates the body against the route's shape, checks the role, and lets the route's `prepare` make the
 * work, by a call with the same principal as the whole. step is the part's own step, under the whole's cancellation,
 * deadline and turns. end finishes it and records it the way a job's outcome is (server/record.h): a row of its own,
 * a commit published, before anybody sees its answer. There is no HTTP in between and no job of its own; memory is
 * leased by the part as ever and given back with it.
 *
 * What a part cannot be: a route that is no work, one of another dialect, one that reads files ahead of its first
 * step or is an admin's, and one that runs parts itself. So a verb is the one word behind /v1/ of a POST route.
 *
 * Ownership: the struct is the whole's, zeroed at first. Threads: part_verb any; the rest the compute thread's.
 */
#ifndef ENGRAM_PART_H
#define ENGRAM_PART_H

#include "call.h"
#include "work.h"

struct part {
    struct work *work; /* NULL: none under way */
};

struct part_ask { /* who asks, of the whole's call */
    struct daemon *daemon;
    struct principal who;
    struct served *served;        /* borrowed: what `model` means */
    struct ledger_reader *reader; /* of this thread */
    const char *job_id;
    bool no_cache;
};

/* The route that is that verb, or NULL and a sentence naming the field. */
const struct route *part_verb(const char *verb, const char *field, struct err *e) MUST_CHECK;

/* body is used up; it lies in a, which may go when this returns. Errors name fields of the body. */
bool part_begin(struct part *p, const struct route *route, const struct part_ask *ask, const struct json *body,
                struct arena *a, struct err *e) MUST_CHECK;
enum step part_step(struct part *p, struct session *s, struct err *e);
/* After STEP_DONE: the answer as it would have been sent, and the part is free again. */
bool part_end(struct part *p, struct daemon *d, struct buf *answer, struct err *e) MUST_CHECK;
void part_release(struct part *p);

#endif
