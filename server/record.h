/* From a finished work to a durable answer.
 *
 * record_outcome asks the work for its outcome, hands what must be recorded to the writer and
 * waits for it, publishes a committed revision, and ends the job. The commit invariant lives here:
 * an answer leaves only after its row is durable.
 *
 * RECORD_COMMIT that fails ends the job with a problem and publishes nothing. RECORD_RUN that
 * cannot be written is still answered, with "run": null and a warning, where the work can say so:
 * looking goes on without a ledger.
 *
 * Threads: the compute thread only.
 */
#ifndef ENGRAM_RECORD_H
#define ENGRAM_RECORD_H

#include "daemon_int.h"

void record_outcome(struct daemon *d, struct job *j);

/* What of it concerns the work alone: make the outcome's row durable and publish it. For a work that is part of
 * another (server/part.h) `as` is empty. *recorded: the row has ended the job in the ledger as well. On failure the
 * outcome's body is still the caller's to release. */
struct recorded_as {
    const struct idempotency *key; /* or NULL */
    const char *job_id;            /* or NULL */
};
bool record_work(struct daemon *d, struct work *w, const struct recorded_as *as, struct outcome *o, bool *recorded,
                 struct err *e) MUST_CHECK;

/* End a job with a problem, telling the ledger first where it must know. Any thread that owns the
 * job's work. */
void record_refusal(struct daemon *d, struct job *j, enum job_state to, const struct problem *p);

/* The same of a job that is given up between two steps: the problem carries what the work has so far. The
 * compute thread. */
void record_given_up(struct daemon *d, struct job *j, enum job_state to, const struct problem *p);

/* Record durably that the job exists; then `accept` of the job is KEPT or REFUSED and `then` is
 * called on the writer thread. Holds a reference meanwhile. False: ended or asked before. */
bool record_accept(struct daemon *d, struct job *j,
                   void (*then)(struct daemon *d, struct job *j, bool ok, const struct err *e));

#endif
