/* The compute thread: runs the jobs, the only caller of sessions and BLAS.
 *
 * Two queues, first come first served: long works, and brief ones (generate, one trace). A long
 * work is driven step by step; between two steps the waiting brief works are served to their ends,
 * so a short question waits for a step, not for a batch; while they keep coming, the long work gets
 * a fifth of the time. There too the cancel flag and the deadline are looked at and progress is
 * published. A brief work that takes longer than brief works may (a trace of a thousand inputs, say)
 * lets others through from then on: brief ones between its steps, and a waiting long one begins;
 * inside a long work it is served by slices.
 *
 * When a work is done its outcome is recorded through the writer (server/record.h) and only then
 * the job ends, which is what the waiting request sees.
 *
 * Ownership: a submitted job carries the worker's reference, given back when the job ends. The
 * queues are bounded by admission (server/job.h). Threads: all functions from any thread.
 */
#ifndef ENGRAM_WORKER_H
#define ENGRAM_WORKER_H

#include "job.h"

struct daemon;
struct worker;

/* Starts the thread and its session; returns when the session stands. */
struct worker *worker_start(struct daemon *d, struct err *e) MUST_CHECK;
/* Ends when the queues are empty; call after worker_drain. */
void worker_stop(struct worker *w);

void worker_submit(struct worker *w, struct job *j);
/* Cancel: a waiting job ends at once, a running one between two steps. False when it is too late:
 * it is committing or has ended. */
bool worker_cancel(struct worker *w, struct job *j);

/* Shutting down: long works that still wait become failed (interrupted); what runs goes on. */
void worker_drain(struct worker *w);
void worker_cancel_all(struct worker *w); /* what runs and what waits */
bool worker_idle(struct worker *w);       /* nothing runs, nothing waits */

struct worker_load {
    size_t waiting_long, waiting_brief;
    bool running;
    int64_t mean_us; /* of the last works: a hint for Retry-After */
};
void worker_load(struct worker *w, struct worker_load *out);

#endif
