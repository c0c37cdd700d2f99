/* The main thread's event loop: signals, a steady tick and wake-ups from other threads.
 *
 * The only file that knows libuv. Three things happen on this loop and nothing else: a signal
 * arrived (terminate: drain; again: at once; hang-up: read the tokens anew), a tick passed (deadlines,
 * heartbeats), or another thread asked to be looked after (a job ended, an event was added).
 * Wake-ups coalesce: many loop_wake calls between two turns are one on_wake.
 *
 * Threads: loop_wake from any, also before loop_run and after its end; all else from main.
 */
#ifndef ENGRAM_LOOP_H
#define ENGRAM_LOOP_H

#include "core/base/err.h"

struct loop;

struct loop_calls {
    void (*on_signal)(void *ctx, int signum);
    void (*on_tick)(void *ctx);
    void (*on_wake)(void *ctx);
    void *ctx;
};

enum { LOOP_TICK_MS = 250 };

struct loop *loop_open(const struct loop_calls *calls, struct err *e) MUST_CHECK;
void loop_close(struct loop *l);
void loop_run(struct loop *l);  /* until loop_stop */
void loop_stop(struct loop *l); /* from a callback */
void loop_wake(struct loop *l);

#endif
