/* POST /v1/patch: one grid, in one sweep. */
#include <stdio.h>
#include <string.h>

#include "handlers.h"
#include "server/clock.h"
#include "pair.h"

struct patch_work {
    struct look look;
    struct pair pair;
    struct patch *patch;
    enum patch_axis axis;
    enum hook site;
};

static struct patch_work *of(struct work *w) { return (struct patch_work *)w; }

static void patch_work_free(struct work *w)
{
    patch_free(of(w)->patch);
    pair_release(&of(w)->pair);
    look_release(&of(w)->look);
    mem_drop(w);
}

static enum step patch_work_step(struct work *w, struct session *s, struct err *e)
{
    struct patch_work *p = of(w);
    if (look_cached(&p->look)) return STEP_DONE;
    enum step step = patch_step(p->patch, s, e);
    size_t done, total;
    patch_progress(p->patch, &done, &total);
    w->done = (int64_t)done;
    w->total = (int64_t)total;
    return step;
}

static void put_range(jout *o, const char *key, uint32_t n)
{
    jout *list = jout_put_array(o, key);
    for (uint32_t i = 0; i < n; i++) jout_int(list, NULL, i);
}

/* Positions whose cells were not run: before the prompts first differ, and after the metric's. */
static void put_skipped(const struct patch_work *p, const struct patch_grid *g, jout *root)
{
    jout *list = jout_put_array(jout_put_object(root, "skipped"), "pos");
    if (p->axis != PATCH_LAYER_POS) return;
    for (uint32_t i = 0; i < g->n_columns; i++)
        if (i < g->first_difference || i > p->pair.metric.pos) jout_int(list, NULL, i);
}

static void put_cost(const struct patch_work *p, const struct patch_grid *g, jout *root)
{
    jout *o = jout_put_object(root, "cost");
    jout_int(o, "cells", (int64_t)g->cells);
    jout_int(o, "cells_run", (int64_t)g->cells_run);
    jout_int(o, "rows", (int64_t)g->rows);
    jout_f64(o, "flops", g->flops);
    jout_f64(o, "seconds", (double)(monotonic_us() - p->look.work.started_us) / 1e6);
}

static bool patch_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct patch_work *p = of(w);
    if (look_cached(&p->look)) return look_answer_cached(&p->look, o, e);
    const struct patch_grid *g = patch_result(p->patch);
    jout *root = look_open(&p->look), *axes = jout_put_object(root, "axes");
    put_range(axes, "layer", g->n_layers);
    put_range(axes, p->axis == PATCH_LAYER_POS ? "pos" : "head", g->n_columns);
    jout *values = jout_put_array(root, "values");
    for (uint32_t l = 0; l < g->n_layers; l++)
        jout_f64s(values, NULL, g->values + (size_t)l * g->n_columns, g->n_columns);
    pair_echo(&p->pair, &p->look, g, root);
    put_skipped(p, g, root);
    jout *checks = jout_put_object(root, "checks");
    jout_f64(checks, "identity", g->check_identity);
    jout_f64(checks, "full", g->check_full);
    put_cost(p, g, root);
    if (g->first_difference == p->pair.clean.n)
        look_warn(&p->look, "same-prompts", "clean and corrupt are the same tokens: no cell can differ");
    return look_close(&p->look, root, o, e);
}

static const struct work_ops ops = {
    .kind = "patch", .unit = "cells",
    .step = patch_work_step, .finish = patch_work_finish, .free = patch_work_free,
};

/* Which grids are served: site and its axes. */
static const struct grid {
    const char *site, *second;
    enum hook hook;
    enum patch_axis axis;
} grids[] = {
    {"hook_resid_pre", "pos", HOOK_RESID_PRE, PATCH_LAYER_POS},
    {"attn.hook_z", "head", HOOK_Z, PATCH_LAYER_HEAD},
};

static bool choose_grid(struct patch_work *p, const struct json *q, struct err *e)
{
    const char *site = json_get(q, "site")->text;
    const struct json *axes = json_get(q, "axes"), *first = axes->child, *second = first->next;
    for (const struct json *a = first; a; a = a->next)
        for (const struct json *b = a->next; b; b = b->next)
            if (strcmp(a->text, b->text) == 0)
                return err_field(e, ERR_INVALID, "axes", "\"%s\" is named twice", a->text);
    if (strcmp(first->text, "layer") != 0)
        return err_field(e, ERR_INVALID, "axes", "the first axis is \"layer\"");
    bool known = false;
    for (size_t i = 0; i < sizeof grids / sizeof *grids; i++) {
        if (strcmp(grids[i].site, site) != 0) continue;
        known = true;
        if (axes->len == 2 && strcmp(grids[i].second, second->text) == 0) {
            p->site = grids[i].hook;
            p->axis = grids[i].axis;
            return true;
        }
    }
    if (strcmp(site, "hook_resid_pre") == 0 && strcmp(second->text, "head") == 0)
        return err_field(e, ERR_INVALID, "axes", "hook_resid_pre has no heads; its axes are [\"layer\",\"pos\"]");
    return err_field(e, ERR_UNSUPPORTED, known ? "axes" : "site",
                     "\"%s\" over these axes is not served yet; hook_resid_pre goes by [\"layer\",\"pos\"], "
                     "attn.hook_z by [\"layer\",\"head\"]", site);
}

static bool prepare(struct patch_work *p, struct call *c, struct err *e)
{
    struct look *l = &p->look;
    if (!look_begin(l, c, &ops, e) || !choose_grid(p, l->request, e) || !pair_read(&p->pair, l, e) ||
        !look_find(l, c, e))
        return false;
    if (look_cached(l)) return true;
    struct patch_request q = pair_request(&p->pair, l);
    q.site = p->site;
    q.axis = p->axis;
    struct plan plan = {0};
    patch_plan(&q, daemon_threads(c->daemon), &plan);
    p->patch = look_lease(l, &plan, e) ? patch_new(&q, e) : NULL;
    return p->patch != NULL;
}

struct work *api_patch(struct call *c, struct err *e)
{
    struct patch_work *p = mem_new(sizeof *p);
    if (prepare(p, c, e)) return &p->look.work;
    patch_work_free(&p->look.work);
    return NULL;
}
