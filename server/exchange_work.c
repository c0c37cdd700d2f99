/* A compute route: from the prepared work to the answer, or to the job that will have it. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "exchange_int.h"
#include "loader.h"
#include "problem_openai.h"
#include "record.h"

static const char *location(struct exchange *x, const char *job_id)
{
    struct err e;
    char text[64];
    int n = snprintf(text, sizeof text, "/v1/jobs/%s", job_id);
    char *kept = arena_text(&x->arena, text, (size_t)n, &e);
    return kept ? kept : "/v1/jobs";
}

/* Bytes say nothing of themselves: the run does. */
static void describe(struct exchange *x)
{
    struct err e;
    char text[96];
    if (!x->job->run[0]) return;
    int n = snprintf(text, sizeof text, "</v1/runs/%s>; rel=\"describedby\"", x->job->run);
    char *kept = arena_text(&x->arena, text, (size_t)n, &e);
    if (kept) exchange_add_header(x, "Link", kept);
}

static enum next reply_job(struct exchange *x)
{
    x->reply.status = 202;
    exchange_add_header(x, "Location", location(x, x->job->id));
    job_write(x->job, false, &x->reply.body);
    return NEXT_REPLY;
}

/* A problem that a job or the ledger keeps; True where the route needs other words for it. */
static bool restate(struct exchange *x, int status, const struct buf *kept)
{
    x->reply.status = status;
    if (status < 400) return false;
    x->reply.content_type = "application/problem+json";
    if (x->dialect != DIALECT_OPENAI) return false;
    struct buf said = {0};
    x->reply.content_type = "application/json";
    x->reply.status = problem_openai_again(kept->data ? kept->data : "", kept->len, &said);
    buf_release(&x->reply.body);
    x->reply.body = said;
    return true;
}

static enum next reply_end(struct exchange *x)
{
    struct job *j = x->job;
    bool restated = restate(x, j->status, &j->body);
    if (j->status == 503 || j->status == 429) exchange_add_header(x, "Retry-After", "1");
    if (x->replay) exchange_add_header(x, "Idempotency-Replayed", "true");
    if (!restated) x->reply.kept = j->media ? &j->bytes : &j->body;
    if (!j->media) return NEXT_REPLY;
    x->reply.content_type = j->media;
    describe(x);
    return NEXT_REPLY;
}

static enum next reply_reused(struct exchange *x)
{
    struct problem p;
    (void)problem_set(&p, PROBLEM_KEY_REUSED, "this Idempotency-Key came with another body before");
    exchange_reply_problem(x, &p);
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
    /* Told at once, but not before it is durable; or, where nobody can be told, with the others. */
    x->wait_until_us = x->dialect == DIALECT_OPENAI ? INT64_MAX : 0;
    return NEXT_WAIT;
}

static bool has_ended(struct exchange *x, const char *job_id)
{
    struct job_row row = {0};
    struct err e = {0};
    if (!ledger_job(x->call.reader, job_id, &row, &e)) return false;
    bool ended = strcmp(row.state, job_state_word(JOB_QUEUED)) != 0;
    job_row_release(&row);
    return ended;
}

/* 0: nothing is kept under the key. 202: a job of a daemon that is gone; one that ended between two
 * looks is looked at again. */
static bool kept_answer(struct exchange *x, int *status, struct err *e)
{
    char job_id[ID_TEXT] = "";
    const struct idempotency *key = &x->call.key;
    if (!ledger_answered(x->call.reader, key, status, &x->reply.body, job_id, e)) return false;
    return *status != 202 || !has_ended(x, job_id) ||
           ledger_answered(x->call.reader, key, status, &x->reply.body, job_id, e);
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
    if (!kept_answer(x, &status, &e)) {
        *next = e.code == ERR_CONFLICT ? reply_reused(x) : exchange_reply_err(x, &e);
        return true;
    }
    if (!status || status == 202) {
        buf_release(&x->reply.body);
        return false;
    }
    (void)restate(x, status, &x->reply.body);
    exchange_add_header(x, "Idempotency-Replayed", "true");
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
    struct err ignored; /* an unknown model or branch is the handler's to refuse */
    const char *want = x->call.if_match, *branch = branch_of(x->call.body);
    if (!want || !x->call.route->writes) return true;
    struct served *s = call_served(&x->call, x->call.body, &ignored);
    if (!s || !served_head(s, branch, revision, &seq) || strcmp(want, revision) == 0) return true;
    return problem_set(p, PROBLEM_PRECONDITION, "the head of %s is %s, not %s", branch, revision,
                       want);
}

/* What has something to read first comes to the worker through the loader. */
static void submit(struct daemon *d, struct job *j)
{
    if (j->ops->ahead) loader_submit(d->loader, j);
    else worker_submit(d->worker, j);
}

static void start_accepted(struct daemon *d, struct job *j, bool ok, const struct err *e)
{
    if (ok) {
        submit(d, j);
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
    submit(d, j);
}

static void start(struct exchange *x)
{
    struct daemon *d = x->daemon;
    bool asked = true;
    if (x->call.route->writes) asked = record_accept(d, x->job, start_accepted);
    else if (x->call.key.key[0]) asked = record_accept(d, x->job, start_anyway);
    else submit(d, x->job);
    assert(asked);
    (void)asked;
}

/* ---- a GET that computes ----------------------------------------------------------------------- */

static bool is_get(const struct exchange *x) { return strcmp(x->call.route->method, "GET") == 0; }

/* What is being found out for somebody else already is not asked twice. */
static bool join(struct exchange *x, struct work *w)
{
    if (!is_get(x)) return false;
    x->job = jobs_find_live(x->daemon->jobs, w->ops->kind, w->served ? w->served->row.id : "");
    x->joined = x->job != NULL;
    if (x->joined) w->ops->free(w);
    return x->joined;
}

/* The last result stands in for a fresh one that takes too long, or cannot be had now. */
static bool reply_last(struct exchange *x, const char *kind, const char *model_id)
{
    if (!is_get(x)) return false;
    struct job *last = jobs_last_done(x->daemon->jobs, kind, model_id);
    if (!last) return false;
    if (x->job) job_drop(x->job);
    x->job = last;
    (void)reply_end(x);
    return true;
}

/* ---- admission --------------------------------------------------------------------------------- */

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
                            .model = w->served ? w->served->name : NULL,
                            .model_id = w->served ? w->served->row.id : NULL,
                            .share_limited = x->call.who.verified,
                            .timeout_us = x->daemon->config->job_timeout_s * US_PER_S};
    x->job = jobs_admit(x->daemon->jobs, &r, &x->replay, &p);
    if (x->job && !x->replay) return true;
    bool had = !x->job && reply_last(x, w->ops->kind, r.model_id ? r.model_id : "");
    w->ops->free(w);
    if (x->job) return !had;
    struct worker_load load;
    worker_load(x->daemon->worker, &load);
    p.retry_after_s = 1 + (int)((load.mean_us * (int64_t)(load.waiting_long + 1)) / US_PER_S);
    if (p.retry_after_s > WAIT_MOST_S) p.retry_after_s = WAIT_MOST_S;
    exchange_reply_problem(x, &p);
    return false;
}

enum next exchange_run_work(struct exchange *x)
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
        exchange_reply_problem(x, &p);
        return NEXT_REPLY;
    }
    struct work *w = x->call.route->prepare(&x->call, &e);
    if (!w) return exchange_reply_err(x, &e);
    if (w->stream && x->call.key.key[0]) { /* what is kept is the answer, not how it came */
        w->ops->free(w);
        (void)err_field(&e, ERR_INVALID, "Idempotency-Key",
                        "a stream is not kept to be answered again: ask without a key, or without \"stream\"");
        return exchange_reply_err(x, &e);
    }
    if (w->stream && !exchange_subscribe(x)) {
        w->ops->free(w);
        return NEXT_REPLY;
    }
    if (!join(x, w)) {
        if (!admit(x, w)) return NEXT_REPLY;
        if (x->replay) return answer_again(x);
        start(x);
    }
    x->audience = x->dialect == DIALECT_OPENAI ? AUDIENCE_BARE : AUDIENCE_STREAM;
    if (x->job->stream) return NEXT_STREAM;
    x->wait_until_us = x->dialect == DIALECT_OPENAI ? INT64_MAX : x->started_us + (int64_t)prefer_wait_s(x->header[HEADER_PREFER]) * US_PER_S;
    return NEXT_WAIT;
}

bool exchange_alone(const struct exchange *x)
{
    return x->job && !x->accepting && !x->joined && !x->call.key.key[0] && !x->call.route->writes &&
           !x->job->ops->common;
}

/* Released, these have no use for less than the answer: who cannot be told of a job, and who left. */
static bool wants_all(const struct exchange *x)
{
    return x->dialect == DIALECT_OPENAI || (atomic_load(&x->left) && exchange_alone(x));
}

/* Nothing more is waited for. */
static bool is_over(const struct exchange *x)
{
    return atomic_load(&x->released) && (wants_all(x) || atomic_load(&x->daemon->draining));
}

/* Released or in time, a job is told of when that is durable. */
bool exchange_ready(struct exchange *x, int64_t now_us)
{
    if (is_over(x) || job_ended(x->job)) return true;
    return job_accept(x->job) != ACCEPT_ASKED &&
           (x->accepting || atomic_load(&x->released) || now_us >= x->wait_until_us);
}

/* Where nobody can ask for this answer later, its work has no other purpose. */
static enum next give_up(struct exchange *x)
{
    if (exchange_alone(x)) (void)worker_cancel(x->daemon->worker, x->job);
    if (atomic_load(&x->daemon->draining)) exchange_refuse(x, PROBLEM_DRAINING, "the daemon stops");
    else if (atomic_load(&x->left))
        exchange_refuse(x, PROBLEM_JOB_CANCELLED, "the client closed its side of the connection");
    else exchange_refuse(x, PROBLEM_BUSY, "too many requests wait for their answers");
    return NEXT_REPLY;
}

enum next exchange_again(struct exchange *x)
{
    if (job_ended(x->job)) return reply_end(x);
    bool over = is_over(x);
    if (over && wants_all(x)) return give_up(x);
    enum accept a = job_accept(x->job);
    if (over) {
        if (a == ACCEPT_KEPT) return reply_job(x);
        exchange_refuse(x, PROBLEM_DRAINING, "the daemon stopped before the job ended");
        return NEXT_REPLY;
    }
    if (reply_last(x, x->job->ops->kind, x->job->model_id)) return NEXT_REPLY;
    if (a == ACCEPT_ASKED || (a == ACCEPT_NONE && record_accept(x->daemon, x->job, NULL))) {
        x->accepting = true;
        return NEXT_WAIT;
    }
    return job_ended(x->job) ? reply_end(x) : reply_job(x);
}
