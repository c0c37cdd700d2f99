#include "par.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "core/base/mem.h"

enum { SPINS = 2000 }; /* a layer's parts follow each other within microseconds */

struct par {
    int threads, started;
    pthread_t *thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    _Atomic unsigned round; /* a new value is a new call (or the end) */
    _Atomic int left;       /* helpers still at work */
    _Atomic bool stop;
    void (*fn)(void *, size_t, size_t, int);
    void *ctx;
    size_t n;
};

struct helper {
    struct par *p;
    int number;
};

static void run_range(struct par *p, int i)
{
    size_t from = p->n * (size_t)i / (size_t)p->threads, to = p->n * (size_t)(i + 1) / (size_t)p->threads;
    if (from < to) p->fn(p->ctx, from, to, i);
}

static void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void wait_for_round(struct par *p, unsigned seen)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&p->round, memory_order_acquire) != seen) return;
        pause_cpu();
    }
    pthread_mutex_lock(&p->lock);
    while (atomic_load(&p->round) == seen) pthread_cond_wait(&p->wake, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

static void *helper_main(void *arg)
{
    struct helper h = *(struct helper *)arg;
    mem_drop(arg);
    for (unsigned seen = 0;; seen++) {
        wait_for_round(h.p, seen);
        if (atomic_load(&h.p->stop)) return NULL;
        run_range(h.p, h.number);
        atomic_fetch_sub_explicit(&h.p->left, 1, memory_order_release);
    }
}

static void next_round(struct par *p)
{
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->round, 1);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

struct par *par_new(int threads, struct err *e)
{
    struct par *p = mem_new(sizeof *p);
    p->threads = threads < 1 ? 1 : threads;
    p->thread = mem_new((size_t)p->threads * sizeof *p->thread);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    for (int i = 1; i < p->threads; i++) {
        struct helper *h = mem_new(sizeof *h);
        *h = (struct helper){p, i};
        if (pthread_create(&p->thread[i], NULL, helper_main, h)) {
            mem_drop(h);
            (void)err_set(e, ERR_NO_MEMORY, "cannot start compute thread %d of %d", i, threads);
            par_free(p);
            return NULL;
        }
        p->started = i;
    }
    return p;
}

void par_free(struct par *p)
{
    if (!p) return;
    atomic_store(&p->stop, true);
    next_round(p);
    for (int i = 1; i <= p->started; i++) pthread_join(p->thread[i], NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    mem_drop(p->thread);
    mem_drop(p);
}

int par_threads(const struct par *p) { return p->threads; }

void par_for(struct par *p, size_t n, void (*fn)(void *, size_t, size_t, int), void *ctx)
{
    if (p->threads == 1 || n < 2) {
        if (n) fn(ctx, 0, n, 0);
        return;
    }
    p->fn = fn;
    p->ctx = ctx;
    p->n = n;
    atomic_store(&p->left, p->threads - 1);
    next_round(p);
    run_range(p, 0);
    /* On a crowded machine a helper may not be running at all: give way after a while. */
    for (int spins = 0; atomic_load_explicit(&p->left, memory_order_acquire) > 0; spins++)
        if (spins < SPINS) pause_cpu();
        else sched_yield();
}
