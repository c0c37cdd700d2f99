#include "writer.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "clock.h"

enum { IDLE_S = 30, CHECKPOINT_WRITES = 256 };

struct writer {
    struct ledger *ledger;
    struct metrics *metrics;
    struct log *log;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct write *first, *last;
    size_t waiting;
    bool stop;
    _Atomic int health;
};

const char *writer_health_word(enum writer_health h)
{
    static const char *const words[] = {"ok", "disk-full", "stopped"};
    assert((unsigned)h < sizeof words / sizeof *words);
    return words[h];
}

enum writer_health writer_health(struct writer *w)
{
    return (enum writer_health)atomic_load(&w->health);
}

size_t writer_waiting(struct writer *w)
{
    (void)pthread_mutex_lock(&w->lock);
    size_t n = w->waiting;
    (void)pthread_mutex_unlock(&w->lock);
    return n;
}

/* ---- the thread --------------------------------------------------------------------------- */

static struct write *take(struct writer *w)
{
    struct write *item = w->first;
    if (item) {
        w->first = item->next;
        if (!w->first) w->last = NULL;
        w->waiting--;
    }
    return item;
}

/* The next write; NULL with *idle when nothing came for a while, NULL without it at the end. */
static struct write *next(struct writer *w, bool *idle)
{
    *idle = false;
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += IDLE_S;
    (void)pthread_mutex_lock(&w->lock);
    struct write *item;
    while (!(item = take(w)) && !w->stop && !*idle)
        *idle = pthread_cond_timedwait(&w->work, &w->lock, &until) == ETIMEDOUT;
    (void)pthread_mutex_unlock(&w->lock);
    return item;
}

static void judge(struct writer *w, bool ok, const struct err *e)
{
    enum writer_health old = writer_health(w), now = old;
    if (ok) now = old == WRITER_FULL ? WRITER_OK : old;
    else if (e->code == ERR_UNKNOWN_OUTCOME || e->code == ERR_READ_ONLY) now = WRITER_STOPPED;
    else if (e->code == ERR_NO_SPACE) now = WRITER_FULL;
    if (old == WRITER_STOPPED) now = WRITER_STOPPED;
    if (now == old) return;
    atomic_store(&w->health, now);
    log_say(w->log, now == WRITER_OK ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR, "writer", "%s%s%s",
            writer_health_word(now), ok ? "" : ": ", ok ? "" : e->text);
}

static void run(struct writer *w, struct write *item)
{
    struct err e = {0};
    int64_t from = monotonic_us();
    bool ok = item->run(w->ledger, item->ctx, &e);
    metrics_commit(w->metrics, ok, monotonic_us() - from);
    judge(w, ok, &e);
    item->done(item->ctx, ok, &e);
}

static void checkpoint(struct writer *w)
{
    struct err e = {0};
    if (writer_health(w) == WRITER_STOPPED) return;
    if (!ledger_checkpoint(w->ledger, &e)) {
        judge(w, false, &e);
        log_say(w->log, LOG_LEVEL_WARN, "checkpoint", "%s", e.text);
    }
}

static void *main_of_writer(void *arg)
{
    struct writer *w = arg;
    bool idle;
    size_t since = 0;
    for (;;) {
        struct write *item = next(w, &idle);
        if (!item && !idle) return NULL;
        if (item) {
            run(w, item);
            since++;
        }
        if (since >= CHECKPOINT_WRITES || (idle && since)) {
            checkpoint(w);
            since = 0;
        }
    }
}

/* ---- from outside ------------------------------------------------------------------------- */

struct writer *writer_start(struct ledger *l, struct metrics *m, struct log *log, struct err *e)
{
    struct writer *w = mem_new(sizeof *w);
    *w = (struct writer){.ledger = l, .metrics = m, .log = log};
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&w->lock, NULL);
    (void)pthread_cond_init(&w->work, &attr);
    (void)pthread_condattr_destroy(&attr);
    if (pthread_create(&w->thread, NULL, main_of_writer, w) == 0) return w;
    (void)err_set(e, ERR_INTERNAL, "the writer thread did not start");
    mem_drop(w);
    return NULL;
}

void writer_stop(struct writer *w)
{
    if (!w) return;
    (void)pthread_mutex_lock(&w->lock);
    w->stop = true;
    (void)pthread_cond_signal(&w->work);
    (void)pthread_mutex_unlock(&w->lock);
    (void)pthread_join(w->thread, NULL);
    (void)pthread_cond_destroy(&w->work);
    (void)pthread_mutex_destroy(&w->lock);
    mem_drop(w);
}

void writer_post(struct writer *w, struct write *item)
{
    assert(item->run && item->done);
    item->next = NULL;
    (void)pthread_mutex_lock(&w->lock);
    if (w->last) w->last->next = item;
    else w->first = item;
    w->last = item;
    w->waiting++;
    (void)pthread_cond_signal(&w->work);
    (void)pthread_mutex_unlock(&w->lock);
}

struct waited {
    write_fn run;
    void *ctx;
    struct err *e;
    bool ok, over;
    pthread_mutex_t lock;
    pthread_cond_t done;
};

static bool run_waited(struct ledger *l, void *ctx, struct err *e)
{
    struct waited *d = ctx;
    return d->run(l, d->ctx, e);
}

static void end_waited(void *ctx, bool ok, const struct err *e)
{
    struct waited *d = ctx;
    (void)pthread_mutex_lock(&d->lock);
    d->ok = ok;
    if (!ok) *d->e = *e;
    d->over = true;
    (void)pthread_cond_signal(&d->done);
    (void)pthread_mutex_unlock(&d->lock);
}

bool writer_call(struct writer *w, write_fn run_it, void *ctx, struct err *e)
{
    struct waited d = {.run = run_it, .ctx = ctx, .e = e};
    (void)pthread_mutex_init(&d.lock, NULL);
    (void)pthread_cond_init(&d.done, NULL);
    struct write item = {.run = run_waited, .done = end_waited, .ctx = &d};
    writer_post(w, &item);
    (void)pthread_mutex_lock(&d.lock);
    while (!d.over) (void)pthread_cond_wait(&d.done, &d.lock);
    (void)pthread_mutex_unlock(&d.lock);
    (void)pthread_cond_destroy(&d.done);
    (void)pthread_mutex_destroy(&d.lock);
    return d.ok;
}
