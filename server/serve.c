#include "serve.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "daemon_int.h"
#include "http.h"

enum stage { RUNNING, DRAINING, CANCELLING, RELEASING };
enum { GRACE_US = 2 * US_PER_S }; /* for the last bytes of answers to leave */

struct serve {
    struct daemon daemon;
    struct http *http;
    enum stage stage;
    int64_t until_us; /* of the present stage */
};

static int64_t live_jobs(struct daemon *d)
{
    struct jobs_count n;
    jobs_count(d->jobs, &n);
    return n.live[JOB_QUEUED] + n.live[JOB_RUNNING] + n.live[JOB_COMMITTING];
}

static void drain(struct serve *s)
{
    log_say(s->daemon.log, LOG_LEVEL_INFO, "drain", "stopping; %lld jobs live",
            (long long)live_jobs(&s->daemon));
    atomic_store(&s->daemon.draining, true); /* new work is told so; reading goes on */
    s->stage = DRAINING;
    s->until_us = monotonic_us() + s->daemon.config->drain_timeout_s * US_PER_S;
}

static void cancel(struct serve *s)
{
    log_say(s->daemon.log, LOG_LEVEL_WARN, "drain", "cancelling what still runs");
    s->stage = CANCELLING;
}

static void advance(struct serve *s)
{
    struct daemon *d = &s->daemon;
    int64_t now = monotonic_us();
    if (s->stage == DRAINING && now >= s->until_us) cancel(s);
    if (s->stage == DRAINING) worker_drain(d->worker);
    if (s->stage == CANCELLING) worker_cancel_all(d->worker);
    if ((s->stage == DRAINING || s->stage == CANCELLING) && live_jobs(d) == 0) {
        http_release(s->http);
        s->stage = RELEASING;
        s->until_us = now + GRACE_US;
    }
    if (s->stage != RELEASING || http_sleeping(s->http) > 0) return;
    if (http_visits(s->http) == 0 || now >= s->until_us) loop_stop(d->loop);
}

static void reload(struct serve *s)
{
    struct err e = {0};
    if (auth_reload(s->daemon.auth, &e))
        log_say(s->daemon.log, LOG_LEVEL_INFO, "tokens", "read anew");
    else log_say(s->daemon.log, LOG_LEVEL_ERROR, "tokens", "kept as they were: %s", e.text);
}

static void on_signal(void *ctx, int signum)
{
    struct serve *s = ctx;
    if (signum == SIGHUP) reload(s);
    else if (s->stage == RUNNING) drain(s);
    else if (s->stage == DRAINING) cancel(s);
    if (s->stage != RUNNING) advance(s);
}

static void on_tick(void *ctx)
{
    struct serve *s = ctx;
    http_tick(s->http);
    if (s->stage != RUNNING) advance(s);
}

static void on_wake(void *ctx)
{
    struct serve *s = ctx;
    if (s->http) http_wake(s->http);
    if (s->stage != RUNNING) advance(s);
}

static bool start(struct serve *s, struct err *e)
{
    struct daemon *d = &s->daemon;
    struct loop_calls calls = {on_signal, on_tick, on_wake, s};
    d->loop = loop_open(&calls, e);
    if (!d->loop) return false;
    s->http = http_open(d, e); /* before the model: a taken port is known at once */
    return s->http && daemon_open(d, e) && http_start(s->http, e);
}

static void say_memory(struct daemon *d)
{
    char limit[BYTES_TEXT], weights[BYTES_TEXT];
    struct budget_use m;
    budget_use(d->budget, &m);
    log_say(d->log, LOG_LEVEL_INFO, "memory", "at most %s (%s), %s of it weights", bytes_text(m.limit, limit),
            d->config->memory ? "--memory" : "what the machine or its cgroup has, less a sixteenth and 256 MiB",
            bytes_text(m.models, weights));
}

static void announce(struct serve *s)
{
    struct daemon *d = &s->daemon;
    struct served *served[MODELS_MOST];
    size_t n = models_list(d->models, served);
    printf("engramd: serving ");
    for (size_t i = 0; i < n; i++) printf("%s%s", i ? "," : "", served[i]->name);
    printf(" on http://%s\n", http_address(s->http));
    (void)fflush(stdout);
    log_say(d->log, LOG_LEVEL_INFO, "ready", "%s, %s, %d threads", d->engine, d->kernel, d->threads);
    say_memory(d);
    for (size_t i = 0; i < n; i++) {
        log_say(d->log, LOG_LEVEL_INFO, "model", "%s, digest %s", served[i]->name, served[i]->digests.base);
        served_drop(served[i]);
    }
}

/* Whatever was admitted while the last HTTP thread ended. */
static void finish_jobs(struct daemon *d)
{
    struct timespec nap = {.tv_nsec = 5 * 1000 * 1000};
    while (d->worker && live_jobs(d) > 0) {
        worker_cancel_all(d->worker);
        (void)nanosleep(&nap, NULL);
    }
}

int serve_main(const struct config *c)
{
    struct err e = {0};
    struct serve s = {.daemon = {.config = c}};
    s.daemon.log = log_new(c->log_level, &e);
    bool ok = s.daemon.log && start(&s, &e);
    if (ok) {
        announce(&s);
        loop_run(s.daemon.loop);
    } else {
        (void)fprintf(stderr, "engramd: %s\n", e.text);
    }
    http_stop(s.http);
    s.http = NULL;
    if (s.daemon.log && s.daemon.loop) {
        finish_jobs(&s.daemon);
        daemon_close(&s.daemon);
    }
    if (ok) log_say(s.daemon.log, LOG_LEVEL_INFO, "stopped", "the ledger is closed");
    loop_close(s.daemon.loop);
    log_free(s.daemon.log);
    return ok ? 0 : 1;
}
