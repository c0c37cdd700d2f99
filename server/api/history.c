#include "answer.h"
#include "handlers.h"
#include "page.h"
#include "place.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Rows carry the ledger's model id; answers say the name it is served under, or the id where that
 * model is not loaded. */
static void served_name(const struct call *c, const char *model_id, char out[NAME_TEXT])
{
    struct served *s = models_find_row(daemon_models(c->daemon), model_id);
    (void)snprintf(out, NAME_TEXT, "%s", s ? s->name : model_id);
    served_drop(s);
}

static const char *word_of(const struct call *c, const char *key)
{
    const struct json *v = json_get(c->query, key);
    return v ? v->text : NULL;
}

/* ---- revisions --------------------------------------------------------------------------------- */

/* The list cannot change while the head of its branch stays: head id, query and the name that the
 * rows say make a strong tag, and an unchanged poll reads nothing. */
static void revisions_tag(const struct call *c, const char *head, char out[80])
{
    struct buf text = {0};
    uint64_t h = 0xcbf29ce484222325u;
    json_write(c->query, &text);
    buf_text(&text, c->served->name);
    for (size_t i = 0; i < text.len; i++) h = (h ^ (unsigned char)text.data[i]) * 0x100000001b3u;
    buf_release(&text);
    (void)snprintf(out, 80, "\"%s-%016" PRIx64 "\"", head, h);
}

static void one_revision(void *ctx, const struct revision *rev)
{
    struct page *p = ctx;
    if (page_full(p, rev->seq)) return;
    answer_revision(jout_put_object(p->list, NULL), rev, p->model->name);
}

bool api_revisions(struct call *c, struct reply *r, struct err *e)
{
    const char *branch = word_of(c, "branch");
    char head[ID_TEXT], tag[80];
    int64_t seq;
    struct served *s = call_served(c, c->query, e);
    if (!s) return false;
    if (!served_head(s, branch, head, &seq))
        return err_field(e, ERR_NOT_FOUND, "branch", "no branch of that name");
    revisions_tag(c, head, tag); /* before reading: at worst the page is newer than its tag */
    if (answer_unchanged(c, r, tag)) return true;

    jout *o = jout_object();
    struct page p = {s, jout_put_array(o, "revisions"), query_number(c, "limit", 50), 0, 0};
    if (!ledger_revisions(c->reader, s->row.id, branch, (int)p.limit + 1,
                          query_number(c, "before", 0), one_revision, &p, e)) {
        jout_free(o);
        return false;
    }
    page_next(o, &p);
    return answer_reply(r, o, e);
}

bool api_revision_get(struct call *c, struct reply *r, struct err *e)
{
    struct revision rev;
    if (!ledger_revision(c->reader, c->param[0], &rev, e)) return false;
    char model[NAME_TEXT];
    served_name(c, rev.model, model);
    jout *o = jout_object();
    answer_revision(o, &rev, model);
    revision_release(&rev);
    return answer_reply(r, o, e);
}

static void one_branch(void *ctx, const char *branch, const struct revision *head)
{
    struct page *p = ctx;
    jout *o = jout_put_object(p->list, NULL);
    jout_text(o, "branch", branch);
    jout_text(o, "model", p->model->name);
    answer_revision(jout_put_object(o, "head"), head, p->model->name);
}

bool api_branches(struct call *c, struct reply *r, struct err *e)
{
    const struct served *s = call_served(c, c->query, e);
    if (!s) return false;
    jout *o = jout_object();
    struct page p = {.model = s, .list = jout_put_array(o, "branches")};
    if (!ledger_branches(c->reader, s->row.id, one_branch, &p, e)) {
        jout_free(o);
        return false;
    }
    return answer_reply(r, o, e);
}

/* ---- runs -------------------------------------------------------------------------------------- */

static void one_run(void *ctx, const struct run_row *run)
{
    struct page *p = ctx;
    if (page_full(p, run->chain_seq)) return;
    answer_run(jout_put_object(p->list, NULL), run, p->model->name);
}

/* Runs name revisions; `base` and branches are asked for by what they are now. */
static bool view_of(const struct call *c, struct served *s, char revision[ID_TEXT], const char **out, struct err *e)
{
    const char *view = *out = word_of(c, "view");
    uint8_t hash[SHA256_BYTES];
    int64_t seq;
    struct revision rev;
    if (!view || digest_parse(view, hash)) return true;
    if (strcmp(view, "base") == 0) *out = s->row.base_revision;
    else if (served_head(s, view, revision, &seq)) *out = revision;
    if (*out != view) return true;
    if (!ledger_revision(c->reader, view, &rev, e)) return place_blame(e, "view");
    bool ours = strcmp(rev.model, s->row.id) == 0;
    revision_release(&rev);
    return ours || err_field(e, ERR_NOT_FOUND, "view", "%s has no revision %.64s", s->name, view);
}

bool api_runs(struct call *c, struct reply *r, struct err *e)
{
    char revision[ID_TEXT];
    const char *view;
    struct served *s = call_served(c, c->query, e);
    if (!s || !view_of(c, s, revision, &view, e)) return false;
    jout *o = jout_object();
    struct page p = {s, jout_put_array(o, "runs"), query_number(c, "limit", 50), 0, 0};
    if (!ledger_runs(c->reader, s->row.id, word_of(c, "kind"), view, (int)p.limit + 1, query_number(c, "before", 0),
                     one_run, &p, e)) {
        jout_free(o);
        return false;
    }
    page_next(o, &p);
    return answer_reply(r, o, e);
}

bool api_run_get(struct call *c, struct reply *r, struct err *e)
{
    struct run_row run;
    if (!ledger_run(c->reader, c->param[0], &run, e)) return false;
    char model[NAME_TEXT];
    served_name(c, run.model, model);
    jout *o = jout_object();
    answer_run(o, &run, model);
    if (!run.result) jout_bool(o, "pruned", true);
    run_row_release(&run);
    return answer_reply(r, o, e);
}
