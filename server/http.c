#include "http.h"

#include <assert.h>
#include <errno.h>
#include <microhttpd.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "exchange.h"
#include "listen.h"

enum {
    CONNECTION_BYTES = 32 * 1024, /* also bounds the head of a request */
    CONNECTIONS = 512,            /* well above waiters and subscribers, so that they can hear 503 */
    STREAM_BLOCK = 8 * 1024,
    HEARTBEAT_US = 15 * US_PER_S,
    DYING_HEARTBEAT_US = US_PER_S, /* the client hung up or shut down its side: find out which */
};

enum phase { PHASE_HEAD, PHASE_BODY, PHASE_ANSWER };

struct conn {
    int fd;
    enum phase phase;
    int64_t since_us;
    struct conn *prev, *next;
};

enum stage { STAGE_HEAD, STAGE_BODY, STAGE_SLEEPING, STAGE_SENT };

struct visit { /* one exchange on its connection */
    struct http *http;
    struct exchange *x;
    struct conn *conn;
    struct MHD_Connection *mhd;
    enum stage stage;

    bool listed; /* http lock: asleep, on the list */
    struct visit *prev, *next;

    bool streaming; /* a stream's reply was queued */
    struct buf pending;
    size_t pending_at;
    const struct buf *body; /* the job's, behind pending; NULL: nothing of it is left */
    size_t body_at;
    bool last;
    int64_t wrote_us;
    atomic_bool heartbeat;
};

struct http {
    struct daemon *daemon;
    struct MHD_Daemon *mhd;
    struct listener listener;
    pthread_key_t reader;
    pthread_mutex_t lock; /* registers below */
    struct conn *conns;
    struct visit *sleepers;
    size_t n_waiting, n_sleeping;
    bool released;
    atomic_int visits; /* requests between their first line and their last byte */
};

static void lock(struct http *h) { (void)pthread_mutex_lock(&h->lock); }
static void unlock(struct http *h) { (void)pthread_mutex_unlock(&h->lock); }

/* ---- connections -------------------------------------------------------------------------- */

static void enter(struct http *h, struct conn *c, enum phase phase)
{
    lock(h);
    c->phase = phase;
    c->since_us = monotonic_us();
    unlock(h);
}

static void connect_one(struct http *h, struct MHD_Connection *mhd, void **context)
{
    const union MHD_ConnectionInfo *fd =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct conn *c = mem_new(sizeof *c);
    *c = (struct conn){.fd = fd ? fd->connect_fd : -1, .since_us = monotonic_us()};
    lock(h);
    c->next = h->conns;
    if (h->conns) h->conns->prev = c;
    h->conns = c;
    unlock(h);
    *context = c;
}

static void disconnect_one(struct http *h, void **context)
{
    struct conn *c = *context;
    *context = NULL;
    if (!c) return;
    lock(h);
    if (c->prev) c->prev->next = c->next;
    else h->conns = c->next;
    if (c->next) c->next->prev = c->prev;
    unlock(h);
    mem_drop(c);
}

static void on_connection(void *cls, struct MHD_Connection *mhd, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    if (what == MHD_CONNECTION_NOTIFY_STARTED) connect_one(cls, mhd, context);
    else disconnect_one(cls, context);
}

static struct conn *conn_of(struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

/* Cut off clients that take too long over head or body. A waiting answer has no such limit. */
static void cut_off_late(struct http *h, int64_t now)
{
    int64_t head = h->daemon->config->request_timeout_s * US_PER_S;
    lock(h);
    for (struct conn *c = h->conns; c; c = c->next) {
        if (c->phase == PHASE_ANSWER || c->fd < 0) continue;
        if (now - c->since_us > (c->phase == PHASE_HEAD ? head : 2 * head))
            (void)shutdown(c->fd, SHUT_RDWR);
    }
    unlock(h);
}

/* ---- sleeping and waking ------------------------------------------------------------------ */

static bool is_ready(struct visit *v, int64_t now)
{
    if (!v->streaming) return exchange_ready(v->x, now);
    return atomic_load(&v->heartbeat) || atomic_load(&v->x->released) ||
           job_has_events(v->x->job, v->x->after);
}

/* The connection of the running callback goes to sleep. False when nobody may sleep any more. */
static bool sleep_now(struct visit *v)
{
    struct http *h = v->http;
    lock(h);
    bool may = !h->released && (v->streaming || v->x->accepting || h->n_waiting < MAX_WAITERS);
    if (may) {
        MHD_suspend_connection(v->mhd);
        assert(!v->listed);
        v->listed = true;
        v->prev = NULL;
        v->next = h->sleepers;
        if (h->sleepers) h->sleepers->prev = v;
        h->sleepers = v;
        h->n_sleeping++;
        h->n_waiting += !v->streaming;
    }
    bool ready = may && is_ready(v, monotonic_us());
    unlock(h);
    if (ready) loop_wake(h->daemon->loop);
    return may;
}

static void wake_locked(struct http *h, struct visit *v)
{
    assert(v->listed);
    if (v->prev) v->prev->next = v->next;
    else h->sleepers = v->next;
    if (v->next) v->next->prev = v->prev;
    v->listed = false;
    h->n_sleeping--;
    h->n_waiting -= !v->streaming;
    MHD_resume_connection(v->mhd);
}

void http_wake(struct http *h)
{
    int64_t now = monotonic_us();
    lock(h);
    for (struct visit *v = h->sleepers, *next; v; v = next) {
        next = v->next;
        if (is_ready(v, now)) wake_locked(h, v);
    }
    unlock(h);
}

static bool has_left(const struct visit *v)
{
    struct pollfd p = {.fd = v->conn ? v->conn->fd : -1, .events = POLLRDHUP};
    return p.fd >= 0 && poll(&p, 1, 0) == 1 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

/* A client that left no longer waits; its job goes on where somebody may come back for it. Streams find
 * out by writing. */
static void look_after_sleepers(struct http *h, int64_t now)
{
    lock(h);
    for (struct visit *v = h->sleepers; v; v = v->next) {
        bool left = has_left(v);
        if (!v->streaming) {
            if (!left) continue;
            atomic_store(&v->x->left, true);
            atomic_store(&v->x->released, true);
        } else if (now - v->wrote_us >= (left ? DYING_HEARTBEAT_US : HEARTBEAT_US)) {
            atomic_store(&v->heartbeat, true);
        }
    }
    unlock(h);
}

void http_tick(struct http *h)
{
    int64_t now = monotonic_us();
    cut_off_late(h, now);
    look_after_sleepers(h, now);
    http_wake(h);
}

void http_release(struct http *h)
{
    lock(h);
    h->released = true;
    for (struct visit *v = h->sleepers; v; v = v->next) atomic_store(&v->x->released, true);
    unlock(h);
    http_wake(h);
}

size_t http_sleeping(struct http *h)
{
    lock(h);
    size_t n = h->n_sleeping;
    unlock(h);
    return n;
}

size_t http_visits(struct http *h) { return (size_t)atomic_load(&h->visits); }

/* ---- event streams ------------------------------------------------------------------------ */

static ssize_t take(struct visit *v, const struct buf *from, size_t *at, char *out, size_t max)
{
    size_t n = from->len - *at;
    if (n > max) n = max;
    memcpy(out, from->data + *at, n);
    *at += n;
    v->wrote_us = monotonic_us();
    return (ssize_t)n;
}

static ssize_t take_pending(struct visit *v, char *out, size_t max)
{
    ssize_t n = take(v, &v->pending, &v->pending_at, out, max);
    if (v->pending_at == v->pending.len) v->pending.len = v->pending_at = 0;
    return n;
}

static ssize_t take_body(struct visit *v, char *out, size_t max)
{
    ssize_t n = take(v, v->body, &v->body_at, out, max);
    if (v->body_at < v->body->len) return n;
    v->body = NULL;
    buf_text(&v->pending, EVENT_CLOSE);
    return n;
}

static void fill_pending(struct visit *v)
{
    enum events_state s = job_events(v->x->job, v->x->audience, &v->x->after, &v->pending);
    if (s == EVENTS_BODY && v->x->job->body.len) v->body = &v->x->job->body;
    else if (s == EVENTS_BODY) buf_text(&v->pending, EVENT_CLOSE);
    v->last = s == EVENTS_END || s == EVENTS_BODY || (s == EVENTS_WAIT && atomic_load(&v->x->released));
    bool beat = atomic_exchange(&v->heartbeat, false);
    if (s == EVENTS_WAIT && beat && !v->last) buf_text(&v->pending, ": still here\n\n");
}

static ssize_t read_stream(void *cls, uint64_t pos, char *out, size_t max)
{
    struct visit *v = cls;
    (void)pos;
    if (!v->pending.len && !v->last) fill_pending(v);
    if (v->pending.failed) return MHD_CONTENT_READER_END_WITH_ERROR;
    if (v->pending.len) return take_pending(v, out, max);
    if (v->body) return take_body(v, out, max);
    if (v->last || !sleep_now(v)) return MHD_CONTENT_READER_END_OF_STREAM;
    return 0; /* asleep: called again after a wake-up */
}

/* ---- answers ------------------------------------------------------------------------------ */

static const struct { const char *name, *value; } always[] = {
    {"X-Content-Type-Options", "nosniff"},
    {"Referrer-Policy", "no-referrer"},
    {"Cross-Origin-Resource-Policy", "same-origin"},
};

static const char page_policy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static void put(struct MHD_Response *r, const char *name, const char *value)
{
    (void)MHD_add_response_header(r, name, value);
}

static void put_headers(struct visit *v, struct MHD_Response *r)
{
    struct exchange *x = v->x;
    put(r, "Content-Type", x->reply.content_type);
    put(r, "X-Request-Id", x->id);
    for (size_t i = 0; i < sizeof always / sizeof *always; i++)
        put(r, always[i].name, always[i].value);
    for (size_t i = 0; i < x->n_extra; i++) put(r, x->extra[i].name, x->extra[i].value);
    if (x->reply.etag[0]) put(r, "ETag", x->reply.etag);
    put(r, "Cache-Control", x->reply.etag[0] ? "private, no-cache" : "no-store");
    if (strncmp(x->reply.content_type, "text/html", 9) == 0)
        put(r, "Content-Security-Policy", page_policy);
    if (x->close || atomic_load(&x->daemon->draining)) put(r, "Connection", "close");
}

static enum MHD_Result queue(struct visit *v, struct MHD_Response *r)
{
    if (!r) return MHD_NO;
    put_headers(v, r);
    v->stage = STAGE_SENT;
    if (v->conn) enter(v->http, v->conn, PHASE_ANSWER);
    enum MHD_Result ok = MHD_queue_response(v->mhd, (unsigned)v->x->reply.status, r);
    MHD_destroy_response(r);
    exchange_sent(v->x);
    return ok;
}

/* The bytes live in the exchange or its job, which outlive the response. */
static enum MHD_Result send_reply(struct visit *v)
{
    struct reply_part part[REPLY_PARTS];
    struct MHD_IoVec io[REPLY_PARTS];
    unsigned n = 0;
    (void)exchange_parts(v->x, part);
    for (size_t i = 0; i < REPLY_PARTS; i++)
        if (part[i].len) io[n++] = (struct MHD_IoVec){part[i].bytes, part[i].len};
    return queue(v, MHD_create_response_from_iovec(io, n, NULL, NULL));
}

static enum MHD_Result send_stream(struct visit *v)
{
    v->streaming = true;
    v->wrote_us = monotonic_us();
    atomic_fetch_add(&v->x->daemon->subscribers, 1);
    if (v->x->dialect == DIALECT_OWN) buf_text(&v->pending, EVENTS_RETRY);
    v->x->reply.content_type = "text/event-stream";
    struct MHD_Response *r =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, v, NULL);
    if (r) put(r, "X-Accel-Buffering", "no");
    return queue(v, r);
}

static enum MHD_Result wait_for_job(struct visit *v)
{
    v->stage = STAGE_SLEEPING;
    if (sleep_now(v)) return MHD_YES;
    /* Too many wait: this one is told its job as if it had not wanted to wait, which is when the job is
     * durable. For that moment all may sleep. */
    atomic_store(&v->x->released, true);
    if (exchange_again(v->x) == NEXT_WAIT) {
        if (sleep_now(v)) return MHD_YES;
        exchange_refuse(v->x, PROBLEM_DRAINING, "the daemon is stopping");
    }
    return send_reply(v);
}

static enum MHD_Result (*const acts[])(struct visit *v) = {
    [NEXT_REPLY] = send_reply,
    [NEXT_WAIT] = wait_for_job,
    [NEXT_STREAM] = send_stream,
};

/* ---- requests ----------------------------------------------------------------------------- */

static struct ledger_reader *reader_of_thread(struct http *h)
{
    struct ledger_reader *r = pthread_getspecific(h->reader);
    struct err e = {0};
    if (r) return r;
    r = ledger_reader_open(h->daemon->config->data, &e);
    if (r) (void)pthread_setspecific(h->reader, r);
    else log_say(h->daemon->log, LOG_LEVEL_ERROR, "reader", "%s", e.text);
    return r;
}

static enum MHD_Result each_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                   size_t name_len, const char *value, size_t value_len)
{
    (void)kind;
    exchange_header(cls, name, name_len, value ? value : "", value ? value_len : 0);
    return MHD_YES;
}

static enum MHD_Result read_head(struct visit *v, const char *method)
{
    v->conn = conn_of(v->mhd);
    if (v->conn) enter(v->http, v->conn, PHASE_BODY);
    (void)MHD_get_connection_values_n(v->mhd, MHD_HEADER_KIND, each_header, v->x);
    if (!exchange_head(v->x, method)) return send_reply(v);
    v->stage = STAGE_BODY;
    return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *mhd, const char *url,
                                  const char *method, const char *version, const char *bytes,
                                  size_t *n, void **context)
{
    struct visit *v = *context;
    struct http *h = cls;
    (void)url, (void)version;
    if (!v) return MHD_NO;
    v->mhd = mhd;
    if (v->stage == STAGE_HEAD) return read_head(v, method);
    if (v->stage == STAGE_SLEEPING) return acts[exchange_again(v->x)](v);
    if (v->stage == STAGE_SENT) return MHD_YES;
    if (*n) {
        exchange_body(v->x, bytes, *n);
        *n = 0;
        return MHD_YES;
    }
    if (v->conn) enter(h, v->conn, PHASE_ANSWER);
    return acts[exchange_run(v->x, reader_of_thread(h))](v);
}

/* The request line arrived: its raw target, before the library could decode or cut it. */
static void *on_target(void *cls, const char *target, struct MHD_Connection *mhd)
{
    struct http *h = cls;
    struct visit *v = mem_new(sizeof *v);
    v->http = h;
    v->mhd = mhd;
    v->x = exchange_new(h->daemon, target);
    atomic_fetch_add(&h->visits, 1);
    return v;
}

/* The connection is gone. A work whose answer nobody can read any more has no other purpose: that of
 * a stream, and one that was waited for. (The library may close a sleeper whose client left without
 * waking it first.) */
static void stop_unread(struct visit *v)
{
    struct exchange *x = v->x;
    bool unread = v->streaming ? x->audience != AUDIENCE_JOB : v->stage == STAGE_SLEEPING && exchange_alone(x);
    if (unread && x->job && !job_ended(x->job)) (void)worker_cancel(x->daemon->worker, x->job);
    if (v->streaming) atomic_fetch_sub(&x->daemon->subscribers, 1);
}

static void on_completed(void *cls, struct MHD_Connection *mhd, void **context,
                         enum MHD_RequestTerminationCode why)
{
    struct visit *v = *context;
    (void)cls, (void)mhd, (void)why;
    if (!v) return;
    assert(!v->listed);
    stop_unread(v);
    if (v->conn) enter(v->http, v->conn, PHASE_HEAD);
    buf_release(&v->pending);
    exchange_free(v->x);
    atomic_fetch_sub(&v->http->visits, 1);
    mem_drop(v);
    *context = NULL;
}

static size_t keep_escapes(void *cls, struct MHD_Connection *mhd, char *text)
{
    (void)cls, (void)mhd;
    return strlen(text);
}

static void PRINTF_LIKE(2, 0) on_library_log(void *cls, const char *fmt, va_list ap)
{
    struct http *h = cls;
    char text[512];
    (void)vsnprintf(text, sizeof text, fmt, ap);
    log_say(h->daemon->log, LOG_LEVEL_DEBUG, "http-library", "%s", text);
}

/* ---- life --------------------------------------------------------------------------------- */

static void close_reader(void *reader) { ledger_reader_close(reader); }

struct http *http_open(struct daemon *d, struct err *e)
{
    struct listener l;
    if (!listen_parse(d->config->listen, &l, e)) return NULL;
    if (!l.loopback && !d->config->token_file) {
        (void)err_set(e, ERR_INVALID, "--listen %s is not loopback: that needs --token-file",
                      d->config->listen);
        return NULL;
    }
    if (!listen_open(&l, e)) return NULL;
    struct http *h = mem_new(sizeof *h);
    h->daemon = d;
    h->listener = l;
    (void)pthread_mutex_init(&h->lock, NULL);
    (void)pthread_key_create(&h->reader, close_reader);
    d->hosts = (struct host_names){.port = l.port, .extra = d->config->host};
    memcpy(d->hosts.listen, l.host, sizeof l.host);
    return h;
}

bool http_start(struct http *h, struct err *e)
{
    const struct config *c = h->daemon->config;
    unsigned threads = c->http_threads > 1 ? (unsigned)c->http_threads : 0;
    int own = dup(h->listener.fd); /* the library closes what it is given when it stops */
    if (own < 0) return err_set(e, ERR_IO, "duplicating the listening socket: %s", strerror(errno));
    h->mhd = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        on_request, h, MHD_OPTION_EXTERNAL_LOGGER, on_library_log, h, MHD_OPTION_LISTEN_SOCKET,
        (MHD_socket)own, MHD_OPTION_THREAD_POOL_SIZE, threads,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)c->request_timeout_s,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, h, MHD_OPTION_NOTIFY_COMPLETED, on_completed,
        h, MHD_OPTION_URI_LOG_CALLBACK, on_target, h, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes,
        h, MHD_OPTION_END);
    if (h->mhd) return true;
    (void)close(own);
    return err_set(e, ERR_INTERNAL, "the HTTP library did not start");
}

const char *http_address(const struct http *h) { return h->listener.address; }

void http_stop(struct http *h)
{
    if (!h) return;
    assert(http_sleeping(h) == 0);
    if (h->mhd) MHD_stop_daemon(h->mhd);
    (void)close(h->listener.fd);
    (void)pthread_key_delete(h->reader);
    (void)pthread_mutex_destroy(&h->lock);
    mem_drop(h);
}
