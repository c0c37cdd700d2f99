/* Jobs: every compute request is one, whether its caller waits for the answer or asks later.
 *
 *                 ┌──────────────► cancelled ◄─────────────┐
 *                 │ (still waiting)        (between steps) │
 *              queued ───────────► running ────────────────┤
 *                 │   worker_run      │   worker: the      │
 *                 │                   ▼   answer is made   │
 *                 │               committing ──► done      │
 *                 │ (drain, not       │ (writer said no)   │
 *                 │  accepted)        ▼                    ▼
 *                 └──────────────► failed ◄───── (step or finish failed)
 *
 * job_move is the only function that changes a state, and asserts that the arrow exists. done,
 * failed and cancelled are ends: status and body (the answer, or a problem) are set in the same
 * breath and never change again.
 *
 * The table is bounded twice: live jobs per class and per token (admission refuses, so the
 * worker's queues are bounded), and ended jobs kept for reading (the oldest go; the ledger keeps
 * those whose acceptance was recorded). The bytes of an ended job are counted (budget.h) for as long
 * as anybody holds it, and sent from where they lie, however many read them. One lock guards table, states and event rings; no other
 * lock is taken while it is held, except the writer's queue lock.
 *
 * Acceptance: a job that changes the ledger is recorded durably before it runs; any other only
 * when its caller is about to be told its id (202). ACCEPT_* follows that.
 *
 * Ownership: counted. The table holds one reference while it lists the job, the worker one while
 * the job lives, each waiting request one. The work is freed when the job ends, by whoever ended
 * it. Threads: all functions are thread safe; the work itself belongs to one thread at a time.
 */
#ifndef ENGRAM_JOB_H
#define ENGRAM_JOB_H

#include "budget.h"
#include "events.h"
#include "problem.h"
#include "work.h"

enum job_state { JOB_QUEUED, JOB_RUNNING, JOB_COMMITTING, JOB_DONE, JOB_FAILED, JOB_CANCELLED,
                 JOB_STATES };
enum accept { ACCEPT_NONE, ACCEPT_ASKED, ACCEPT_KEPT, ACCEPT_REFUSED };

enum {
    JOBS_LONG = 64,      /* live at once: long works… */
    JOBS_BRIEF = 192,    /* …and brief ones */
    JOBS_PER_TOKEN = 96, /* live at once of one token: all… */
    JOBS_LONG_PER_TOKEN = JOBS_LONG / 4, /* …and long ones, so that no one takes all places for them */
    JOBS_ENDED = 256,    /* kept for reading */
    JOBS_ENDED_BYTES = ANSWER_BYTES,
};

struct jobs;

struct job { /* fields without a note are constant after admission */
    struct jobs *table;
    char id[ID_TEXT];
    const struct work_ops *ops;
    char author[NAME_TEXT];
    char model[NAME_TEXT];    /* served name… */
    char model_id[ID_TEXT];   /* …and row; both "" where a job is about no one model */
    struct idempotency key;
    bool stream;
    int64_t created_us;       /* wall */
    int64_t deadline_us;      /* monotonic; INT64_MAX: none */
    atomic_bool cancel;       /* asked for; seen between steps */

    enum job_state state;     /* table lock, as all below */
    enum accept accept;
    struct work *work;        /* NULL once ended */
    int64_t done, total;      /* progress at the end */
    int64_t progress_us, progress_done; /* of the last progress event */
    _Atomic int64_t left_us;            /* what progress says is left; 0: unknown */
    struct events events;
    int status;               /* of an ended job… */
    struct buf body;          /* …constant from then on, so readable with a reference, no lock */
    struct buf bytes;         /* the answer, where it is no JSON: of this kind… */
    const char *media;        /* …or NULL… */
    char run[ID_TEXT];        /* …and the run that describes it, or "" */
    size_t held;              /* bytes of body and bytes, as they are counted */
    int refs;
    struct job *older, *newer;
    struct job *queue_next;   /* the worker's queue lock */
    bool brief;               /* the worker's: ops->brief until it took too long */
};

bool job_may_move(enum job_state from, enum job_state to);
const char *job_state_word(enum job_state s);

/* wake(ctx) is called, outside the lock, whenever a job ended or gained events. In *answers the bytes
 * of ended jobs add up. */
struct jobs *jobs_new(void (*wake)(void *ctx), void *ctx, _Atomic size_t *answers);
void jobs_free(struct jobs *t); /* every job must have ended */
void jobs_forget(struct jobs *t); /* the ended ones: memory is wanted */

struct job_request {
    struct work *work;   /* taken on success */
    const char *author;
    const char *model, *model_id; /* or NULL */
    bool share_limited;  /* the author is a token: JOBS_PER_TOKEN and JOBS_LONG_PER_TOKEN apply */
    const struct idempotency *key;
    int64_t timeout_us;  /* 0: none */
};
/* A new queued job with a reference for the caller, and one for the worker; or, when a job with the
 * same key is listed, that one (*existing true, work not taken). NULL and a problem when full. */
struct job *jobs_admit(struct jobs *t, const struct job_request *r, bool *existing,
                       struct problem *p) MUST_CHECK;
struct job *jobs_find(struct jobs *t, const char *id);                  /* retained, or NULL */
struct job *jobs_find_key(struct jobs *t, const struct idempotency *k); /* same scope and key */
/* One of that kind about that model that has not ended, retained, or NULL. */
struct job *jobs_find_live(struct jobs *t, const char *kind, const char *model_id);
/* The newest done job of that kind about that model (a row's id, "" for none), retained, or NULL. */
struct job *jobs_last_done(struct jobs *t, const char *kind, const char *model_id);
void job_retain(struct job *j);
void job_drop(struct job *j);

/* queued → running; false when it is no longer queued (cancelled meanwhile). */
bool job_begin(struct job *j) MUST_CHECK;
void job_commit(struct job *j); /* running → committing */
/* The answer is these bytes, which are taken; before job_end, whose body then describes them. */
void job_set_bytes(struct job *j, const char *media, const char *run, struct buf *bytes);
/* To an end. body is taken. Frees the work; drops the worker's reference. Says how far acceptance
 * had come at that moment; none can be asked for afterwards. */
enum accept job_end(struct job *j, enum job_state to, int status, struct buf *body);
/* Publish progress, at most four times a second. Worker. */
void job_progress(struct job *j, int64_t now_us);

enum job_state job_state(struct job *j);
bool job_ended(struct job *j);
/* ACCEPT_NONE → ACCEPT_ASKED unless ended; runs post(ctx) under the lock so that the acceptance is
 * queued before any end of the job. True when it was posted. */
bool job_ask_accept(struct job *j, void (*post)(void *ctx), void *ctx);
void job_set_accept(struct job *j, enum accept a);
enum accept job_accept(struct job *j);

/* The job as the API shows it; `brief` leaves result and error out. */
void job_write(struct job *j, bool brief, struct buf *out);
/* The same for an ended job, without its result or error: what comes before its body into out, what
 * comes behind returned. */
const char *job_write_around(struct job *j, struct buf *out);
/* The same for a job only the ledger remembers; model: what its model is called now, or "". */
void job_row_write(const struct job_row *row, const char *model, bool brief, struct buf *out);
/* What work_emit does. */
void jobs_emit(struct jobs *t, const char *job_id, const char *event, const char *data);
enum events_state job_events(struct job *j, enum audience who, int64_t *after, struct buf *out);
bool job_has_events(struct job *j, int64_t after); /* or has fallen out of the ring */
int64_t job_events_begin(struct job *j); /* the id before the oldest kept event */
/* Newest first, each retained; returns how many. */
size_t jobs_list(struct jobs *t, struct job **out, size_t cap);

struct jobs_count { int64_t live[JOB_STATES], ended[JOB_STATES]; };
void jobs_count(struct jobs *t, struct jobs_count *out); /* now live; ended since the start */

#endif
