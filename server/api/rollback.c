/* POST /v1/rollback: move a branch to an earlier state, by appending a revision whose digest is
 * that state's. The target is restored (and its digests compared) before anything is written. */
#include <stdio.h>
#include <string.h>

#include "handlers.h"
#include "look.h"
#include "place.h"

struct rollback_work {
    struct look look;         /* request; its view is the target */
    struct resolved head;     /* pinned at the first step */
};

static struct rollback_work *of(struct work *w) { return (struct rollback_work *)w; }

static void rollback_free(struct work *w)
{
    resolved_release(&of(w)->head);
    look_release(&of(w)->look);
    mem_drop(w);
}

static enum step rollback_step(struct work *w, struct session *s, struct err *e)
{
    struct rollback_work *r = of(w);
    (void)s;
    const char *branch = json_get(r->look.request, "branch")->text;
    bool ok = served_view(w->served, NULL, branch, &r->head, e) && look_head_expected(&r->look, &r->head, e);
    return ok ? STEP_DONE : STEP_FAIL;
}

static void answer(void *ctx, const struct revision *rev, struct buf *out)
{
    struct rollback_work *r = ctx;
    struct err e = {0};
    jout *o = jout_object();
    answer_revision(o, rev, r->look.view.model);
    if (!jout_print(o, out, &e)) out->failed = true;
    jout_free(o);
}

static bool rollback_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct rollback_work *r = of(w);
    const struct resolved *to = &r->look.view;
    (void)e;
    o->status = 201;
    o->record = RECORD_COMMIT;
    o->commit = (struct commit){
        .kind = REV_ROLLBACK, .model = to->model_id, .branch = r->head.name, .expected_head = r->head.revision,
        .to = to->revision, .message = json_get(r->look.request, "message")->text, .digest = to->digest,
        .after = to->view, .before = r->head.view, .base = &w->served->digests,
        .request = r->look.text.data, .answer = answer, .ctx = r};
    look_provenance(&r->look, &o->commit.by);
    return true;
}

static void rollback_published(struct work *w, const struct revision *rev)
{
    served_publish(w->served, rev, of(w)->look.view.view);
}

/* Not brief: between the steps of an edit it would move the head the edit has pinned. */
static const struct work_ops ops = {
    .kind = "rollback", .unit = "revisions",
    .step = rollback_step, .finish = rollback_finish, .published = rollback_published, .free = rollback_free,
};

static bool prepare(struct rollback_work *r, struct call *c, struct err *e)
{
    struct look *l = &r->look;
    if (!look_begin(l, c, &ops, e)) return false;
    const struct json *q = l->request;
    const char *branch = json_get(q, "branch")->text, *to = json_get(q, "to")->text;
    char head[ID_TEXT];
    int64_t seq;
    if (!served_head(l->work.served, branch, head, &seq))
        return err_field(e, ERR_NOT_FOUND, "branch", "there is no branch \"%s\"", branch);
    if (strcmp(to, "base") != 0 && served_head(l->work.served, to, head, &seq))
        return err_field(e, ERR_INVALID, "to", "\"%s\" is a branch; name a revision or \"base\"", to);
    resolved_release(&l->view);
    if (!look_view(l, c, to, &l->view, e)) return place_blame(e, "to");
    look_author(l, c);
    return true;
}

struct work *api_rollback(struct call *c, struct err *e)
{
    struct rollback_work *r = mem_new(sizeof *r);
    if (prepare(r, c, e)) return &r->look.work;
    rollback_free(&r->look.work);
    return NULL;
}
