#include "answer.h"

#include <math.h>

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

bool answer_members(jout *o, const struct json *v)
{
    for (const struct json *m = v ? v->child : NULL; m; m = m->next) {
        struct buf b = {0};
        json_write(m, &b);
        if (b.data) jout_raw(o, m->key, b.data);
        buf_release(&b);
    }
    return v != NULL;
}

bool answer_text(jout *o, const char *text, size_t len, struct err *e)
{
    struct arena a;
    arena_init(&a, 0);
    bool ok = answer_members(o, json_parse(text, len, &a, e));
    arena_release(&a);
    return ok;
}

void answer_stored(jout *o, const struct artefact_row *row)
{
    char time[32];
    if (row->run[0]) jout_text(o, "run", row->run);
    jout_text(o, "author", row->author);
    jout_bool(o, "author_verified", row->author_verified);
    time_text(row->created_us, time);
    jout_text(o, "created_at", time);
}

void answer_interval(jout *o, double low, double high)
{
    if (!isnan(low)) jout_f64s(o, "ci", (const double[]){low, high}, 2);
}

void answer_control(jout *o, const struct control *c, int64_t n, int64_t seed)
{
    jout_int(o, "n", n);
    jout_f64(o, "mean", c->mean);
    jout_f64(o, "sd", c->sd);
    answer_interval(o, c->low, c->high);
    jout_f64(o, "percentile", c->percentile);
    jout_int(o, "seed", seed);
}

void answer_view(jout *o, const char *key, const struct resolved *v)
{
    jout *view = jout_put_object(o, key);
    jout_text(view, "model", v->model);
    jout_text(view, "name", v->name);
    jout_text(view, "revision", v->revision);
    jout_text(view, "digest", v->digest);
}
