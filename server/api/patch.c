/* POST /v1/patch: one grid, in one sweep. */
#include <stdio.h>
#include <string.h>

#include "handlers.h"
#include "server/clock.h"
#include "pair.h"

/* What a grid can go by, behind "layer". */
static const struct axes {
    const char *word[2];
    bool head, pos;
    enum patch_axis axis;
} axes_known[] = {
    {{NULL, NULL}, false, false, PATCH_LAYER},
    {{"pos", NULL}, false, true, PATCH_LAYER_POS},
    {{"head", NULL}, true, false, PATCH_LAYER_HEAD},
    {{"head", "pos"}, true, true, PATCH_LAYER_HEAD_POS},
};

struct patch_work {
    struct look look;
    struct pair pair;
    struct patch *patch;
    const struct axes *axes;
    enum hook site;
};

static bool same_words(const char *const a[2], const char *const b[2])
{
    for (int i = 0; i < 2; i++)
        if (!a[i] != !b[i] || (a[i] && strcmp(a[i], b[i]) != 0)) return false;
    return true;
}

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
    for (uint32_t i = 0; g->n_pos > 1 && i < g->n_pos; i++)
        if (i < *g->first_difference || i > p->pair.metric.pos) jout_int(list, NULL, i);
}

/* Nested by the axes there are. */
static void put_values(const struct patch_grid *g, const struct axes *has, jout *root)
{
    const double *at = g->scores->values;
    jout *layers = jout_put_array(root, "values");
    if (!has->head && !has->pos) {
        for (uint32_t l = 0; l < g->n_layers; l++) jout_f64(layers, NULL, at[l]);
        return;
    }
    for (uint32_t l = 0; l < g->n_layers; l++) {
        jout *heads = has->head && has->pos ? jout_put_array(layers, NULL) : layers;
        uint32_t rows = has->pos ? g->n_heads : 1, width = has->pos ? g->n_pos : g->n_heads;
        for (uint32_t h = 0; h < rows; h++, at += width) jout_f64s(heads, NULL, at, width);
    }
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
    const struct axes *has = p->axes;
    if (has->head) put_range(axes, "head", g->n_heads);
    if (has->pos) put_range(axes, "pos", g->n_pos);
    put_values(g, has, root);
    pair_echo(&p->pair, &p->look, g, root);
    put_skipped(p, g, root);
    jout *checks = jout_put_object(root, "checks");
    jout_f64(checks, "identity", g->check_identity);
    jout_f64(checks, "full", g->check_full);
    put_cost(p, g, root);
    if (*g->first_difference == p->pair.clean.n)
        look_warn(&p->look, "same-prompts", "clean and corrupt are the same tokens: no cell can differ");
    return look_close(&p->look, root, o, e);
}

static const struct work_ops ops = {
    .kind = "patch", .unit = "cells",
    .step = patch_work_step, .finish = patch_work_finish, .free = patch_work_free,
};

/* Sites in the order of a block, as they are spelled behind "blocks.{l}.". */
static bool choose_site(struct patch_work *p, const struct json *q, struct err *e)
{
    const char *word = json_get(q, "site")->text, *why;
    const struct arch *a = &look_model(&p->look)->arch;
    for (unsigned h = 0; h < HOOK_COUNT; h++) {
        const struct hook_info *i = hook_info((enum hook)h);
        if (i->scope != SCOPE_LAYER || strcmp(i->spelling, word) != 0) continue;
        p->site = (enum hook)h;
        why = hook_absent(a, p->site);
        return !why || err_field(e, ERR_INVALID, "site", "%s has no %s: %s", a->family, word, why);
    }
    return err_field(e, ERR_INVALID, "site", "\"%s\" is no site of a layer", word);
}

static bool choose_axes(struct patch_work *p, const struct json *q, struct err *e)
{
    const struct json *axes = json_get(q, "axes");
    bool heads = hook_info(p->site)->axis != AXIS_PLAIN;
    if (strcmp(axes->child->text, "layer") != 0) return err_field(e, ERR_INVALID, "axes", "the first axis is \"layer\"");
    for (const struct json *a = axes->child; a; a = a->next)
        for (const struct json *b = a->next; b; b = b->next)
            if (strcmp(a->text, b->text) == 0) return err_field(e, ERR_INVALID, "axes", "\"%s\" is named twice", a->text);
    for (size_t i = 0; i < sizeof axes_known / sizeof *axes_known; i++) {
        const struct json *second = axes->child->next, *third = second ? second->next : NULL;
        const char *words[2] = {second ? second->text : NULL, third ? third->text : NULL};
        if (same_words(axes_known[i].word, words)) p->axes = &axes_known[i];
    }
    if (!p->axes)
        return err_field(e, ERR_INVALID, "axes", "the axes are [\"layer\"], [\"layer\",\"pos\"], [\"layer\",\"head\"] or "
                         "[\"layer\",\"head\",\"pos\"]");
    return !p->axes->head || heads ||
           err_field(e, ERR_INVALID, "axes", "%s has no heads; its axes are [\"layer\",\"pos\"]", hook_info(p->site)->spelling);
}

static bool prepare(struct patch_work *p, struct call *c, struct err *e)
{
    struct look *l = &p->look;
    if (!look_begin(l, c, &ops, e) || !choose_site(p, l->request, e) || !choose_axes(p, l->request, e) || !pair_read(&p->pair, l, e) ||
        !look_find(l, c, e))
        return false;
    if (look_cached(l)) return true;
    struct patch_request q = pair_request(&p->pair, l);
    q.site = p->site;
    q.axis = p->axes->axis;
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
