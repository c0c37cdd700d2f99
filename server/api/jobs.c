/* Jobs as a resource. Those of this life of the daemon come from memory; older ones, and those
 * that memory let go, from the ledger, which knows every job whose id was ever promised. */
#include <string.h>

#include "handlers.h"
#include "server/daemon_int.h"
#include "server/job.h"
#include "server/media.h"

enum { LIST_DEFAULT = 50, LIST_MOST = 200 };

struct listing {
    struct call *call;
    struct job *job[LIST_MOST];
    size_t n, limit, written;
    struct buf *out;
};

/* Rows carry the ledger's id of the model. */
static void write_row(struct call *c, const struct job_row *row, bool brief, struct buf *out)
{
    struct served *s = models_find_row(c->daemon->models, row->model);
    job_row_write(row, s ? s->name : row->model, brief, out);
    served_drop(s);
}

static void begin_item(struct listing *l)
{
    if (l->written++) buf_text(l->out, ",");
}

static void list_row(void *ctx, const struct job_row *row)
{
    struct listing *l = ctx;
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->job[i]->id, row->id) == 0) return;
    if (l->written >= l->limit) return;
    begin_item(l);
    write_row(l->call, row, true, l->out);
}

static size_t limit_of(const struct call *c)
{
    const struct json *v = json_get(c->query, "limit");
    if (!v || !v->is_int || v->integer < 1) return LIST_DEFAULT;
    return v->integer > LIST_MOST ? LIST_MOST : (size_t)v->integer;
}

bool api_jobs(struct call *c, struct reply *r, struct err *e)
{
    struct listing l = {.call = c, .limit = limit_of(c), .out = &r->body};
    const char *model = NULL; /* all jobs, unless a model is named */
    if (json_get(c->query, "model")) {
        if (!call_served(c, c->query, e)) return false;
        model = c->served->row.id;
    }
    l.n = jobs_list(c->daemon->jobs, l.job, LIST_MOST);
    buf_text(&r->body, "{\"jobs\":[");
    for (size_t i = 0; i < l.n && l.written < l.limit; i++) {
        if (model && strcmp(l.job[i]->model_id, model) != 0) continue;
        begin_item(&l);
        job_write(l.job[i], true, &r->body);
    }
    bool ok = l.written >= l.limit || ledger_jobs(c->reader, model, LIST_MOST, list_row, &l, e);
    buf_text(&r->body, "]}");
    for (size_t i = 0; i < l.n; i++) job_drop(l.job[i]);
    return ok;
}

static bool from_ledger(struct call *c, struct reply *r, struct err *e)
{
    struct job_row row = {0};
    if (!ledger_job(c->reader, c->param[0], &row, e)) return false;
    write_row(c, &row, false, &r->body);
    job_row_release(&row);
    return true;
}

/* Its answer itself, where that is bytes of the kind asked for. */
static bool wants_bytes(const struct call *c, struct job *j)
{
    return job_ended(j) && j->media && strcmp(media_name(media_of(c->accept)), j->media) == 0;
}

bool api_job_get(struct call *c, struct reply *r, struct err *e)
{
    struct job *j = jobs_find(c->daemon->jobs, c->param[0]);
    if (!j) return from_ledger(c, r, e);
    r->job = j;
    if (wants_bytes(c, j)) {
        r->kept = &j->bytes;
        r->content_type = j->media;
    } else if (job_ended(j)) {
        r->tail = job_write_around(j, &r->body);
        r->kept = &j->body;
    } else {
        job_write(j, false, &r->body);
    }
    return buf_ok(&r->body, e);
}

static bool may_cancel(const struct call *c, const struct job *j)
{
    return !c->who.verified || c->who.level == LEVEL_ADMIN || strcmp(c->who.name, j->author) == 0;
}

static void refuse(struct reply *r, enum problem_kind kind, const char *id, const char *why)
{
    struct problem p;
    (void)problem_set(&p, kind, "job %s %s", id, why);
    r->status = p.status;
    r->content_type = "application/problem+json";
    problem_write(&p, &r->body);
}

static bool cancel_ended(struct call *c, struct reply *r, struct err *e)
{
    struct job_row row = {0};
    if (!ledger_job(c->reader, c->param[0], &row, e)) return false;
    job_row_release(&row);
    refuse(r, PROBLEM_TOO_LATE, c->param[0], "has ended");
    return true;
}

/* 200: it is cancelled; 202: it will stop after the step that runs. */
bool api_job_cancel(struct call *c, struct reply *r, struct err *e)
{
    struct job *j = jobs_find(c->daemon->jobs, c->param[0]);
    if (!j) return cancel_ended(c, r, e);
    if (!may_cancel(c, j)) {
        refuse(r, PROBLEM_FORBIDDEN, j->id, "is another caller's");
    } else if (job_state(j) != JOB_CANCELLED && !worker_cancel(c->daemon->worker, j)) {
        refuse(r, PROBLEM_TOO_LATE, j->id, "has gone too far to be cancelled");
    } else {
        r->status = job_ended(j) ? 200 : 202;
        job_write(j, false, &r->body);
    }
    job_drop(j);
    return true;
}
