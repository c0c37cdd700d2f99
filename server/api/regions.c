/* Regions: POST /v1/regions, GET /v1/regions, GET /v1/regions/{region}. See region_expr.h for what one is. */
#include <stdio.h>
#include <string.h>

#include "answer.h"
#include "handlers.h"
#include "look.h"
#include "page.h"
#include "region_expr.h"
#include "server/served.h"

struct region_work {
    struct work work;
    struct arena arena;
    struct region_told told;
    struct buf content, summary;
    char name[NAME_TEXT];
};

static struct region_work *of(struct work *w) { return (struct region_work *)w; }

static void region_work_free(struct work *w)
{
    region_told_release(&of(w)->told);
    buf_release(&of(w)->content);
    buf_release(&of(w)->summary);
    arena_release(&of(w)->arena);
    lease_give(&w->lease);
    served_drop(w->served);
    mem_drop(w);
}

static enum step region_work_step(struct work *w, struct session *s, struct err *e)
{
    (void)w, (void)s, (void)e;
    return STEP_DONE;
}

static bool named(struct work *w, const char *id, bool known, struct buf *body, struct err *e)
{
    struct region_work *r = of(w);
    uint8_t hash[SHA256_BYTES];
    char digest[DIGEST_TEXT];
    (void)known;
    sha256(r->content.data, r->content.len, hash);
    digest_text(hash, digest);
    jout *o = jout_object();
    jout_text(o, "region", id);
    jout_text(o, "name", r->name[0] ? r->name : NULL);
    jout_text(o, "model", w->served->name);
    jout_text(o, "hash", digest);
    jout_int(o, "size", (int64_t)region_size(&r->told.set));
    bool ok = answer_text(o, r->content.data, r->content.len, e) && jout_print(o, body, e);
    jout_free(o);
    return ok;
}

static bool region_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct region_work *r = of(w);
    (void)e;
    o->record = RECORD_ARTEFACT;
    o->artefact = (struct artefact){.kind = "region", .model = w->served->row.id, .name = r->name, .summary = r->summary.data,
                                    .content = r->content.data, .len = r->content.len};
    o->named = named;
    return true;
}

static const struct work_ops ops = {
    .kind = "region", .unit = "regions", .brief = true,
    .step = region_work_step, .finish = region_work_finish, .free = region_work_free,
};

static bool prepare(struct region_work *r, struct call *c, struct err *e)
{
    const struct json *name = json_get(c->body, "name");
    struct served *s = call_served(c, c->body, e);
    r->work.ops = &ops;
    r->work.daemon = c->daemon;
    arena_init(&r->arena, LOOK_ARENA_BYTES);
    if (!s) return false;
    r->work.served = served_retain(s);
    if (name) (void)snprintf(r->name, sizeof r->name, "%s", name->text);
    if (name && !ledger_artefact_name("region", r->name, "name", e)) return false;
    if (!region_expr(json_get(c->body, "expr"), "expr", s->model, s->row.id, c->reader, &r->arena, &r->told, e) ||
        !region_write(&r->told, s->model, &r->content, e))
        return false;
    region_summary(&r->told, &r->summary);
    struct plan plan = {0};
    plan_add(&plan, NEED_REQUEST, plan_times(r->content.cap, 12)); /* the form, and the answer made of it */
    return buf_ok(&r->summary, e) && daemon_lease(c->daemon, &plan, &r->work.lease, e);
}

struct work *api_region_add(struct call *c, struct err *e)
{
    struct region_work *r = mem_new(sizeof *r);
    if (prepare(r, c, e)) return &r->work;
    region_work_free(&r->work);
    return NULL;
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static bool put_head(jout *o, const struct artefact_row *row, const char *model, struct err *e)
{
    jout_text(o, "region", row->id);
    jout_text(o, "name", row->name[0] ? row->name : NULL);
    jout_text(o, "model", model);
    jout_text(o, "hash", row->hash);
    answer_stored(o, row);
    return answer_text(o, row->summary, strlen(row->summary), e);
}

bool api_regions(struct call *c, struct reply *r, struct err *e) { return page_stored(c, r, "region", true, "regions", put_head, e); }

bool api_region_get(struct call *c, struct reply *r, struct err *e)
{
    struct artefact_row row;
    struct buf content = {0};
    const struct served *s = call_served(c, c->query, e);
    if (!s || !ledger_artefact(c->reader, "region", s->row.id, c->param[0], &row, e)) return false;
    struct served *whose = models_find_row(daemon_models(c->daemon), row.model);
    jout *o = jout_object();
    bool ok = put_head(o, &row, whose ? whose->name : row.model, e) && ledger_artefact_content(c->reader, &row, &content, e);
    const char *members = ok ? strstr(content.data, "\"members\":") : NULL;
    if (members) { /* trusted text of ours: {"unit":…,"members":[…]} */
        content.data[content.len - 1] = '\0';
        jout_raw(o, "members", members + strlen("\"members\":"));
    }
    served_drop(whose);
    buf_release(&content);
    artefact_row_release(&row);
    if (ok) return answer_reply(r, o, e);
    jout_free(o);
    return false;
}
