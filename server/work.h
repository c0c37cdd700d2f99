/* Work: what a compute route asks of the compute thread, as a step function.
 *
 *      queued ──► running ──► committing ──► done
 *         │          │             │
 *         └──────────┴─► cancelled └──► failed        (running may fail as well)
 *
 * prepare (HTTP thread) makes it; the worker calls step until STEP_DONE; finish (worker) writes the
 * answer and says what must be recorded; the writer thread commits that; only then is the answer
 * sent. Between two steps of a long work the worker serves waiting short works (`brief`), long ones by
 * slices, looks at `cancel` and the deadline, and publishes progress.
 *
 * Ownership: a work belongs to its job from the moment it is queued and is freed by the job's last
 * holder through ops->free. Between prepare and free only one thread touches it at a time, except
 * `progress`, which is atomic.
 */
#ifndef ENGRAM_WORK_H
#define ENGRAM_WORK_H

#include <stdatomic.h>

#include "budget.h"
#include "core/base/step.h"
#include "ledger/ledger.h"

struct work;
struct served;
struct session; /* the compute thread's: scratch, thread pool, BLAS */

enum record { RECORD_NOTHING, RECORD_RUN, RECORD_COMMIT, RECORD_ARTEFACT };

struct outcome {
    int status;          /* 200, 201… */
    enum record record;
    struct run run;      /* RECORD_RUN; id, kind, model, by… filled by finish; texts borrowed from the work */
    struct commit commit; /* RECORD_COMMIT; its answer() writes the body */
    struct artefact artefact; /* RECORD_ARTEFACT; texts borrowed from the work; its body is written by `named`… */
    /* …once its id is known. known: it was there before. */
    bool (*named)(struct work *w, const char *id, bool known, struct buf *body, struct err *e);
    struct buf body;     /* the answer (JSON); for RECORD_COMMIT filled by the commit */
    /* RECORD_RUN while the ledger cannot be written: called to rewrite the body with "run": null
     * and the warning not-recorded. */
    void (*unrecorded)(struct work *w, struct buf *body);
    /* An answer as bytes of another kind: what is recorded and what the job shows is `body`, from which
     * (and the work) the bytes are packed at the end. NULL: the body is the answer. */
    bool (*pack)(struct work *w, const struct buf *body, struct buf *bytes, struct err *e);
    const char *media;   /* of the bytes */
};

/* For `ahead`: tell(ctx) publishes the progress set so far. */
struct telling {
    void (*tell)(void *ctx);
    void *ctx;
};

struct work_ops {
    const char *kind;   /* "trace", "edit"…: the job's and the run's kind */
    const char *unit;   /* of progress: "cells", "steps", "tokens" */
    bool brief;         /* may run between the steps of longer work */
    bool common;        /* its answer is given to others too, so it goes on when who asked has left */
    bool of_this_life;  /* what it did ends with the daemon: its answer is kept under no key beyond that */
    /* Before the first step, on the loader's thread (server/loader.h): what takes long and needs no
     * session, such as reading a model file. NULL: nothing. */
    bool (*ahead)(struct work *w, const struct telling *t, struct err *e);
    enum step (*step)(struct work *w, struct session *s, struct err *e);
    bool (*finish)(struct work *w, struct outcome *o, struct err *e);
    /* After a durable commit, on the worker, before the answer leaves: publish the new view. */
    void (*published)(struct work *w, const struct revision *rev);
    /* Given up half way (worker thread, instead of another step): an object of what there is so far, which the
     * problem then carries as "partial". False where there is nothing. NULL: there never is. */
    bool (*partial)(struct work *w, struct buf *out);
    void (*free)(struct work *w);
};

struct work { /* first member of every concrete work */
    const struct work_ops *ops;
    struct daemon *daemon;
    struct lease lease;        /* memory it may take, from prepare to free */
    struct served *served;     /* the model it computes with: its own reference, or NULL for none */
    char job_id[ID_TEXT];      /* set when queued */
    struct principal_name { char name[NAME_TEXT]; bool verified; } author;
    struct idempotency key;
    _Atomic int64_t done, total; /* progress */
    int64_t started_us;        /* set by the worker at the first step */
    bool stream;               /* the answer is an event stream: step may call work_emit */
};

/* What there is of it so far, in units of its own; the worker publishes it after the step. */
static inline void work_progress(struct work *w, size_t done, size_t total)
{
    w->done = (int64_t)done;
    w->total = (int64_t)total;
}

/* Append a server-sent event to the work's job (worker thread). data is JSON on one line. */
void work_emit(struct work *w, const char *event, const char *data);

#endif
