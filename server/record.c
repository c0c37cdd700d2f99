#include "record.h"

#include <assert.h>

#include "clock.h"

/* ---- acceptance --------------------------------------------------------------------------- */

struct acceptance {
    struct write write;
    struct daemon *daemon;
    struct job *job;
    void (*then)(struct daemon *d, struct job *j, bool ok, const struct err *e);
};

static bool write_acceptance(struct ledger *l, void *ctx, struct err *e)
{
    struct acceptance *a = ctx;
    struct job *j = a->job;
    return ledger_job_accept(l, j->id, j->ops->kind, j->model_id, j->author, &j->key, e);
}

static void end_acceptance(void *ctx, bool ok, const struct err *e)
{
    struct acceptance *a = ctx;
    job_set_accept(a->job, ok ? ACCEPT_KEPT : ACCEPT_REFUSED);
    if (a->then) a->then(a->daemon, a->job, ok, e);
    job_drop(a->job);
    mem_drop(a);
}

static void post_acceptance(void *ctx)
{
    struct acceptance *a = ctx;
    writer_post(a->daemon->writer, &a->write);
}

bool record_accept(struct daemon *d, struct job *j,
                   void (*then)(struct daemon *d, struct job *j, bool ok, const struct err *e))
{
    struct acceptance *a = mem_new(sizeof *a);
    *a = (struct acceptance){.daemon = d, .job = j, .then = then};
    a->write = (struct write){.run = write_acceptance, .done = end_acceptance, .ctx = a};
    job_retain(j);
    if (job_ask_accept(j, post_acceptance, a)) return true;
    job_drop(j);
    mem_drop(a);
    return false;
}

/* ---- ends --------------------------------------------------------------------------------- */

struct ending {
    struct write write;
    struct daemon *daemon;
    struct job *job;
};

static bool write_ending(struct ledger *l, void *ctx, struct err *e)
{
    struct ending *n = ctx;
    const char *state = job_state_word(job_state(n->job));
    int status = n->job->ops->of_this_life ? 0 : n->job->status;
    return ledger_job_end(l, n->job->id, state, status, n->job->body.data, e);
}

static void end_ending(void *ctx, bool ok, const struct err *e)
{
    struct ending *n = ctx;
    if (!ok) log_say(n->daemon->log, LOG_LEVEL_WARN, "job-end", "%s: %s", n->job->id, e->text);
    job_drop(n->job);
    mem_drop(n);
}

/* The end and the question whether the ledger knows the job are one step (job_end), so that an
 * acceptance asked for at the last moment is always followed by its end. */
static void end(struct daemon *d, struct job *j, enum job_state to, int status, struct buf *body,
                bool recorded)
{
    job_retain(j);
    enum accept a = job_end(j, to, status, body);
    if (recorded || (a != ACCEPT_ASKED && a != ACCEPT_KEPT)) {
        job_drop(j);
        return;
    }
    struct ending *n = mem_new(sizeof *n);
    *n = (struct ending){.daemon = d, .job = j};
    n->write = (struct write){.run = write_ending, .done = end_ending, .ctx = n};
    writer_post(d->writer, &n->write);
}

void record_refusal(struct daemon *d, struct job *j, enum job_state to, const struct problem *p)
{
    struct buf body = {0};
    problem_write(p, &body);
    end(d, j, to, p->status, &body, false);
}

/* Before the closing brace. */
static void put_partial(struct job *j, struct buf *body)
{
    struct buf partial = {0};
    if (j->ops->partial && j->ops->partial(j->work, &partial)) {
        body->len--;
        buf_text(body, ",\"partial\":");
        buf_put(body, partial.data, partial.len);
        buf_text(body, "}");
    }
    buf_release(&partial);
}

void record_given_up(struct daemon *d, struct job *j, enum job_state to, const struct problem *p)
{
    struct buf body = {0};
    problem_write(p, &body);
    put_partial(j, &body);
    end(d, j, to, p->status, &body, false);
}

/* ---- outcomes ----------------------------------------------------------------------------- */

struct recording {
    struct outcome *outcome;
    struct revision revision;
    struct buf answer;
};

static bool write_run(struct ledger *l, void *ctx, struct err *e)
{
    struct recording *r = ctx;
    return ledger_add_run(l, &r->outcome->run, e);
}

static bool write_commit(struct ledger *l, void *ctx, struct err *e)
{
    struct recording *r = ctx;
    return ledger_commit(l, &r->outcome->commit, &r->revision, &r->answer, e);
}

/* What every record says about its job, whoever made it. */
static void fill(const struct work *w, const struct recorded_as *as, struct outcome *o)
{
    int64_t took = monotonic_us() - w->started_us;
    struct provenance *by = o->record == RECORD_COMMIT ? &o->commit.by : &o->run.by;
    if (by->duration_us == 0) by->duration_us = took;
    if (o->status == 0) o->status = 200;
    if (as->key) o->run.key = o->commit.key = *as->key;
    o->run.status = o->commit.status = o->status;
    o->run.job_id = o->commit.job_id = as->job_id;
}

static bool record_run(struct daemon *d, struct work *w, struct outcome *o, bool *recorded, struct err *e)
{
    struct recording r = {.outcome = o};
    struct err why = {0};
    if (writer_call(d->writer, write_run, &r, &why)) {
        *recorded = o->run.job_id != NULL;
        return true;
    }
    if (!o->unrecorded) {
        *e = why;
        return false;
    }
    log_say(d->log, LOG_LEVEL_WARN, "not-recorded", "%s: %s", w->job_id, why.text);
    o->unrecorded(w, &o->body);
    o->run.id[0] = '\0';
    return true;
}

static bool record_commit(struct daemon *d, struct work *w, struct outcome *o, bool *recorded, struct err *e)
{
    struct recording r = {.outcome = o};
    const struct served *s = w->served;
    if (s && !models_is_current(d->models, s))
        return err_set(e, ERR_CONFLICT, "the model %s was unloaded and loaded anew meanwhile", s->name);
    if (!writer_call(d->writer, write_commit, &r, e)) {
        buf_release(&r.answer);
        return false;
    }
    if (w->ops->published) w->ops->published(w, &r.revision);
    revision_release(&r.revision);
    buf_release(&o->body);
    o->body = r.answer;
    *recorded = o->commit.job_id != NULL;
    return true;
}

/* What somebody stores: no run, since nothing was looked at. */
struct storing {
    const struct artefact *artefact;
    const struct work *work;
    char id[ID_TEXT];
    bool known;
};

static bool write_artefact(struct ledger *l, void *ctx, struct err *e)
{
    struct storing *s = ctx;
    return ledger_add_artefact(l, s->artefact, s->work->author.name, s->work->author.verified, s->id, &s->known, e);
}

static bool record_artefact(struct daemon *d, struct work *w, struct outcome *o, bool *recorded, struct err *e)
{
    struct storing s = {.artefact = &o->artefact, .work = w};
    (void)recorded;
    if (!writer_call(d->writer, write_artefact, &s, e)) return false;
    o->status = s.known ? 200 : 201;
    return o->named(w, s.id, s.known, &o->body, e);
}

static bool record_nothing(struct daemon *d, struct work *w, struct outcome *o, bool *recorded, struct err *e)
{
    (void)d, (void)w, (void)o, (void)recorded, (void)e;
    return true;
}

static bool (*const recorders[])(struct daemon *, struct work *, struct outcome *, bool *, struct err *) = {
    [RECORD_NOTHING] = record_nothing,
    [RECORD_RUN] = record_run,
    [RECORD_COMMIT] = record_commit,
    [RECORD_ARTEFACT] = record_artefact,
};

bool record_work(struct daemon *d, struct work *w, const struct recorded_as *as, struct outcome *o, bool *recorded,
                 struct err *e)
{
    assert((unsigned)o->record <= RECORD_ARTEFACT);
    *recorded = false;
    fill(w, as, o);
    return recorders[o->record](d, w, o, recorded, e) && buf_ok(&o->body, e);
}

static void fail(struct daemon *d, struct job *j, const struct err *e, bool committing)
{
    struct problem p;
    bool moved = committing && e->code == ERR_CONFLICT && !e->field[0];
    if (moved) (void)problem_set(&p, PROBLEM_BRANCH_MOVED, "%s", e->text);
    else (void)problem_from(&p, e);
    record_refusal(d, j, JOB_FAILED, &p);
}

void record_outcome(struct daemon *d, struct job *j)
{
    struct outcome o = {0};
    struct err e = {0};
    bool recorded = false;
    if (!j->ops->finish(j->work, &o, &e)) {
        buf_release(&o.body);
        fail(d, j, &e, false);
        return;
    }
    job_commit(j);
    struct recorded_as as = {.key = &j->key, .job_id = job_accept(j) == ACCEPT_NONE ? NULL : j->id};
    if (!record_work(d, j->work, &as, &o, &recorded, &e)) {
        buf_release(&o.body);
        fail(d, j, &e, o.record == RECORD_COMMIT);
        return;
    }
    if (!o.pack) {
        end(d, j, JOB_DONE, o.status, &o.body, recorded);
        return;
    }
    struct buf bytes = {0};
    if (o.pack(j->work, &o.body, &bytes, &e)) {
        job_set_bytes(j, o.media, o.run.id, &bytes);
        end(d, j, JOB_DONE, o.status, &o.body, recorded);
    } else {
        buf_release(&bytes);
        buf_release(&o.body);
        fail(d, j, &e, false);
    }
}
