#include "exchange_int.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "clock.h"
#include "etag.h"
#include "problem_openai.h"
#include "validate.h"

enum { ARENA_BYTES = 64 << 20, FREE_BYTES = 64 << 10 }; /* free: the parts of a body that are the program's */

/* ---- life --------------------------------------------------------------------------------- */

struct exchange *exchange_new(struct daemon *d, const char *target)
{
    struct exchange *x = mem_new(sizeof *x);
    struct err e;
    x->daemon = d;
    arena_init(&x->arena, ARENA_BYTES);
    ledger_new_id("req", x->id);
    x->started_us = monotonic_us();
    x->target = arena_text(&x->arena, target, strlen(target), &e);
    x->reply.status = 200;
    x->reply.content_type = "application/json";
    atomic_init(&x->released, false);
    atomic_init(&x->left, false);
    return x;
}

void exchange_free(struct exchange *x)
{
    if (x->job) job_drop(x->job);
    if (x->reply.job) job_drop(x->reply.job);
    atomic_fetch_sub(budget_answers(x->daemon->budget), x->answer_bytes);
    served_drop(x->call.served);
    buf_release(&x->body);
    buf_release(&x->reply.body);
    arena_release(&x->arena);
    lease_give(&x->lease);
    mem_drop(x);
}

void exchange_add_header(struct exchange *x, const char *name, const char *value)
{
    assert(x->n_extra < EXTRA_HEADERS);
    x->extra[x->n_extra].name = name;
    x->extra[x->n_extra++].value = value;
}

void exchange_reply_problem(struct exchange *x, const struct problem *p)
{
    x->reply.status = p->status;
    x->reply.content_type = "application/problem+json";
    x->reply.etag[0] = '\0';
    x->reply.kept = NULL;
    x->reply.tail = NULL;
    buf_release(&x->reply.body);
    if (x->dialect == DIALECT_OPENAI) {
        x->reply.content_type = "application/json";
        x->reply.status = problem_openai(p, &x->reply.body);
    } else {
        problem_write(p, &x->reply.body);
    }
    if (p->status == 401) exchange_add_header(x, "WWW-Authenticate", "Bearer realm=\"engramd\"");
    if (p->retry_after_s > 0) {
        struct err e;
        char text[16];
        int n = snprintf(text, sizeof text, "%d", p->retry_after_s);
        char *value = arena_text(&x->arena, text, (size_t)n, &e);
        if (value) exchange_add_header(x, "Retry-After", value);
    }
}

enum next exchange_reply_err(struct exchange *x, const struct err *e)
{
    struct problem p;
    (void)problem_from(&p, e);
    exchange_reply_problem(x, &p);
    return NEXT_REPLY;
}

void exchange_refuse(struct exchange *x, enum problem_kind kind, const char *sentence)
{
    struct problem p;
    (void)problem_set(&p, kind, "%s", sentence);
    exchange_reply_problem(x, &p);
}

size_t exchange_parts(const struct exchange *x, struct reply_part out[REPLY_PARTS])
{
    const struct reply *r = &x->reply;
    const struct buf none = {0}, *kept = r->kept ? r->kept : &none;
    out[0] = (struct reply_part){r->body.data, r->body.len};
    out[1] = (struct reply_part){kept->data, kept->len};
    out[2] = (struct reply_part){r->tail, r->tail ? strlen(r->tail) : 0};
    return out[0].len + out[1].len + out[2].len;
}

void exchange_sent(struct exchange *x)
{
    const struct route *r = x->call.route;
    int64_t took = monotonic_us() - x->started_us;
    metrics_request(x->daemon->metrics, r, x->reply.status, took);
    bool quiet = x->reply.status == 304 || (r && r->level == LEVEL_NONE);
    struct reply_part parts[REPLY_PARTS];
    size_t bytes = exchange_parts(x, parts);
    struct log_request line = {.id = x->id, .by = x->call.who.name,
                               .method = x->method ? x->method : "",
                               .route = r ? r->path : "none", .status = x->reply.status,
                               .took_us = took, .bytes = bytes};
    log_request(x->daemon->log, x->reply.status >= 500 ? LOG_LEVEL_WARN
                                : quiet                ? LOG_LEVEL_DEBUG
                                                       : LOG_LEVEL_INFO, &line);
}

/* ---- what the handler sees ---------------------------------------------------------------- */

static bool read_query(struct exchange *x, struct err *e)
{
    const char *q = strchr(x->target, '?');
    q = q ? q + 1 : "";
    const struct json *in = query_parse(q, strlen(q), &x->arena, e);
    if (!in) return false;
    const struct shape *shape = x->call.route->query;
    if (shape) return validate(shape, in, &x->arena, &x->call.query, e);
    x->call.query = in;
    return !in->child ||
           err_field(e, ERR_INVALID, in->child->key, "this route takes no query parameters");
}

/* What the limit of a route admits is read if there is memory for it, and refused with numbers if not. */
static bool afford_body(struct exchange *x, struct err *e)
{
    struct plan plan = {0};
    size_t bytes = json_bytes(x->body.data, x->body.len);
    x->arena.budget_bytes = plan_sum(x->arena.budget_bytes, bytes);
    if (bytes <= FREE_BYTES) return true;
    plan_add(&plan, NEED_REQUEST, bytes);
    return daemon_lease(x->daemon, &plan, &x->lease, e);
}

static bool read_body(struct exchange *x, struct err *e)
{
    const struct shape *shape = x->call.route->body;
    if (!shape) return true;
    if (!buf_ok(&x->body, e)) return false;
    if (x->call.route->lines && guard_is_lines(x->header[HEADER_CONTENT_TYPE])) {
        x->call.lines = &x->body;
        return true;
    }
    const struct json *in = NULL;
    if (x->body.len) {
        if (!afford_body(x, e)) return false;
        in = json_parse(x->body.data, x->body.len, &x->arena, e);
        if (!in) return err_while(e, "reading the body");
        if (in->type != JSON_OBJECT) return err_set(e, ERR_INVALID, "the body must be a JSON object");
    }
    return validate(shape, in, &x->arena, &x->call.body, e);
}

/* Scope: token and route; request: target and body, byte for byte. */
static bool read_key(struct exchange *x, struct err *e)
{
    const char *key = x->header[HEADER_IDEMPOTENCY_KEY];
    if (!key) return true;
    struct idempotency *k = &x->call.key;
    size_t n = strlen(key);
    if (n == 0 || n >= sizeof k->key)
        return err_field(e, ERR_INVALID, "Idempotency-Key", "1 to %zu characters, not %zu",
                         sizeof k->key - 1, n);
    if (!utf8_valid(key, n, &n)) return err_field(e, ERR_INVALID, "Idempotency-Key", "not UTF-8");
    struct buf b = {0};
    uint8_t hash[SHA256_BYTES];
    (void)snprintf(k->key, sizeof k->key, "%s", key);
    buf_printf(&b, "%s\n%s %s", x->call.who.name, x->method, x->call.route->path);
    bool ok = buf_ok(&b, e);
    if (ok) {
        sha256(b.data, b.len, hash);
        digest_hex(hash, k->scope);
    }
    b.len = 0;
    buf_printf(&b, "%s\n", x->target);
    buf_put(&b, x->body.data ? x->body.data : "", x->body.len);
    ok = ok && buf_ok(&b, e);
    if (ok) sha256(b.data, b.len, k->request);
    buf_release(&b);
    return ok;
}

static_assert(NAME_TEXT > 64, "a scope is a hash in hex");

static bool read_if_match(struct exchange *x, struct err *e)
{
    const char *text = x->header[HEADER_IF_MATCH];
    if (!text || strcmp(text, "*") == 0) return true;
    size_t n;
    const char *revision = etag_alone(text, &n);
    if (!revision) return err_field(e, ERR_INVALID, "If-Match", "one revision id in double quotes");
    x->call.if_match = arena_text(&x->arena, revision, n, e);
    return x->call.if_match != NULL;
}

static bool read_call(struct exchange *x, struct ledger_reader *reader, struct err *e)
{
    struct call *c = &x->call;
    c->daemon = x->daemon;
    c->reader = reader;
    c->arena = &x->arena;
    c->accept = x->header[HEADER_ACCEPT] ? x->header[HEADER_ACCEPT] : "";
    c->if_none_match = x->header[HEADER_IF_NONE_MATCH];
    c->last_event_id = x->header[HEADER_LAST_EVENT_ID];
    const char *cache = x->header[HEADER_CACHE_CONTROL];
    c->no_cache = cache && strstr(cache, "no-cache");
    return read_query(x, e) && read_body(x, e) && read_key(x, e) && read_if_match(x, e);
}

int prefer_wait_s(const char *prefer)
{
    if (!prefer) return WAIT_DEFAULT_S;
    for (const char *p = prefer; *p; p += strcspn(p, ","), p += *p == ',') {
        p += strspn(p, " \t");
        if (strncasecmp(p, "wait=", 5) != 0 || p[5] < '0' || p[5] > '9') continue;
        long s = strtol(p + 5, NULL, 10);
        return s > WAIT_MOST_S ? WAIT_MOST_S : (int)s;
    }
    return strcasestr(prefer, "respond-async") ? 0 : WAIT_DEFAULT_S;
}

/* ---- synchronous routes ------------------------------------------------------------------- */

static enum next run_sync(struct exchange *x)
{
    struct err e = {0};
    if (!x->call.route->sync(&x->call, &x->reply, &e) || !buf_ok(&x->reply.body, &e))
        return exchange_reply_err(x, &e);
    if (x->reply.status == 200 && etag_matches(x->call.if_none_match, x->reply.etag)) {
        x->reply.status = 304;
        buf_release(&x->reply.body);
    }
    return NEXT_REPLY;
}

bool exchange_subscribe(struct exchange *x)
{
    if (atomic_load(&x->daemon->subscribers) < MAX_SUBSCRIBERS) return true;
    exchange_refuse(x, PROBLEM_BUSY, "too many event streams are open");
    return false;
}

/* ---- events ------------------------------------------------------------------------------- */

/* Everything was seen: tells an EventSource to stop asking. */
static enum next nothing_follows(struct exchange *x)
{
    x->reply.status = 204;
    return NEXT_REPLY;
}

/* A job that only the ledger knows has two events left, whatever it had while it ran: the state it ended
 * in, and the answer. */
static enum next reply_events_of_row(struct exchange *x, const char *id)
{
    enum { STATE = 1, END = 2 };
    struct err e = {0};
    struct job_row row = {0};
    if (!ledger_job(x->call.reader, id, &row, &e)) return exchange_reply_err(x, &e);
    if (x->after >= END) {
        job_row_release(&row);
        return nothing_follows(x);
    }
    bool done = strcmp(row.state, "done") == 0;
    char state[64];
    int n = snprintf(state, sizeof state, "{\"state\":\"%s\"}", row.state);
    const char *result = row.result ? row.result : "null";
    x->reply.content_type = "text/event-stream";
    buf_text(&x->reply.body, EVENTS_RETRY);
    if (x->after < STATE) event_write(&x->reply.body, STATE, "state", state, (size_t)n);
    event_write(&x->reply.body, END, done ? "result" : "error", result, strlen(result));
    job_row_release(&row);
    return NEXT_REPLY;
}

static enum next run_events(struct exchange *x)
{
    const char *id = x->call.param[0], *last = x->call.last_event_id;
    bool resumes = last && *last >= '0' && *last <= '9';
    x->after = resumes ? strtoll(last, NULL, 10) : 0;
    x->job = jobs_find(x->daemon->jobs, id);
    if (!x->job) return reply_events_of_row(x, id);
    if (!exchange_subscribe(x)) return NEXT_REPLY;
    x->audience = AUDIENCE_JOB;
    if (!resumes) x->after = job_events_begin(x->job);
    struct buf none = {0};
    int64_t after = x->after;
    bool over = job_events(x->job, x->audience, &after, &none) == EVENTS_END && !none.len;
    buf_release(&none);
    return over ? nothing_follows(x) : NEXT_STREAM;
}

static enum next run_later(struct exchange *x)
{
    exchange_refuse(x, PROBLEM_LATER, "this will come in a later version");
    return NEXT_REPLY;
}

static enum next (*const runners[])(struct exchange *x) = {
    [SERVES_SYNC] = run_sync,
    [SERVES_WORK] = exchange_run_work,
    [SERVES_EVENTS] = run_events,
    [SERVES_LATER] = run_later,
};

/* What was read from the ledger may be as long as any answer. */
static void count_answer(struct exchange *x)
{
    struct err e = {0};
    size_t bytes = x->reply.body.cap;
    if (budget_take_answer(x->daemon->budget, bytes, &e)) x->answer_bytes = bytes;
    else (void)exchange_reply_err(x, &e);
}

enum next exchange_run(struct exchange *x, struct ledger_reader *reader)
{
    struct err e = {0};
    assert(x->call.route && (unsigned)x->call.route->serves <= SERVES_LATER);
    if (!reader) {
        (void)err_set(&e, ERR_IO, "the ledger cannot be read");
        return exchange_reply_err(x, &e);
    }
    if (!read_call(x, reader, &e)) return exchange_reply_err(x, &e);
    enum next next = runners[x->call.route->serves](x);
    if (next == NEXT_REPLY) count_answer(x);
    return next;
}
