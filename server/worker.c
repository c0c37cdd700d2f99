#include "worker.h"

#include <assert.h>
#include <pthread.h>

#include "clock.h"
#include "core/session.h"
#include "daemon_int.h"
#include "record.h"

/* What a brief work may take before it is treated as a long one, and what it may take at a time
 * between the steps of another. */
enum { BRIEF_US = US_PER_S / 5, SLICE_US = US_PER_S / 20 };

struct queue {
    struct job *first, *last;
    size_t n;
};

struct worker {
    struct daemon *daemon;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct queue brief, slow;
    struct job *running[2]; /* a long work and the brief one served between its steps */
    size_t n_running;
    bool stop, started, failed;
    struct err why;         /* of a session that did not start */
    _Atomic int64_t mean_us;
    struct session *session; /* the compute thread's, as the next */
    bool long_turn;          /* the last work begun was a brief one */
    int64_t owed_us;         /* of a long work's time before brief ones are served again */
};

/* ---- queues (lock held) ------------------------------------------------------------------- */

static void push(struct queue *q, struct job *j)
{
    j->queue_next = NULL;
    if (q->last) q->last->queue_next = j;
    else q->first = j;
    q->last = j;
    q->n++;
}

static struct job *pop(struct queue *q)
{
    struct job *j = q->first;
    if (!j) return NULL;
    q->first = j->queue_next;
    if (!q->first) q->last = NULL;
    q->n--;
    return j;
}

static bool remove_job(struct queue *q, struct job *j)
{
    struct job *before = NULL;
    for (struct job *i = q->first; i; before = i, i = i->queue_next) {
        if (i != j) continue;
        if (before) before->queue_next = j->queue_next;
        else q->first = j->queue_next;
        if (q->last == j) q->last = before;
        q->n--;
        return true;
    }
    return false;
}

static void lock(struct worker *w) { (void)pthread_mutex_lock(&w->lock); }
static void unlock(struct worker *w) { (void)pthread_mutex_unlock(&w->lock); }

/* Brief and long works in turn: a long one lets the waiting brief ones through after a step. */
static struct job *pop_in_turn(struct worker *w)
{
    struct queue *first = w->long_turn ? &w->slow : &w->brief, *second = w->long_turn ? &w->brief : &w->slow;
    struct job *j = pop(first);
    w->long_turn = j ? first == &w->brief : second == &w->brief;
    return j ? j : pop(second);
}

/* Waits for work. NULL at the end. */
static struct job *next(struct worker *w)
{
    struct job *j = NULL;
    lock(w);
    while (!(j = pop_in_turn(w)) && !w->stop)
        (void)pthread_cond_wait(&w->work, &w->lock);
    if (j) w->running[w->n_running++] = j;
    unlock(w);
    return j;
}

static struct job *next_brief(struct worker *w)
{
    lock(w);
    struct job *j = pop(&w->brief);
    if (j) {
        assert(w->n_running == 1);
        w->running[w->n_running++] = j;
    }
    unlock(w);
    return j;
}

/* ---- driving one job ---------------------------------------------------------------------- */

static void refuse(struct worker *w, struct job *j, enum problem_kind kind, const char *sentence)
{
    struct problem p;
    (void)problem_set(&p, kind, "%s", sentence);
    record_refusal(w->daemon, j, kind == PROBLEM_JOB_CANCELLED ? JOB_CANCELLED : JOB_FAILED, &p);
}

static void fail(struct worker *w, struct job *j, const struct err *e)
{
    struct problem p;
    (void)problem_from(&p, e);
    record_refusal(w->daemon, j, JOB_FAILED, &p);
}

static void cancelled(struct worker *w, struct job *j)
{
    struct problem p;
    (void)problem_set(&p, PROBLEM_JOB_CANCELLED, "cancelled while it ran; nothing was changed");
    record_given_up(w->daemon, j, JOB_CANCELLED, &p);
}

static void out_of_time(struct worker *w, struct job *j)
{
    struct problem p;
    struct err e = {0};
    (void)err_set(&e, ERR_DEADLINE, "the job ran longer than --job-timeout");
    (void)problem_from(&p, &e);
    record_given_up(w->daemon, j, JOB_FAILED, &p);
}

/* False when the job was ended instead. */
static bool may_go_on(struct worker *w, struct job *j, int64_t now)
{
    if (atomic_load(&j->cancel)) {
        cancelled(w, j);
        return false;
    }
    if (now > j->deadline_us) {
        out_of_time(w, j);
        return false;
    }
    return true;
}

/* Short works go first between the steps of a long one, but an endless stream of them may not starve
 * it: before the next turn of theirs it gets a part of the time that the last one took. */
enum { LONG_SHARE = 4, OWED_MOST_US = US_PER_S / 10 };

static void serve_brief(struct worker *w);

static void take_turns(struct worker *w)
{
    if (w->owed_us > 0) return;
    int64_t from = monotonic_us();
    serve_brief(w);
    int64_t owed = (monotonic_us() - from) / LONG_SHARE;
    w->owed_us = owed < OWED_MOST_US ? owed : OWED_MOST_US;
}

/* Back among the brief works, unless it has the thread and no long work waits for that. */
static bool step_back(struct worker *w, struct job *j, bool nested)
{
    lock(w);
    bool back = nested || (j->ops->brief && w->slow.n > 0);
    if (back) push(&w->brief, j);
    unlock(w);
    return back;
}

/* Between two steps. A brief work that takes long lets others through like a long one. When a long
 * one waits it steps back for that to begin; served inside a long one (nested) it steps back after
 * a slice and goes on when the others have had theirs: so both go on, and a brief work ends long
 * before a long one does. True when it stepped back. */
static bool give_way(struct worker *w, struct job *j, bool nested, int64_t since)
{
    bool used_up = monotonic_us() - since > (nested ? SLICE_US : BRIEF_US);
    if (used_up) j->brief = false;
    if (used_up && step_back(w, j, nested)) return true;
    if (!nested && !j->brief) take_turns(w);
    return false;
}

static void run(struct worker *w, struct job *j, bool nested)
{
    int64_t since = monotonic_us(), before = since;
    enum step s = STEP_MORE;
    while (s == STEP_MORE) {
        if (!may_go_on(w, j, before)) return;
        struct err e = {0};
        s = j->ops->step(j->work, w->session, &e);
        int64_t now = monotonic_us();
        metrics_step(w->daemon->metrics, now - before);
        if (!nested) w->owed_us -= now - before;
        if (s == STEP_FAIL) {
            fail(w, j, &e);
            return;
        }
        job_progress(j, now);
        if (s == STEP_MORE && give_way(w, j, nested, since)) return;
        before = monotonic_us();
    }
    record_outcome(w->daemon, j);
}

/* Queued → running at the first turn; a job that stepped back runs already. */
static bool begin(struct job *j)
{
    if (job_state(j) == JOB_RUNNING) return true;
    if (!job_begin(j)) return false;
    j->work->started_us = monotonic_us();
    return true;
}

static void drive(struct worker *w, struct job *j, bool nested)
{
    int64_t from = monotonic_us();
    job_retain(j); /* w->running outlives the job's end by a moment */
    session_trim(w->session); /* plans count one work's scratch at a time, and it goes with the turn: */
    if (begin(j)) run(w, j, nested);
    session_trim(w->session); /* nothing in it survives a step (core/session.h) */
    int64_t took = monotonic_us() - from, mean = atomic_load(&w->mean_us);
    atomic_store(&w->mean_us, mean + (took - mean) / 8);
    lock(w);
    assert(w->n_running > 0 && w->running[w->n_running - 1] == j);
    w->running[--w->n_running] = NULL;
    unlock(w);
    job_drop(j);
}

/* Those waiting now; who comes meanwhile waits for the next turn. */
static void serve_brief(struct worker *w)
{
    lock(w);
    size_t waiting = w->brief.n;
    unlock(w);
    for (struct job *j; waiting > 0 && (j = next_brief(w)); waiting--) drive(w, j, true);
}

static void *main_of_worker(void *arg)
{
    struct worker *w = arg;
    struct err e = {0};
    w->session = session_new(w->daemon->threads, &e);
    lock(w);
    w->started = true;
    w->failed = !w->session;
    w->why = e;
    (void)pthread_cond_broadcast(&w->work);
    unlock(w);
    if (!w->session) return NULL;
    for (struct job *j; (j = next(w));) drive(w, j, false);
    session_free(w->session);
    return NULL;
}

/* ---- from outside ------------------------------------------------------------------------- */

static void release(struct worker *w)
{
    (void)pthread_join(w->thread, NULL);
    (void)pthread_cond_destroy(&w->work);
    (void)pthread_mutex_destroy(&w->lock);
    mem_drop(w);
}

struct worker *worker_start(struct daemon *d, struct err *e)
{
    struct worker *w = mem_new(sizeof *w);
    w->daemon = d;
    (void)pthread_mutex_init(&w->lock, NULL);
    (void)pthread_cond_init(&w->work, NULL);
    if (pthread_create(&w->thread, NULL, main_of_worker, w) != 0) {
        (void)err_set(e, ERR_INTERNAL, "the compute thread did not start");
        mem_drop(w);
        return NULL;
    }
    lock(w);
    while (!w->started) (void)pthread_cond_wait(&w->work, &w->lock);
    bool failed = w->failed;
    unlock(w);
    if (!failed) return w;
    *e = w->why;
    release(w);
    return NULL;
}

void worker_stop(struct worker *w)
{
    if (!w) return;
    lock(w);
    w->stop = true;
    (void)pthread_cond_broadcast(&w->work);
    unlock(w);
    release(w);
}

void worker_submit(struct worker *w, struct job *j)
{
    lock(w);
    assert(!w->stop);
    push(j->brief ? &w->brief : &w->slow, j);
    (void)pthread_cond_signal(&w->work);
    unlock(w);
}

bool worker_cancel(struct worker *w, struct job *j)
{
    lock(w);
    bool waiting = remove_job(&w->brief, j) || remove_job(&w->slow, j);
    unlock(w);
    if (waiting) {
        refuse(w, j, PROBLEM_JOB_CANCELLED, "cancelled before it began");
        return true;
    }
    enum job_state s = job_state(j);
    if (s != JOB_QUEUED && s != JOB_RUNNING) return false;
    atomic_store(&j->cancel, true);
    return true;
}

/* One that is long, or that has turned out to be. */
static struct job *pop_long(struct worker *w)
{
    struct job *j = pop(&w->slow);
    for (struct job *b = w->brief.first; b && !j; b = b->queue_next)
        if (!b->brief && remove_job(&w->brief, b)) j = b;
    return j;
}

void worker_drain(struct worker *w)
{
    for (;;) {
        lock(w);
        struct job *j = pop_long(w);
        unlock(w);
        if (!j) return;
        refuse(w, j, PROBLEM_INTERRUPTED, "the daemon shut down before its turn came");
    }
}

void worker_cancel_all(struct worker *w)
{
    worker_drain(w);
    lock(w);
    for (struct job *j = w->brief.first; j; j = j->queue_next) atomic_store(&j->cancel, true);
    for (size_t i = 0; i < w->n_running; i++) atomic_store(&w->running[i]->cancel, true);
    unlock(w);
}

bool worker_idle(struct worker *w)
{
    lock(w);
    bool idle = !w->n_running && !w->brief.n && !w->slow.n;
    unlock(w);
    return idle;
}

void worker_load(struct worker *w, struct worker_load *out)
{
    lock(w);
    *out = (struct worker_load){.waiting_long = w->slow.n, .waiting_brief = w->brief.n,
                                .running = w->n_running > 0};
    unlock(w);
    out->mean_us = atomic_load(&w->mean_us);
}

void work_emit(struct work *w, const char *event, const char *data)
{
    jobs_emit(w->daemon->jobs, w->job_id, event, data);
}
