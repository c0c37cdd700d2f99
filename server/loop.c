#include "loop.h"

#include <signal.h>
#include <uv.h>

#include "core/base/mem.h"

static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
enum { N_SIGNALS = sizeof signals / sizeof *signals };

struct loop {
    uv_loop_t uv;
    struct loop_calls calls;
    uv_signal_t signal[N_SIGNALS];
    uv_timer_t tick;
    uv_async_t wake;
};

static void on_signal(uv_signal_t *h, int signum)
{
    struct loop *l = h->data;
    l->calls.on_signal(l->calls.ctx, signum);
}

static void on_tick(uv_timer_t *h)
{
    struct loop *l = h->data;
    l->calls.on_tick(l->calls.ctx);
}

static void on_wake(uv_async_t *h)
{
    struct loop *l = h->data;
    l->calls.on_wake(l->calls.ctx);
}

static int start(struct loop *l)
{
    int rc = uv_async_init(&l->uv, &l->wake, on_wake);
    if (!rc) rc = uv_timer_init(&l->uv, &l->tick);
    if (!rc) rc = uv_timer_start(&l->tick, on_tick, LOOP_TICK_MS, LOOP_TICK_MS);
    for (int i = 0; !rc && i < N_SIGNALS; i++) {
        rc = uv_signal_init(&l->uv, &l->signal[i]);
        if (!rc) rc = uv_signal_start(&l->signal[i], on_signal, signals[i]);
        l->signal[i].data = l;
    }
    l->wake.data = l->tick.data = l;
    return rc;
}

struct loop *loop_open(const struct loop_calls *calls, struct err *e)
{
    struct loop *l = mem_new(sizeof *l);
    l->calls = *calls;
    (void)signal(SIGPIPE, SIG_IGN);
    int rc = uv_loop_init(&l->uv);
    if (!rc) {
        rc = start(l);
        if (!rc) return l;
        loop_close(l);
    } else {
        mem_drop(l);
    }
    (void)err_set(e, ERR_INTERNAL, "event loop: %s", uv_strerror(rc));
    return NULL;
}

static void close_handle(uv_handle_t *h, void *unused)
{
    (void)unused;
    if (!uv_is_closing(h)) uv_close(h, NULL);
}

void loop_close(struct loop *l)
{
    if (!l) return;
    uv_walk(&l->uv, close_handle, NULL);
    (void)uv_run(&l->uv, UV_RUN_DEFAULT);
    (void)uv_loop_close(&l->uv);
    mem_drop(l);
    /* The process is ending by itself: a signal more must not make that look like a death. */
    (void)signal(SIGINT, SIG_IGN);
    (void)signal(SIGTERM, SIG_IGN);
}

void loop_run(struct loop *l) { (void)uv_run(&l->uv, UV_RUN_DEFAULT); }
void loop_stop(struct loop *l) { uv_stop(&l->uv); }
void loop_wake(struct loop *l) { (void)uv_async_send(&l->wake); }
