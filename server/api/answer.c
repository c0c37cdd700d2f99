#include "answer.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "server/etag.h"

bool answer_reply(struct reply *r, jout *root, struct err *e)
{
    bool ok = jout_print(root, &r->body, e);
    jout_free(root);
    return ok;
}

bool answer_unchanged(const struct call *c, struct reply *r, const char *etag)
{
    (void)snprintf(r->etag, sizeof r->etag, "%s", etag);
    if (!etag_matches(c->if_none_match, etag)) return false;
    r->status = 304;
    return true;
}

void time_text(int64_t utc_us, char out[32])
{
    time_t s = (time_t)(utc_us / 1000000);
    struct tm t;
    size_t n = gmtime_r(&s, &t) ? strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &t) : 0;
    (void)snprintf(out + n, 32 - n, ".%06dZ", (int)(utc_us % 1000000));
}

static void time_member(jout *o, const char *key, int64_t utc_us)
{
    char text[32];
    time_text(utc_us, text);
    jout_text(o, key, text);
}

static void some_text(jout *o, const char *key, const char *text)
{
    if (text[0]) jout_text(o, key, text);
}

void answer_revision(jout *o, const struct revision *rev, const char *model)
{
    jout_text(o, "revision", rev->id);
    jout_int(o, "seq", rev->seq);
    jout_text(o, "model", model);
    jout_text(o, "branch", rev->branch);
    jout_text(o, "parent", rev->parent[0] ? rev->parent : NULL);
    jout_text(o, "kind", revision_kind_word(rev->kind));
    jout_text(o, "message", rev->message);
    jout_text(o, "author", rev->author);
    jout_bool(o, "author_verified", rev->author_verified);
    time_member(o, "created_at", rev->created_us);
    jout_text(o, "digest", rev->digest);
    some_text(o, "to", rev->to);
    some_text(o, "edit", rev->edit);
    some_text(o, "delta", rev->delta);
    if (rev->summary) jout_raw(o, "summary", rev->summary);
}

void answer_run(jout *o, const struct run_row *run, const char *model)
{
    jout_text(o, "run", run->id);
    jout_text(o, "kind", run->kind);
    jout_text(o, "model", model);
    jout_text(o, "revision", run->revision);
    jout_text(o, "view_digest", run->view_digest);
    jout_text(o, "author", run->author);
    jout_bool(o, "author_verified", run->author_verified);
    jout_text(o, "engine", run->engine);
    jout_text(o, "kernel", run->kernel);
    jout_int(o, "threads", run->threads);
    if (run->seed >= 0) jout_int(o, "seed", run->seed);
    else jout_null(o, "seed");
    jout_f64(o, "seconds", (double)run->duration_us / 1e6);
    time_member(o, "created_at", run->created_us);
    jout_text(o, "result_hash", run->result_hash);
    if (run->request) jout_raw(o, "request", run->request);
    if (run->result) jout_raw(o, "result", run->result);
}

void answer_view(jout *o, const char *key, const struct resolved *v)
{
    jout *view = jout_put_object(o, key);
    jout_text(view, "model", v->model);
    jout_text(view, "name", v->name);
    jout_text(view, "revision", v->revision);
    jout_text(view, "digest", v->digest);
}
