/* POST /v1/localize: rank heads or layers of heads by patching, beside a random control. */
#include <string.h>

#include "handlers.h"
#include "pairs.h"
#include "place.h"
#include "region_expr.h"
#include "server/clock.h"
#include "probes/localize.h"

struct localize_work {
    struct look look;
    struct pairs pairs;
    struct localize *localize;
    bool heads; /* the unit is the head */
    const char *save;          /* the name its region is stored under, with the run; or NULL */
    struct artefact made;
    struct region_told told;
    struct buf content, summary;
};

static struct localize_work *of(struct work *w) { return (struct localize_work *)w; }

static void localize_work_free(struct work *w)
{
    localize_free(of(w)->localize);
    region_told_release(&of(w)->told);
    buf_release(&of(w)->content);
    buf_release(&of(w)->summary);
    pairs_release(&of(w)->pairs);
    look_release(&of(w)->look);
    mem_drop(w);
}

static enum step localize_work_step(struct work *w, struct session *s, struct err *e)
{
    struct localize_work *p = of(w);
    if (look_cached(&p->look)) return STEP_DONE;
    enum step step = localize_step(p->localize, s, e);
    size_t done, total;
    localize_progress(p->localize, &done, &total);
    w->done = (int64_t)done;
    w->total = (int64_t)total;
    return step;
}

static void put_unit(const struct localize_work *p, jout *o, const struct unit *u)
{
    jout_int(o, "layer", u->layer);
    if (p->heads) jout_int(o, "head", u->head);
}

/* The k best as a region of the model. */
static bool make_region(struct localize_work *p, const struct localize_result *r, struct err *e)
{
    const struct model *m = look_model(&p->look);
    uint64_t width = p->heads ? m->arch.n_heads : 1;
    p->told.unit = p->heads ? REGION_HEAD : REGION_LAYER;
    for (uint32_t i = 0; i < r->k; i++) {
        uint64_t part = r->ranking[i].layer * width + r->ranking[i].head;
        if (!region_add(&p->told.set, part, part + 1, e)) return false;
    }
    region_settle(&p->told.set);
    region_summary(&p->told, &p->summary);
    if (!region_write(&p->told, m, &p->content, e) || !buf_ok(&p->summary, e)) return false;
    p->made = (struct artefact){.kind = "region", .model = p->look.view.model_id, .name = p->save, .summary = p->summary.data,
                                .content = p->content.data, .len = p->content.len};
    ledger_new_id("region", p->made.id);
    return true;
}

static bool localize_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct localize_work *p = of(w);
    if (look_cached(&p->look)) return look_answer_cached(&p->look, o, e);
    const struct localize_result *r = localize_result(p->localize);
    if (p->save && !make_region(p, r, e)) return false;
    jout *root = look_open(&p->look), *region = jout_put_object(root, "region");
    jout_text(region, "unit", p->heads ? "head" : "layer");
    jout *members = jout_put_array(region, "members");
    for (uint32_t i = 0; i < r->k; i++) put_unit(p, jout_put_object(members, NULL), &r->ranking[i]);
    jout_f64(region, "effect", r->region_effect);
    if (p->save) jout_text(root, "region_id", p->made.id);
    jout *ranking = jout_put_array(root, "ranking");
    for (size_t i = 0; i < r->n_units; i++) {
        jout *one = jout_put_object(ranking, NULL);
        put_unit(p, one, &r->ranking[i]);
        jout_f64(one, "score", r->ranking[i].score);
    }
    jout *control = jout_put_object(root, "control");
    jout_text(control, "kind", "random sets of the same size, patched together");
    jout_int(control, "n", r->n_control);
    jout_f64(control, "mean", r->control_mean);
    jout_f64(control, "sd", r->control_sd);
    jout_f64(control, "percentile", r->percentile);
    jout_int(control, "seed", p->look.seed);
    if (!r->n_control)
        look_warn(&p->look, "no-control", "fewer units are left than the region has: no random sets were drawn");
    pairs_echo(&p->pairs, 0, 0, &p->look, r->grid->scores, root);
    jout *cost = jout_put_object(root, "cost");
    jout_f64(cost, "seconds", (double)(monotonic_us() - w->started_us) / 1e6);
    if (!look_close(&p->look, root, o, e)) return false;
    if (p->save) o->run.artefact = &p->made;
    return true;
}

static const struct work_ops ops = {
    .kind = "localize", .unit = "cells",
    .step = localize_work_step, .finish = localize_work_finish, .free = localize_work_free,
};

/* Each unit of each set is a write into the joint run. */
static bool bounded(const struct localize_work *p, const struct json *q, struct err *e)
{
    enum { MOST_WRITES = 20000 };
    const struct arch *a = &look_model(&p->look)->arch;
    int64_t units = (int64_t)a->n_layers * (p->heads ? a->n_heads : 1), k = json_get(q, "k")->integer;
    int64_t each = (k < units ? k : units) * (p->heads ? 1 : a->n_heads), n = json_get(q, "n_control")->integer;
    return (n + 1) * each <= MOST_WRITES ||
           err_field(e, ERR_INVALID, "n_control", "%lld sets of %lld heads are too many; k heads times n_control + 1 sets is at most %d",
                     (long long)n + 1, (long long)each, MOST_WRITES);
}

static bool one_pair(const struct json *q, struct err *e)
{
    static const char *const later[] = {"pairs", "metrics"};
    for (size_t i = 0; i < sizeof later / sizeof *later; i++)
        if (json_get(q, later[i])) return err_field(e, ERR_UNSUPPORTED, later[i], "\"%s\" is not served yet", later[i]);
    return true;
}

static bool prepare(struct localize_work *p, struct call *c, struct err *e)
{
    struct look *l = &p->look;
    if (!look_begin(l, c, &ops, e)) return false;
    const char *method = json_get(l->request, "method")->text;
    if (strcmp(method, "patch") != 0)
        return err_field(e, ERR_UNSUPPORTED, "method", "\"%s\" is not served yet", method);
    const struct json *seed = json_get(l->request, "seed"), *save = json_get(l->request, "save");
    p->save = save ? save->text : NULL;
    if (save && !ledger_artefact_name("region", save->text, "save", e)) return false;
    l->seed = seed ? seed->integer : 0;
    p->heads = strcmp(json_get(l->request, "unit")->text, "head") == 0;
    if (!one_pair(l->request, e) || !pairs_read(&p->pairs, l, c, e) || !look_find(l, c, e)) return false;
    if (look_cached(l)) return true;
    if (!bounded(p, l->request, e)) return false;
    struct localize_request q = {.seed = (uint64_t)l->seed,
                                 .k = (uint32_t)json_get(l->request, "k")->integer,
                                 .n_control = (uint32_t)json_get(l->request, "n_control")->integer};
    pairs_ask(&p->pairs, l, &q.patch);
    q.patch.site = HOOK_Z;
    q.patch.axis = p->heads ? PATCH_LAYER_HEAD : PATCH_LAYER;
    struct plan plan = {0};
    localize_plan(&q, daemon_threads(c->daemon), &plan);
    p->localize = look_lease(l, &plan, e) ? localize_new(&q, e) : NULL;
    return p->localize != NULL;
}

struct work *api_localize(struct call *c, struct err *e)
{
    struct localize_work *p = mem_new(sizeof *p);
    if (prepare(p, c, e)) return &p->look.work;
    localize_work_free(&p->look.work);
    return NULL;
}
