/* POST /v1/localize: rank heads or layers of heads by one method or several, beside a random control. */
#include <string.h>

#include "handlers.h"
#include "localize_answer.h"
#include "pairs.h"
#include "place.h"
#include "region_expr.h"
#include "train_rows.h"
#include "server/clock.h"

enum { MOST_METHODS = 8 };

struct localize_work {
    struct look look;
    struct pairs pairs;
    struct train_rows data;    /* in their place */
    struct localize_request request[MOST_METHODS];
    struct localize *localize[MOST_METHODS];
    size_t n, at;              /* methods; the one in hand */
    bool several;              /* they came as a list */
    const char *save;          /* the name its region is stored under, with the run; or NULL */
    struct artefact made;
    struct region_told told;
    struct buf content, summary;
};

static struct localize_work *of(struct work *w) { return (struct localize_work *)w; }

static void localize_work_free(struct work *w)
{
    for (size_t i = 0; i < MOST_METHODS; i++) localize_free(of(w)->localize[i]);
    region_told_release(&of(w)->told);
    buf_release(&of(w)->content);
    buf_release(&of(w)->summary);
    pairs_release(&of(w)->pairs);
    train_rows_release(&of(w)->data);
    look_release(&of(w)->look);
    mem_drop(w);
}

static size_t n_rows(const struct localize_work *p) { return p->data.n ? p->data.n : p->pairs.n; }
static size_t n_groups(const struct localize_work *p) { return p->data.n ? p->data.n_groups : p->pairs.n_groups; }
static bool listed(const struct localize_work *p) { return p->data.n || p->pairs.listed; }

static enum step localize_work_step(struct work *w, struct session *s, struct err *e)
{
    struct localize_work *p = of(w);
    if (look_cached(&p->look)) return STEP_DONE;
    enum step step = localize_step(p->localize[p->at], s, e);
    w->done = w->total = 0;
    for (size_t i = 0; i < p->n; i++) {
        size_t done, total;
        localize_progress(p->localize[i], &done, &total);
        w->done += (int64_t)done;
        w->total += (int64_t)total;
    }
    if (step == STEP_DONE && ++p->at < p->n) return STEP_MORE;
    return step;
}

/* ---- the answer ---------------------------------------------------------------------------------------- */

/* The k best as a region of the model. */
static bool make_region(struct localize_work *p, const struct localize_result *r, struct err *e)
{
    const struct model *m = look_model(&p->look);
    const bool heads = p->request->patch.axis == PATCH_LAYER_HEAD;
    uint64_t width = heads ? m->arch.n_heads : 1;
    p->told.unit = heads ? REGION_HEAD : REGION_LAYER;
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

static void warn(struct localize_work *p)
{
    for (size_t i = 0; i < p->n; i++)
        if (!localize_result(p->localize[i])->k)
            look_warn(&p->look, "empty-region", "%s: no unit's mask is above 0.5", localizer_info(p->request[i].method)->word);
    if (!localize_result(p->localize[0])->n_control && localize_result(p->localize[0])->k)
        look_warn(&p->look, "no-control", "fewer units are left than the region has: no random sets were drawn");
    if (listed(p) && !p->request->split)
        look_warn(&p->look, "one-use", "the region is measured on the rows that chose it, where it looks better than it is: %zu groups, "
                  "of which halves need %d", n_groups(p), HALVES_LEAST);
}

static void put_cost(const struct localize_work *p, jout *root)
{
    size_t runs = 0;
    for (size_t i = 0; i < p->n; i++) {
        const struct localize_result *r = localize_result(p->localize[i]);
        runs += (1 + (size_t)r->n_control) * r->half[1].n;
    }
    jout *cost = jout_put_object(root, "cost");
    jout_int(cost, "joint_runs", (int64_t)runs);
    jout_f64(cost, "seconds", (double)(monotonic_us() - p->look.work.started_us) / 1e6);
}

static bool put_results(struct localize_work *p, jout *root, struct err *e)
{
    struct localize_told told[MOST_METHODS];
    for (size_t i = 0; i < p->n; i++)
        told[i] = (struct localize_told){&p->request[i], localize_result(p->localize[i]), listed(p)};
    if (!p->several) {
        localize_put(told, root);
        return true;
    }
    jout *list = jout_put_array(root, "results");
    for (size_t i = 0; i < p->n; i++) {
        jout *one = jout_put_object(list, NULL);
        jout_text(one, "method", localizer_info(p->request[i].method)->word);
        localize_put(&told[i], one);
    }
    return localize_put_agreement(told, p->n, root, e);
}

static bool localize_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct localize_work *p = of(w);
    if (look_cached(&p->look)) return look_answer_cached(&p->look, o, e);
    const struct localize_result *r = localize_result(p->localize[0]);
    if (p->save && !make_region(p, r, e)) return false;
    jout *root = look_open(&p->look);
    if (!put_results(p, root, e)) {
        jout_free(root);
        return false;
    }
    if (p->save) jout_text(root, "region_id", p->made.id);
    warn(p);
    if (p->pairs.n == 1) pairs_echo(&p->pairs, 0, 0, &p->look, &r->baseline, root);
    put_cost(p, root);
    if (!look_close(&p->look, root, o, e)) return false;
    if (p->save) o->run.artefact = &p->made;
    return true;
}

static const struct work_ops ops = {
    .kind = "localize", .unit = "cells",
    .step = localize_work_step, .finish = localize_work_finish, .free = localize_work_free,
};

/* ---- the request ----------------------------------------------------------------------------------------- */

/* Each set on each pair of its half is a run of the model. */
static bool bounded(const struct localize_work *p, struct err *e)
{
    enum { MOST_RUNS = 300000 };
    const size_t pairs = p->request->split ? (n_rows(p) + 1) / 2 : n_rows(p), sets = 1 + (size_t)p->request->n_control;
    const size_t runs = plan_times(plan_times(sets, pairs), p->n);
    return runs <= MOST_RUNS ||
           err_field(e, ERR_INVALID, "n_control", "%zu sets on %zu pairs are too many; n_control + 1 times pairs and methods is at most %d",
                     sets, pairs, MOST_RUNS);
}

static bool choose_methods(struct localize_work *p, const struct json *method, struct err *e)
{
    p->several = method->type == JSON_ARRAY;
    for (const struct json *v = p->several ? method->child : method; v; v = p->several ? v->next : NULL, p->n++) {
        struct localize_request *q = &p->request[p->n];
        if (!localizer_parse(v->text, &q->method))
            return err_field(e, ERR_UNSUPPORTED, "method", "\"%s\" is not served yet", v->text);
        for (size_t i = 0; i < p->n; i++)
            if (p->request[i].method == q->method) return err_field(e, ERR_INVALID, "method", "%s is named twice", v->text);
    }
    return !p->several || !p->save || err_field(e, ERR_INVALID, "save", "several methods find several regions; name one method");
}

static bool has_gradient(const struct localize_work *p, struct err *e)
{
    const enum metric_kind kind = p->data.n ? METRIC_LOGIT_DIFF : p->pairs.metric->kind;
    for (size_t i = 0; i < p->n; i++)
        switch (p->request[i].method) {
        case LOCALIZER_ATTRIBUTION:
            if (kind != METRIC_NORM_LOGIT_DIFF && !metric_has_gradient(kind))
                return err_field(e, ERR_INVALID, "metric.kind", "%s has no gradient", metric_word(kind));
            break;
        case LOCALIZER_DCM:
            if (kind == METRIC_KL || !metric_has_gradient(kind))
                return err_field(e, ERR_INVALID, "metric.kind", "a mask cannot be learned by %s", metric_word(kind));
            break;
        default: break;
        }
    return true;
}

static bool wants_halves(const struct localize_work *p, const struct json *q, bool *out, struct err *e)
{
    const struct json *halves = json_get(q, "halves");
    const bool enough = n_groups(p) >= HALVES_LEAST;
    *out = halves ? halves->boolean : enough;
    return !*out || enough ||
           err_field(e, ERR_INVALID, "halves", "there are %zu groups of rows, halves need at least %d", n_groups(p), HALVES_LEAST);
}

/* A parameter speaks to every method that has it. */
static bool read_params(const struct localize_work *p, const struct json *params, double out[LOCALIZER_PARAMS], struct err *e)
{
    localizer_defaults(out);
    for (const struct json *v = params->child; v; v = v->next) {
        char field[128];
        bool known = false;
        place_field(field, "params", v->key);
        for (int i = 0; i < LOCALIZER_PARAMS; i++) {
            const struct localizer_param_info *row = localizer_param_info((enum localizer_param)i);
            bool asked = false;
            for (size_t k = 0; k < p->n; k++) asked = asked || p->request[k].method == row->method;
            if (!asked || strcmp(row->name, v->key) != 0) continue;
            if (v->type != JSON_NUMBER || (row->whole && !v->is_int) || v->number < row->least || v->number > row->most)
                return err_field(e, ERR_INVALID, field, "a%s number from %g to %g", row->whole ? " whole" : "", row->least, row->most);
            out[i] = v->number;
            known = true;
        }
        if (!known)
            return err_field(e, ERR_INVALID, field, "%s has no such parameter; /v1/methods lists them", localizer_info(p->request->method)->word);
    }
    return true;
}

static bool ask(struct localize_work *p, const struct json *q, struct err *e)
{
    const struct json *n_control = json_get(q, "n_control");
    struct localize_request common = {.seed = (uint64_t)p->look.seed, .k = (uint32_t)json_get(q, "k")->integer,
                                      .n_control = n_control ? (uint32_t)n_control->integer : listed(p) ? 200 : 20,
                                      .group = p->data.n ? p->data.group : p->pairs.group, .n_groups = n_groups(p),
                                      .example = p->data.example, .n_data = p->data.n, .couples = p->data.couples};
    if (!wants_halves(p, q, &common.split, e)) return false;
    if (!read_params(p, json_get(q, "params"), common.param, e)) return false;
    if (p->pairs.n) pairs_ask(&p->pairs, &p->look, &common.patch);
    common.patch.view = p->look.view.view;
    common.patch.site = HOOK_Z;
    common.patch.axis = strcmp(json_get(q, "unit")->text, "head") == 0 ? PATCH_LAYER_HEAD : PATCH_LAYER;
    for (size_t i = 0; i < p->n; i++) {
        common.method = p->request[i].method;
        p->request[i] = common;
    }
    return has_gradient(p, e) && bounded(p, e);
}

/* What the methods leave is held until the answer. */
static bool begin(struct localize_work *p, int threads, struct err *e)
{
    struct plan plan = {0};
    for (size_t i = 0; i < p->n; i++) localize_plan(&p->request[i], threads, &plan);
    if (!look_lease(&p->look, &plan, e)) return false;
    for (size_t i = 0; i < p->n; i++)
        if (!(p->localize[i] = localize_new(&p->request[i], e))) return false;
    return true;
}

/* Pairs with a metric, or data: what all methods named are shown. */
static bool read_rows(struct localize_work *p, struct call *c, struct err *e)
{
    const struct json *q = p->look.request, *loss = json_get(q, "loss");
    const bool data = localizer_info(p->request->method)->rows == LOCALIZER_DATA;
    for (size_t i = 1; i < p->n; i++)
        if (localizer_info(p->request[i].method)->rows != localizer_info(p->request->method)->rows)
            return err_field(e, ERR_INVALID, "method", "%s is shown pairs and %s data; ask apart", localizer_info(p->request[data ? i : 0].method)->word,
                             localizer_info(p->request[data ? 0 : i].method)->word);
    if (data && !json_get(q, "data") && !json_get(q, "set"))
        return err_field(e, ERR_INVALID, "data", "%s learns from data or a set of such rows", localizer_info(p->request->method)->word);
    if (data && json_get(q, "metric")) return err_field(e, ERR_INVALID, "metric", "data have a loss, not a metric");
    if (data && strcmp(json_get(q, "unit")->text, "head") != 0) return err_field(e, ERR_INVALID, "unit", "scales are of heads");
    if (data) return train_rows_read(&p->data, &p->look, c, loss ? loss->text : NULL, e);
    if (json_get(q, "data") || loss)
        return err_field(e, ERR_INVALID, loss ? "loss" : "data", "%s is shown pairs", localizer_info(p->request->method)->word);
    if (!json_get(q, "metric")) return err_field(e, ERR_INVALID, "metric", "required");
    return pairs_read(&p->pairs, &p->look, c, e);
}

static bool prepare(struct localize_work *p, struct call *c, struct err *e)
{
    struct look *l = &p->look;
    if (!look_begin(l, c, &ops, e)) return false;
    const struct json *q = l->request, *seed = json_get(q, "seed"), *save = json_get(q, "save");
    p->save = save ? save->text : NULL;
    l->seed = seed ? seed->integer : 0;
    if (!choose_methods(p, json_get(q, "method"), e)) return false;
    if (save && !ledger_artefact_name("region", save->text, "save", e)) return false;
    if (json_get(q, "metrics")) return err_field(e, ERR_UNSUPPORTED, "metrics", "\"metrics\" is not served yet");
    if (!read_rows(p, c, e) || !ask(p, q, e) || !look_find(l, c, e)) return false;
    return look_cached(l) || begin(p, daemon_threads(c->daemon), e);
}

struct work *api_localize(struct call *c, struct err *e)
{
    struct localize_work *p = mem_new(sizeof *p);
    if (prepare(p, c, e)) return &p->look.work;
    localize_work_free(&p->look.work);
    return NULL;
}
