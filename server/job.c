#include "job.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "server/api/answer.h"
#include "clock.h"
#include "quote.h"

enum { PROGRESS_EVERY_US = US_PER_S / 4 };

struct jobs {
    pthread_mutex_t lock;
    struct job *newest, *oldest;
    size_t n_ended, ended_bytes;
    _Atomic size_t *answers; /* of all that are not freed, listed or not */
    struct jobs_count count;
    void (*wake)(void *ctx);
    void *ctx;
};

static const char *const state_words[] = {
    [JOB_QUEUED] = "queued", [JOB_RUNNING] = "running", [JOB_COMMITTING] = "committing",
    [JOB_DONE] = "done",     [JOB_FAILED] = "failed",   [JOB_CANCELLED] = "cancelled",
};
static_assert(sizeof state_words / sizeof *state_words == JOB_STATES, "one word per state");

/* The arrows of the drawing in job.h. */
static const bool arrows[JOB_STATES][JOB_STATES] = {
    [JOB_QUEUED] = {[JOB_RUNNING] = true, [JOB_CANCELLED] = true, [JOB_FAILED] = true},
    [JOB_RUNNING] = {[JOB_COMMITTING] = true, [JOB_CANCELLED] = true, [JOB_FAILED] = true},
    [JOB_COMMITTING] = {[JOB_DONE] = true, [JOB_FAILED] = true},
};

bool job_may_move(enum job_state from, enum job_state to)
{
    assert((unsigned)from < JOB_STATES && (unsigned)to < JOB_STATES);
    return arrows[from][to];
}

const char *job_state_word(enum job_state s)
{
    assert((unsigned)s < JOB_STATES);
    return state_words[s];
}

static bool is_end(enum job_state s) { return s >= JOB_DONE; }
static_assert(JOB_DONE > JOB_COMMITTING && JOB_CANCELLED == JOB_STATES - 1, "ends come last");

static void lock(struct jobs *t) { (void)pthread_mutex_lock(&t->lock); }
static void unlock(struct jobs *t) { (void)pthread_mutex_unlock(&t->lock); }

struct jobs *jobs_new(void (*wake)(void *ctx), void *ctx, _Atomic size_t *answers)
{
    struct jobs *t = mem_new(sizeof *t);
    (void)pthread_mutex_init(&t->lock, NULL);
    t->wake = wake;
    t->ctx = ctx;
    t->answers = answers;
    return t;
}

/* ---- life --------------------------------------------------------------------------------- */

static void free_job(struct job *j)
{
    assert(!j->work);
    atomic_fetch_sub(j->table->answers, j->held);
    events_release(&j->events);
    buf_release(&j->body);
    buf_release(&j->bytes);
    mem_drop(j);
}

static void drop_locked(struct job *j)
{
    assert(j->refs > 0);
    if (--j->refs == 0) free_job(j);
}

void job_retain(struct job *j)
{
    lock(j->table);
    j->refs++;
    unlock(j->table);
}

void job_drop(struct job *j)
{
    struct jobs *t = j->table;
    lock(t);
    drop_locked(j);
    unlock(t);
}

static void list(struct jobs *t, struct job *j)
{
    j->older = t->newest;
    if (t->newest) t->newest->newer = j;
    else t->oldest = j;
    t->newest = j;
}

static void unlist(struct jobs *t, struct job *j)
{
    assert(is_end(j->state));
    if (j->newer) j->newer->older = j->older;
    else t->newest = j->older;
    if (j->older) j->older->newer = j->newer;
    else t->oldest = j->newer;
    j->older = j->newer = NULL;
    t->n_ended--;
    t->ended_bytes -= j->held;
    drop_locked(j);
}

static void forget_oldest(struct jobs *t)
{
    for (struct job *j = t->oldest, *newer; j; j = newer) {
        if (t->n_ended <= JOBS_ENDED && t->ended_bytes <= JOBS_ENDED_BYTES) return;
        newer = j->newer;
        if (is_end(j->state) && (j->newer || t->n_ended > 1)) unlist(t, j);
    }
}

/* Who reads one goes on reading it; who comes later finds it in the ledger, if it was told of it. */
void jobs_forget(struct jobs *t)
{
    lock(t);
    for (struct job *j = t->oldest, *newer; j; j = newer) {
        newer = j->newer;
        if (is_end(j->state)) unlist(t, j);
    }
    unlock(t);
}

void jobs_free(struct jobs *t)
{
    if (!t) return;
    while (t->oldest) unlist(t, t->oldest);
    (void)pthread_mutex_destroy(&t->lock);
    mem_drop(t);
}

/* ---- the one transition ------------------------------------------------------------------- */

static void state_event(struct job *j)
{
    char data[64];
    (void)snprintf(data, sizeof data, "{\"state\":\"%s\"}", job_state_word(j->state));
    events_add(&j->events, EVENT_STATE, "state", data);
}

static void job_move(struct job *j, enum job_state to)
{
    assert(job_may_move(j->state, to));
    struct jobs *t = j->table;
    t->count.live[j->state]--;
    j->state = to;
    if (is_end(to)) t->count.ended[to]++;
    else t->count.live[to]++;
    state_event(j);
}

bool job_begin(struct job *j)
{
    lock(j->table);
    bool queued = j->state == JOB_QUEUED;
    if (queued) job_move(j, JOB_RUNNING);
    unlock(j->table);
    if (queued) j->table->wake(j->table->ctx);
    return queued;
}

void job_commit(struct job *j)
{
    lock(j->table);
    job_move(j, JOB_COMMITTING);
    unlock(j->table);
    j->table->wake(j->table->ctx);
}

void job_set_bytes(struct job *j, const char *media, const char *run, struct buf *bytes)
{
    lock(j->table);
    assert(!is_end(j->state));
    j->media = media;
    (void)snprintf(j->run, sizeof j->run, "%s", run);
    j->bytes = *bytes;
    *bytes = (struct buf){0};
    unlock(j->table);
}

enum accept job_end(struct job *j, enum job_state to, int status, struct buf *body)
{
    assert(is_end(to) && status >= 200);
    struct jobs *t = j->table;
    lock(t);
    struct work *w = j->work;
    enum accept a = j->accept;
    j->done = atomic_load(&w->done);
    j->total = atomic_load(&w->total);
    j->work = NULL;
    j->status = status;
    j->body = *body;
    *body = (struct buf){0};
    job_move(j, to);
    bool ok = to == JOB_DONE;
    events_add(&j->events, ok ? EVENT_RESULT : EVENT_ERROR, ok ? "result" : "error", NULL);
    t->n_ended++;
    j->held = j->body.cap + j->bytes.cap;
    t->ended_bytes += j->held;
    atomic_fetch_add(t->answers, j->held); /* before the work gives back what it had for them */
    forget_oldest(t);
    drop_locked(j); /* the worker's */
    unlock(t);
    w->ops->free(w);
    t->wake(t->ctx);
    return a;
}

/* ---- admission ---------------------------------------------------------------------------- */

/* What a repeated key may be answered with: not a server's fault, not a job taken back. */
static bool is_kept(const struct job *j)
{
    return !is_end(j->state) || (j->status < 500 && j->state != JOB_CANCELLED);
}

static struct job *find_key(struct jobs *t, const struct idempotency *k)
{
    if (!k->key[0]) return NULL;
    for (struct job *j = t->newest; j; j = j->older)
        if (strcmp(j->key.key, k->key) == 0 && strcmp(j->key.scope, k->scope) == 0 && is_kept(j))
            return j;
    return NULL;
}

static bool has_room(struct jobs *t, const struct job_request *r, struct problem *p)
{
    size_t same = 0, mine = 0, mine_long = 0;
    bool brief = r->work->ops->brief;
    for (struct job *j = t->newest; j; j = j->older) {
        if (is_end(j->state)) continue;
        same += j->ops->brief == brief;
        if (strcmp(j->author, r->author) != 0) continue;
        mine++;
        mine_long += !j->ops->brief;
    }
    if (r->share_limited && mine >= JOBS_PER_TOKEN)
        return problem_set(p, PROBLEM_OVER_SHARE, "%s has %zu jobs waiting", r->author, mine);
    if (r->share_limited && !brief && mine_long >= JOBS_LONG_PER_TOKEN)
        return problem_set(p, PROBLEM_OVER_SHARE, "%s has %zu long jobs waiting", r->author, mine_long);
    if (same >= (brief ? JOBS_BRIEF : JOBS_LONG))
        return problem_set(p, PROBLEM_BUSY, "%zu jobs are waiting", same);
    return true;
}

static struct job *new_job(struct jobs *t, const struct job_request *r)
{
    struct job *j = mem_new(sizeof *j);
    j->table = t;
    ledger_new_id("job", j->id);
    j->work = r->work;
    j->ops = r->work->ops;
    j->brief = j->ops->brief;
    j->stream = r->work->stream;
    j->key = *r->key;
    j->created_us = wall_us();
    j->deadline_us = r->timeout_us > 0 ? monotonic_us() + r->timeout_us : INT64_MAX;
    (void)snprintf(j->author, sizeof j->author, "%s", r->author);
    (void)snprintf(j->model, sizeof j->model, "%s", r->model ? r->model : "");
    (void)snprintf(j->model_id, sizeof j->model_id, "%s", r->model_id ? r->model_id : "");
    atomic_init(&j->cancel, false);
    events_init(&j->events, j->stream ? EVENTS_LONG : EVENTS_SHORT);
    memcpy(r->work->job_id, j->id, sizeof j->id);
    j->refs = 3; /* the table's, the worker's, the caller's */
    return j;
}

struct job *jobs_admit(struct jobs *t, const struct job_request *r, bool *existing,
                       struct problem *p)
{
    lock(t);
    struct job *j = find_key(t, r->key);
    *existing = j != NULL;
    if (j) {
        j->refs++;
    } else if (has_room(t, r, p)) {
        j = new_job(t, r);
        list(t, j);
        t->count.live[JOB_QUEUED]++;
        state_event(j);
    }
    unlock(t);
    return j;
}

/* ---- looking ------------------------------------------------------------------------------ */

static struct job *find_id(struct jobs *t, const char *id)
{
    for (struct job *j = t->newest; j; j = j->older)
        if (strcmp(j->id, id) == 0) return j;
    return NULL;
}

struct job *jobs_find(struct jobs *t, const char *id)
{
    lock(t);
    struct job *j = find_id(t, id);
    if (j) j->refs++;
    unlock(t);
    return j;
}

struct job *jobs_find_key(struct jobs *t, const struct idempotency *k)
{
    lock(t);
    struct job *j = find_key(t, k);
    if (j) j->refs++;
    unlock(t);
    return j;
}

static bool is_live(const struct job *j) { return !is_end(j->state); }
static bool is_done(const struct job *j) { return j->state == JOB_DONE; }

static struct job *newest_about(struct jobs *t, bool (*is)(const struct job *j), const char *kind, const char *model_id)
{
    lock(t);
    struct job *j = t->newest;
    while (j && !(is(j) && strcmp(j->ops->kind, kind) == 0 && strcmp(j->model_id, model_id) == 0)) j = j->older;
    if (j) j->refs++;
    unlock(t);
    return j;
}

struct job *jobs_find_live(struct jobs *t, const char *kind, const char *model_id)
{
    return newest_about(t, is_live, kind, model_id);
}

struct job *jobs_last_done(struct jobs *t, const char *kind, const char *model_id)
{
    return newest_about(t, is_done, kind, model_id);
}

size_t jobs_list(struct jobs *t, struct job **out, size_t cap)
{
    size_t n = 0;
    lock(t);
    for (struct job *j = t->newest; j && n < cap; j = j->older) {
        j->refs++;
        out[n++] = j;
    }
    unlock(t);
    return n;
}

void jobs_count(struct jobs *t, struct jobs_count *out)
{
    lock(t);
    *out = t->count;
    unlock(t);
}

enum job_state job_state(struct job *j)
{
    lock(j->table);
    enum job_state s = j->state;
    unlock(j->table);
    return s;
}

bool job_ended(struct job *j) { return is_end(job_state(j)); }

bool job_ask_accept(struct job *j, void (*post)(void *ctx), void *ctx)
{
    lock(j->table);
    bool ask = j->accept == ACCEPT_NONE && !is_end(j->state);
    if (ask) {
        j->accept = ACCEPT_ASKED;
        post(ctx);
    }
    unlock(j->table);
    return ask;
}

void job_set_accept(struct job *j, enum accept a)
{
    lock(j->table);
    j->accept = a;
    unlock(j->table);
    j->table->wake(j->table->ctx);
}

enum accept job_accept(struct job *j)
{
    lock(j->table);
    enum accept a = j->accept;
    unlock(j->table);
    return a;
}

/* ---- progress and events ------------------------------------------------------------------ */

/* left_us: 0 where it cannot be said. */
static void write_progress(struct buf *out, int64_t done, int64_t total, const char *unit, int64_t left_us)
{
    buf_printf(out, "{\"done\":%" PRId64 ",\"total\":", done);
    if (total > 0) buf_printf(out, "%" PRId64, total);
    else buf_text(out, "null"); /* not known yet */
    buf_printf(out, ",\"unit\":\"%s\"", unit);
    if (left_us > 0) buf_printf(out, ",\"seconds_left\":%.1f", (double)left_us / US_PER_S);
    buf_text(out, "}");
}

/* What is left, at the pace so far; of work that has run for a while. */
static int64_t time_left(const struct work *w, int64_t now_us, int64_t done, int64_t total)
{
    const int64_t took = now_us - w->started_us;
    if (!w->started_us || took < US_PER_S || done <= 0 || total <= done) return 0;
    return (int64_t)((double)took * (double)(total - done) / (double)done);
}

void job_progress(struct job *j, int64_t now_us)
{
    if (now_us - j->progress_us < PROGRESS_EVERY_US) return;
    int64_t done = atomic_load(&j->work->done), total = atomic_load(&j->work->total);
    if (done == j->progress_done) return;
    struct buf data = {0};
    const int64_t left = time_left(j->work, now_us, done, total);
    atomic_store(&j->left_us, left);
    write_progress(&data, done, total, j->ops->unit, left);
    j->progress_us = now_us;
    j->progress_done = done;
    lock(j->table);
    if (!data.failed) events_add(&j->events, EVENT_PROGRESS, "progress", data.data);
    unlock(j->table);
    buf_release(&data);
    j->table->wake(j->table->ctx);
}

void jobs_emit(struct jobs *t, const char *job_id, const char *event, const char *data)
{
    lock(t);
    struct job *j = find_id(t, job_id);
    if (j) events_add(&j->events, EVENT_EMITTED, event, data);
    unlock(t);
    t->wake(t->ctx);
}

enum events_state job_events(struct job *j, enum audience who, int64_t *after, struct buf *out)
{
    lock(j->table);
    enum events_state s = events_write(&j->events, who, &j->body, after, out);
    unlock(j->table);
    return s;
}

bool job_has_events(struct job *j, int64_t after)
{
    lock(j->table);
    bool has = is_end(j->state) || after + 1 != j->events.next;
    unlock(j->table);
    return has;
}

int64_t job_events_begin(struct job *j)
{
    lock(j->table);
    int64_t id = j->events.first - 1;
    unlock(j->table);
    return id;
}

/* ---- as the API shows it ------------------------------------------------------------------ */

static void begin_end(bool ok, struct buf *out) { buf_text(out, ok ? ",\"result\":" : ",\"error\":"); }

static void write_end(bool ok, const char *body, size_t len, struct buf *out)
{
    begin_end(ok, out);
    if (len) buf_put(out, body, len);
    else buf_text(out, "null");
}

static void write_top(struct buf *out, const char *id, const char *kind, const char *model,
                      const char *state, int64_t created_us)
{
    char when[32];
    time_text(created_us, when);
    buf_printf(out, "{\"id\":\"%s\",\"kind\":\"%s\",\"model\":", id, kind);
    if (*model) quote(out, model);
    else buf_text(out, "null");
    buf_printf(out, ",\"state\":\"%s\",\"created_at\":\"%s\",\"progress\":", state, when);
}

static enum job_state write_open(struct job *j, struct buf *out)
{
    lock(j->table);
    enum job_state s = j->state;
    int64_t done = j->work ? atomic_load(&j->work->done) : j->done;
    int64_t total = j->work ? atomic_load(&j->work->total) : j->total;
    unlock(j->table);
    write_top(out, j->id, j->ops->kind, j->model, job_state_word(s), j->created_us);
    write_progress(out, done, total, j->ops->unit, is_end(s) ? 0 : atomic_load(&j->left_us));
    buf_text(out, ",\"author\":");
    quote(out, j->author);
    return s;
}

void job_write(struct job *j, bool brief, struct buf *out)
{
    enum job_state s = write_open(j, out);
    if (is_end(s) && !brief) write_end(s == JOB_DONE, j->body.data, j->body.len, out);
    buf_text(out, "}");
}

const char *job_write_around(struct job *j, struct buf *out)
{
    enum job_state s = write_open(j, out);
    assert(is_end(s));
    begin_end(s == JOB_DONE, out);
    return j->body.len ? "}" : "null}";
}

void job_row_write(const struct job_row *row, const char *model, bool brief, struct buf *out)
{
    write_top(out, row->id, row->kind, model, row->state, row->created_us);
    buf_text(out, "null");
    bool ok = strcmp(row->state, job_state_word(JOB_DONE)) == 0;
    if (!brief && row->result) write_end(ok, row->result, strlen(row->result), out);
    buf_text(out, "}");
}
