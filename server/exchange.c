#include "exchange.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "clock.h"
#include "record.h"
#include "validate.h"

enum { ARENA_BYTES = 64 << 20, ARENA_PER_BODY_BYTE = 16 };

static const struct {
    const char *text;
    bool once;
} header_rows[] = {
#define HEADER(name, text, once) {text, once},
#include "header.def"
#undef HEADER
};
static_assert(sizeof header_rows / sizeof *header_rows == HEADER_COUNT, "one row per header");

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
    return x;
}

void exchange_free(struct exchange *x)
{
    if (x->job) job_drop(x->job);
    buf_release(&x->body);
    buf_release(&x->reply.body);
    arena_release(&x->arena);
    mem_drop(x);
}

static void add_header(struct exchange *x, const char *name, const char *value)
{
    assert(x->n_extra < EXTRA_HEADERS);
    x->extra[x->n_extra].name = name;
    x->extra[x->n_extra++].value = value;
}

static void reply_problem(struct exchange *x, const struct problem *p)
{
    x->reply.status = p->status;
    x->reply.content_type = "application/problem+json";
    x->reply.etag[0] = '\0';
    buf_release(&x->reply.body);
    problem_write(p, &x->reply.body);
    if (p->status == 401) add_header(x, "WWW-Authenticate", "Bearer realm=\"engramd\"");
    if (p->retry_after_s > 0) {
        struct err e;
        char text[16];
        int n = snprintf(text, sizeof text, "%d", p->retry_after_s);
        char *value = arena_text(&x->arena, text, (size_t)n, &e);
        if (value) add_header(x, "Retry-After", value);
    }
}

static enum next reply_err(struct exchange *x, const struct err *e)
{
    struct problem p;
    (void)problem_from(&p, e);
    reply_problem(x, &p);
    return NEXT_REPLY;
}

void exchange_refuse(struct exchange *x, enum problem_kind kind, const char *sentence)
{
    struct problem p;
    (void)problem_set(&p, kind, "%s", sentence);
    reply_problem(x, &p);
}

const char *exchange_bytes(const struct exchange *x, size_t *len)
{
    const struct buf *b = x->body_of_job ? x->body_of_job : &x->reply.body;
    *len = b->len;
    return b->data ? b->data : "";
}

void exchange_sent(struct exchange *x)
{
    const struct route *r = x->call.route;
    int64_t took = monotonic_us() - x->started_us;
    metrics_request(x->daemon->metrics, r, x->reply.status, took);
    bool quiet = x->reply.status == 304 || (r && r->level == LEVEL_NONE);
    size_t bytes;
    (void)exchange_bytes(x, &bytes);
    struct log_request line = {.id = x->id, .by = x->call.who.name,
                               .method = x->method ? x->method : "",
                               .route = r ? r->path : "none", .status = x->reply.status,
                               .took_us = took, .bytes = bytes};
    log_request(x->daemon->log, x->reply.status >= 500 ? LOG_LEVEL_WARN
                                : quiet                ? LOG_LEVEL_DEBUG
                                                       : LOG_LEVEL_INFO, &line);
}

/* ---- the head ----------------------------------------------------------------------------- */

void exchange_header(struct exchange *x, const char *name, size_t name_len, const char *value,
                     size_t value_len)
{
    struct err e;
    guard_header(&x->guard, name, name_len, value, value_len);
    for (int h = 0; h < HEADER_COUNT; h++) {
        if (strlen(header_rows[h].text) != name_len ||
            strncasecmp(header_rows[h].text, name, name_len) != 0)
            continue;
        if (x->header[h]) x->header_twice = x->header_twice || header_rows[h].once;
        else x->header[h] = arena_text(&x->arena, value, value_len, &e);
    }
}

static bool is_unsafe(const char *method)
{
    return strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0 &&
           strcmp(method, "OPTIONS") != 0;
}

static bool find_route(struct exchange *x, struct problem *p)
{
    struct err e = {0};
    struct path path;
    struct matched m;
    size_t len = strcspn(x->target, "?");
    if (!path_parse(x->target, len, &x->arena, &path, &e)) return problem_from(p, &e);
    enum match found = router_match(routes, n_routes, x->method, &path, &m);
    if (found == MATCH_NOTHING) return problem_set(p, PROBLEM_NO_ROUTE, "see /openapi.json");
    if (found == MATCH_METHOD) {
        char *allow = arena_text(&x->arena, m.allow, strlen(m.allow), &e);
        if (allow) add_header(x, "Allow", allow);
        return problem_set(p, PROBLEM_METHOD, "allowed here: %s", m.allow);
    }
    x->call.route = m.route;
    memcpy(x->call.param, m.param, sizeof m.param);
    return true;
}

static bool check_caller(struct exchange *x, struct problem *p)
{
    enum level need = x->call.route->level;
    bool known = auth_check(x->daemon->auth, x->header[HEADER_AUTHORIZATION], &x->call.who, p);
    if (need != LEVEL_NONE && (!known || !auth_allows(&x->call.who, need, p))) return false;
    return !is_unsafe(x->method) || guard_origin(x->header[HEADER_FETCH_SITE],
                                                 x->header[HEADER_ORIGIN],
                                                 x->header[HEADER_HOST], p);
}

static bool check_body(struct exchange *x, struct problem *p)
{
    size_t limit = x->call.route->body_limit;
    if (x->declared > (limit ? limit : IGNORED_BODY))
        return problem_set(p, PROBLEM_BODY_TOO_LARGE, "%llu bytes declared; the limit is %zu",
                           (unsigned long long)x->declared, limit ? limit : IGNORED_BODY);
    return !limit || !x->declared || guard_json(x->header[HEADER_CONTENT_TYPE], p);
}

static bool check_head(struct exchange *x, struct problem *p)
{
    if (!x->target) return problem_set(p, PROBLEM_BUSY, "no memory for the request");
    if (!guard_framing(&x->guard, &x->declared, p)) return false;
    if (x->header_twice)
        return problem_set(p, PROBLEM_BAD_REQUEST, "a header that may come once came twice");
    if (!guard_host(x->header[HEADER_HOST], &x->daemon->hosts, p)) return false;
    if (!find_route(x, p) || !check_caller(x, p)) return false;
    if (x->call.route->serves == SERVES_LATER)
        return problem_set(p, PROBLEM_LATER, "%s %s will come in a later version", x->method,
                           x->call.route->path);
    return check_body(x, p);
}

bool exchange_head(struct exchange *x, const char *method)
{
    struct err e;
    struct problem p;
    x->method = arena_text(&x->arena, method, strlen(method), &e);
    if (!x->method) x->method = "";
    if (check_head(x, &p)) {
        x->arena.budget_bytes += (size_t)x->declared * ARENA_PER_BODY_BYTE;
        return true;
    }
    reply_problem(x, &p);
    x->refused = true;
    /* A body that is not read must not be taken for the next request. */
    x->close = p.status == 400 || x->declared > 0 || x->guard.codings > 0;
    return false;
}

void exchange_body(struct exchange *x, const char *bytes, size_t n)
{
    if (x->call.route->body_limit) buf_put(&x->body, bytes, n);
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

static bool read_body(struct exchange *x, struct err *e)
{
    const struct shape *shape = x->call.route->body;
    if (!shape) return true;
    if (!buf_ok(&x->body, e)) return false;
    const struct json *in = NULL;
    if (x->body.len) {
        in = json_parse(x->body.data, x->body.len, &x->arena, e);
        if (!in && e->code == ERR_NO_MEMORY)
            return err_set(e, ERR_TOO_LARGE, "the body has too many parts to hold in memory");
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
    size_t n = strlen(text);
    if (n < 3 || text[0] != '"' || text[n - 1] != '"')
        return err_field(e, ERR_INVALID, "If-Match", "one revision id in double quotes");
    x->call.if_match = arena_text(&x->arena, text + 1, n - 2, e);
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

bool etag_matches(const char *list, const char *etag)
{
    if (!list || !*etag) return false;
    size_t n = strlen(etag);
    for (const char *p = list; *p; p += strcspn(p, ","), p += *p == ',') {
        p += strspn(p, " \t");
        if (*p == '*') return true;
        if (strncmp(p, "W/", 2) == 0) p += 2;
        if (strncmp(p, etag, n) == 0 && (p[n] == '\0' || strchr(", \t", p[n]))) return true;
    }
    return false;
}

/* ---- synchronous routes ------------------------------------------------------------------- */

static enum next run_sync(struct exchange *x)
{
    struct err e = {0};
    if (!x->call.route->sync(&x->call, &x->reply, &e) || !buf_ok(&x->reply.body, &e))
        return reply_err(x, &e);
    if (x->reply.status == 200 && etag_matches(x->call.if_none_match, x->reply.etag)) {
        x->reply.status = 304;
        buf_release(&x->reply.body);
    }
    return NEXT_REPLY;
}

/* ---- compute routes ----------------------------------------------------------------------- */

static const char *location(struct exchange *x, const char *job_id)
{
    struct err e;
    char text[64];
    int n = snprintf(text, sizeof text, "/v1/jobs/%s", job_id);
    char *kept = arena_text(&x->arena, text, (size_t)n, &e);
    return kept ? kept : "/v1/jobs";
}

static enum next reply_job(struct exchange *x)
{
    x->reply.status = 202;
    add_header(x, "Location", location(x, x->job->id));
    job_write(x->job, false, &x->reply.body);
    return NEXT_REPLY;
}

static enum next reply_end(struct exchange *x)
{
    struct job *j = x->job;
    x->reply.status = j->status;
    if (j->status >= 400) x->reply.content_type = "application/problem+json";
    if (j->status == 503 || j->status == 429) add_header(x, "Retry-After", "1");
    if (x->replay) add_header(x, "Idempotency-Replayed", "true");
    x->body_of_job = &j->body;
    return NEXT_REPLY;
}

static enum next reply_reused(struct exchange *x)
{
    struct problem p;
    (void)problem_set(&p, PROBLEM_KEY_REUSED, "this Idempotency-Key came with another body before");
    reply_problem(x, &p);
    return NEXT_REPLY;
}

/* A job in memory that has this key: its answer, or itself while it runs. */
static enum next answer_again(struct exchange *x)
{
    x->replay = true;
    if (memcmp(x->job->key.request, x->call.key.request, SHA256_BYTES) != 0) {
        return reply_reused(x);
    }
    if (job_ended(x->job)) return reply_end(x);
    x->wait_until_us = 0; /* told at once, but not before it is durable */
    return NEXT_WAIT;
}

static bool answer_from_row(struct exchange *x, const char *job_id)
{
    struct job_row row = {0};
    struct err e = {0};
    if (!ledger_job(x->call.reader, job_id, &row, &e)) return false;
    bool done = strcmp(row.state, "done") == 0 && row.result;
    if (done) buf_text(&x->reply.body, row.result);
    job_row_release(&row);
    return done;
}

/* Was this key answered before? False: no, go on. */
static bool answered(struct exchange *x, enum next *next)
{
    const struct idempotency *key = &x->call.key;
    *next = NEXT_REPLY;
    if (!key->key[0]) return false;
    x->job = jobs_find_key(x->daemon->jobs, key);
    if (x->job) {
        *next = answer_again(x);
        return true;
    }
    struct err e = {0};
    int status = 0;
    char job_id[ID_TEXT] = "";
    if (!ledger_answered(x->call.reader, key, &status, &x->reply.body, job_id, &e)) {
        *next = e.code == ERR_CONFLICT ? reply_reused(x) : reply_err(x, &e);
        return true;
    }
    if (!status && (!job_id[0] || !answer_from_row(x, job_id))) {
        buf_release(&x->reply.body);
        return false;
    }
    if (status) x->reply.status = status;
    if (status >= 400) x->reply.content_type = "application/problem+json";
    add_header(x, "Idempotency-Replayed", "true");
    return true;
}

static const char *branch_of(const struct json *body)
{
    const struct json *v = json_get(body, "branch");
    if (!v) v = json_get(body, "view");
    return v && v->type == JSON_STRING ? v->text : "main";
}

static bool head_matches(struct exchange *x, struct problem *p)
{
    char revision[ID_TEXT];
    int64_t seq;
    const char *want = x->call.if_match, *branch = branch_of(x->call.body);
    if (!want || !x->call.route->writes || !daemon_head(x->daemon, branch, revision, &seq) ||
        strcmp(want, revision) == 0)
        return true;
    return problem_set(p, PROBLEM_PRECONDITION, "the head of %s is %s, not %s", branch, revision,
                       want);
}

static void start_accepted(struct daemon *d, struct job *j, bool ok, const struct err *e)
{
    if (ok) {
        worker_submit(d->worker, j);
        return;
    }
    struct problem p;
    (void)problem_from(&p, e);
    record_refusal(d, j, JOB_FAILED, &p);
}

/* A look with an Idempotency-Key would like to be remembered, but runs in any case. */
static void start_anyway(struct daemon *d, struct job *j, bool ok, const struct err *e)
{
    (void)ok, (void)e;
    worker_submit(d->worker, j);
}

static void start(struct exchange *x)
{
    struct daemon *d = x->daemon;
    bool asked = true;
    if (x->call.route->writes) asked = record_accept(d, x->job, start_accepted);
    else if (x->call.key.key[0]) asked = record_accept(d, x->job, start_anyway);
    else worker_submit(d->worker, x->job);
    assert(asked);
    (void)asked;
}

/* NULL and a reply, or the admitted job (perhaps another request's: x->replay). */
static bool admit(struct exchange *x, struct work *w)
{
    struct problem p;
    w->daemon = x->daemon;
    w->key = x->call.key;
    if (!w->author.name[0]) {
        memcpy(w->author.name, x->call.who.name, sizeof w->author.name);
        w->author.verified = x->call.who.verified;
    }
    struct job_request r = {.work = w, .author = x->call.who.name, .key = &x->call.key,
                            .share_limited = x->call.who.verified,
                            .timeout_us = x->daemon->config->job_timeout_s * US_PER_S};
    x->job = jobs_admit(x->daemon->jobs, &r, &x->replay, &p);
    if (x->job && !x->replay) return true;
    w->ops->free(w);
    if (x->job) return true;
    struct worker_load load;
    worker_load(x->daemon->worker, &load);
    p.retry_after_s = 1 + (int)((load.mean_us * (int64_t)(load.waiting_long + 1)) / US_PER_S);
    if (p.retry_after_s > WAIT_MOST_S) p.retry_after_s = WAIT_MOST_S;
    reply_problem(x, &p);
    return false;
}

static bool subscribe(struct exchange *x)
{
    if (atomic_load(&x->daemon->subscribers) < MAX_SUBSCRIBERS) return true;
    exchange_refuse(x, PROBLEM_BUSY, "too many event streams are open");
    return false;
}

static enum next run_work(struct exchange *x)
{
    struct problem p;
    struct err e = {0};
    enum next next;
    if (answered(x, &next)) return next;
    if (atomic_load(&x->daemon->draining)) {
        exchange_refuse(x, PROBLEM_DRAINING, "no new work is taken");
        return NEXT_REPLY;
    }
    if (!head_matches(x, &p)) {
        reply_problem(x, &p);
        return NEXT_REPLY;
    }
    struct work *w = x->call.route->prepare(&x->call, &e);
    if (!w) return reply_err(x, &e);
    if (w->stream && !subscribe(x)) {
        w->ops->free(w);
        return NEXT_REPLY;
    }
    if (!admit(x, w)) return NEXT_REPLY;
    if (x->replay) return answer_again(x);
    start(x);
    x->audience = AUDIENCE_STREAM;
    if (x->job->stream) return NEXT_STREAM;
    x->wait_until_us = x->started_us + (int64_t)prefer_wait_s(x->header[HEADER_PREFER]) * US_PER_S;
    return NEXT_WAIT;
}

bool exchange_ready(struct exchange *x, int64_t now_us)
{
    if (atomic_load(&x->released) || job_ended(x->job)) return true;
    return job_accept(x->job) != ACCEPT_ASKED && (x->accepting || now_us >= x->wait_until_us);
}

/* A GET that computes answers with the last result when a fresh one takes too long. */
static bool reply_last(struct exchange *x)
{
    if (strcmp(x->call.route->method, "GET") != 0) return false;
    struct job *last = jobs_last_done(x->daemon->jobs, x->job->ops->kind);
    if (!last) return false;
    job_drop(x->job);
    x->job = last;
    (void)reply_end(x);
    return true;
}

enum next exchange_again(struct exchange *x)
{
    if (job_ended(x->job)) return reply_end(x);
    enum accept a = job_accept(x->job);
    if (atomic_load(&x->released)) {
        if (a == ACCEPT_KEPT || !atomic_load(&x->daemon->draining)) return reply_job(x);
        exchange_refuse(x, PROBLEM_DRAINING, "the daemon stopped before the job ended");
        return NEXT_REPLY;
    }
    if (reply_last(x)) return NEXT_REPLY;
    if (a == ACCEPT_NONE && record_accept(x->daemon, x->job, NULL)) {
        x->accepting = true;
        return NEXT_WAIT;
    }
    return job_ended(x->job) ? reply_end(x) : reply_job(x);
}

/* ---- events ------------------------------------------------------------------------------- */

static enum next reply_events_of_row(struct exchange *x, const char *id)
{
    struct err e = {0};
    struct job_row row = {0};
    if (!ledger_job(x->call.reader, id, &row, &e)) return reply_err(x, &e);
    bool done = strcmp(row.state, "done") == 0;
    char state[64];
    int n = snprintf(state, sizeof state, "{\"state\":\"%s\"}", row.state);
    const char *result = row.result ? row.result : "null";
    x->reply.content_type = "text/event-stream";
    event_write(&x->reply.body, 1, "state", state, (size_t)n);
    event_write(&x->reply.body, 2, done ? "result" : "error", result, strlen(result));
    job_row_release(&row);
    return NEXT_REPLY;
}

static enum next run_events(struct exchange *x)
{
    const char *id = x->call.param[0], *last = x->call.last_event_id;
    x->job = jobs_find(x->daemon->jobs, id);
    if (!x->job) return reply_events_of_row(x, id);
    if (!subscribe(x)) return NEXT_REPLY;
    x->audience = AUDIENCE_JOB;
    x->after = last && *last >= '0' && *last <= '9' ? strtoll(last, NULL, 10)
                                                    : job_events_begin(x->job);
    struct buf none = {0};
    int64_t after = x->after;
    bool over = job_events(x->job, x->audience, &after, &none) == EVENTS_END && !none.len;
    buf_release(&none);
    if (!over) return NEXT_STREAM;
    x->reply.status = 204; /* everything was seen: tells an EventSource to stop asking */
    return NEXT_REPLY;
}

static enum next run_later(struct exchange *x)
{
    exchange_refuse(x, PROBLEM_LATER, "this will come in a later version");
    return NEXT_REPLY;
}

static enum next (*const runners[])(struct exchange *x) = {
    [SERVES_SYNC] = run_sync,
    [SERVES_WORK] = run_work,
    [SERVES_EVENTS] = run_events,
    [SERVES_LATER] = run_later,
};

enum next exchange_run(struct exchange *x, struct ledger_reader *reader)
{
    struct err e = {0};
    assert(x->call.route && (unsigned)x->call.route->serves <= SERVES_LATER);
    if (!reader) {
        (void)err_set(&e, ERR_IO, "the ledger cannot be read");
        return reply_err(x, &e);
    }
    if (!read_call(x, reader, &e)) return reply_err(x, &e);
    return runners[x->call.route->serves](x);
}
