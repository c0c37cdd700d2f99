#include "loader.h"

#include <assert.h>
#include <pthread.h>

#include "clock.h"
#include "daemon_int.h"
#include "record.h"

struct loader {
    struct daemon *daemon;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct job *first, *last;
    bool stop;
};

/* ---- the thread --------------------------------------------------------------------------- */

static struct job *next(struct loader *l)
{
    (void)pthread_mutex_lock(&l->lock);
    while (!l->first && !l->stop) (void)pthread_cond_wait(&l->work, &l->lock);
    struct job *j = l->first;
    if (j) {
        l->first = j->queue_next;
        if (!l->first) l->last = NULL;
        j->queue_next = NULL;
    }
    (void)pthread_mutex_unlock(&l->lock);
    return j;
}

static void refuse(struct loader *l, struct job *j, enum problem_kind kind, const char *sentence)
{
    struct problem p;
    (void)problem_set(&p, kind, "%s", sentence);
    record_refusal(l->daemon, j, kind == PROBLEM_JOB_CANCELLED ? JOB_CANCELLED : JOB_FAILED, &p);
}

static void tell(void *ctx) { job_progress(ctx, monotonic_us()); }

static void run(struct loader *l, struct job *j)
{
    struct err e = {0};
    struct telling t = {tell, j};
    if (atomic_load(&j->cancel)) {
        refuse(l, j, PROBLEM_JOB_CANCELLED, "cancelled before it began");
        return;
    }
    if (atomic_load(&l->daemon->draining)) {
        refuse(l, j, PROBLEM_INTERRUPTED, "the daemon shut down before its turn came");
        return;
    }
    bool begun = job_begin(j);
    assert(begun); /* whoever cancels only sets the flag: no queue of the worker's has it */
    (void)begun;
    j->work->started_us = monotonic_us();
    if (j->ops->ahead(j->work, &t, &e)) {
        worker_submit(l->daemon->worker, j);
        return;
    }
    struct problem p;
    (void)problem_from(&p, &e);
    record_refusal(l->daemon, j, JOB_FAILED, &p);
}

static void *main_of_loader(void *arg)
{
    struct loader *l = arg;
    for (struct job *j; (j = next(l));) run(l, j);
    return NULL;
}

/* ---- from outside ------------------------------------------------------------------------- */

struct loader *loader_start(struct daemon *d, struct err *e)
{
    struct loader *l = mem_new(sizeof *l);
    l->daemon = d;
    (void)pthread_mutex_init(&l->lock, NULL);
    (void)pthread_cond_init(&l->work, NULL);
    if (pthread_create(&l->thread, NULL, main_of_loader, l) == 0) return l;
    (void)err_set(e, ERR_INTERNAL, "the loader thread did not start");
    mem_drop(l);
    return NULL;
}

void loader_stop(struct loader *l)
{
    if (!l) return;
    (void)pthread_mutex_lock(&l->lock);
    l->stop = true;
    (void)pthread_cond_signal(&l->work);
    (void)pthread_mutex_unlock(&l->lock);
    (void)pthread_join(l->thread, NULL);
    (void)pthread_cond_destroy(&l->work);
    (void)pthread_mutex_destroy(&l->lock);
    mem_drop(l);
}

void loader_submit(struct loader *l, struct job *j)
{
    assert(j->ops->ahead);
    j->queue_next = NULL;
    (void)pthread_mutex_lock(&l->lock);
    if (l->last) l->last->queue_next = j;
    else l->first = j;
    l->last = j;
    (void)pthread_cond_signal(&l->work);
    (void)pthread_mutex_unlock(&l->lock);
}
