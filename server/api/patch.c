/* POST /v1/patch: a grid of every pair by every metric, in one sweep. */
#include <string.h>

#include "core/site.h"
#include "dry_run.h"
#include "handlers.h"
#include "patch_answer.h"
#include "place.h"
#include "server/clock.h"

static const struct patch_axes axes_known[] = {
    {{NULL, NULL}, false, false, false, PATCH_LAYER},
    {{"pos", NULL}, false, true, false, PATCH_LAYER_POS},
    {{"head", NULL}, true, false, false, PATCH_LAYER_HEAD},
    {{"head", "pos"}, true, true, false, PATCH_LAYER_HEAD_POS},
    {{"neuron", NULL}, true, false, true, PATCH_LAYER_HEAD},
    {{"neuron", "pos"}, true, true, true, PATCH_LAYER_HEAD_POS},
};

struct patch_work {
    struct look look;
    struct pairs pairs;
    struct patch_request request;
    struct patch *patch;
    struct patch_stats *stats;
    const struct patch_axes *axes;
    struct resolved source;       /* the view values come from; view NULL where it is the request's own */
    int64_t checks_us;            /* spent on recomputing cells */
};

static struct patch_work *of(struct work *w) { return (struct patch_work *)w; }

static void patch_work_free(struct work *w)
{
    patch_stats_free(of(w)->stats);
    patch_free(of(w)->patch);
    pairs_release(&of(w)->pairs);
    resolved_release(&of(w)->source);
    look_release(&of(w)->look);
    mem_drop(w);
}

/* ---- steps --------------------------------------------------------------------------------------- */

static struct patch_stats *begin_stats(const struct patch_work *p, struct err *e)
{
    const struct patch_stats_request q = {.patch = &p->request, .grid = patch_result(p->patch), .group = p->pairs.group,
                                          .n_groups = p->pairs.n_groups, .seed = (uint64_t)p->look.seed, .level = 0.95};
    return patch_stats_new(&q, e);
}

static enum step step_patch(struct patch_work *p, struct session *s, struct err *e)
{
    const bool checking = patch_checking(p->patch);
    const int64_t start = monotonic_us();
    size_t done, total;
    enum step step = patch_step(p->patch, s, e);
    if (checking) p->checks_us += monotonic_us() - start;
    patch_progress(p->patch, &done, &total);
    p->look.work.done = (int64_t)done;
    p->look.work.total = (int64_t)total;
    return step;
}

static enum step patch_work_step(struct work *w, struct session *s, struct err *e)
{
    struct patch_work *p = of(w);
    if (look_cached(&p->look)) return STEP_DONE;
    if (p->stats) return patch_stats_step(p->stats, e);
    enum step step = step_patch(p, s, e);
    if (step != STEP_DONE || !p->pairs.listed) return step;
    p->stats = begin_stats(p, e);
    return p->stats ? STEP_MORE : STEP_FAIL;
}

static void put_cost(const struct patch_work *p, const struct patch_cost *c, jout *root)
{
    const double seconds = (double)(monotonic_us() - p->look.work.started_us) / US_PER_S;
    jout *o = jout_put_object(root, "cost");
    jout_int(o, "cells", (int64_t)c->cells);
    jout_int(o, "cells_run", (int64_t)c->cells_run);
    jout_int(o, "rows", (int64_t)c->rows);
    jout_f64(o, "flops", c->flops);
    jout_f64(o, "seconds", seconds);
    jout_f64(o, "checks_seconds", (double)p->checks_us / US_PER_S);
}

static jout *put_answer(struct patch_work *p, const struct patch_grid *grid, jout *root)
{
    const struct patch_told told = {&p->pairs, p->axes, p->request.block, grid, p->stats};
    if (p->source.view) answer_view(root, "against", &p->source);
    patch_answer(&told, &p->look, root);
    put_cost(p, &grid->cost, root);
    return root;
}

static bool patch_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct patch_work *p = of(w);
    if (look_cached(&p->look)) return look_answer_cached(&p->look, o, e);
    const struct patch_grid *grid = patch_result(p->patch);
    rate_seen(daemon_rate(w->daemon), grid->cost.all_flops, (double)(monotonic_us() - w->started_us) / US_PER_S);
    return look_close(&p->look, put_answer(p, grid, look_open(&p->look)), o, e);
}

static bool patch_work_partial(struct work *w, struct buf *out)
{
    struct patch_work *p = of(w);
    struct err e;
    const struct patch_grid *grid = look_cached(&p->look) ? NULL : patch_partial(p->patch);
    if (!grid) return false;
    jout *root = jout_object();
    answer_view(root, "view", &p->look.view);
    bool ok = jout_print(put_answer(p, grid, root), out, &e);
    jout_free(root);
    return ok;
}

static const struct work_ops ops = {
    .kind = "patch", .unit = "cells",
    .step = patch_work_step, .finish = patch_work_finish, .partial = patch_work_partial, .free = patch_work_free,
};

/* ---- the request --------------------------------------------------------------------------------- */

static bool choose_site(struct patch_work *p, const struct json *q, struct err *e)
{
    const char *word = json_get(q, "site")->text;
    const struct arch *a = &look_model(&p->look)->arch;
    struct site site = {0};
    struct err not_a_word;
    if (!site_of_words(a, &(struct site_words){.word = word, .has_layer = true}, &site, &not_a_word) &&
        !hook_parse(word, &site.hook, e))
        return place_blame(e, "site");
    const struct hook_info *info = hook_info(site.hook);
    const char *why = hook_absent(a, site.hook);
    if (why) return err_field(e, ERR_INVALID, "site", "%s has no %s: %s", a->family, word, why);
    p->request.site = site.hook;
    return (info->scope == SCOPE_LAYER && info->writable) ||
           err_field(e, ERR_INVALID, "site", "%s is no hook of a layer that can be written, such as hook_resid_pre", info->spelling);
}

static bool same_words(const struct patch_axes *a, const struct json *second)
{
    for (int i = 0; i < 2; i++, second = second ? second->next : NULL)
        if (!a->word[i] != !second || (second && strcmp(a->word[i], second->text) != 0)) return false;
    return true;
}

static bool choose_axes(struct patch_work *p, const struct json *q, struct err *e)
{
    const struct json *axes = json_get(q, "axes");
    const struct hook_info *site = hook_info(p->request.site);
    for (const struct json *a = axes->child; a; a = a->next)
        for (const struct json *b = a->next; b; b = b->next)
            if (strcmp(a->text, b->text) == 0) return err_field(e, ERR_INVALID, "axes", "\"%s\" is named twice", a->text);
    if (strcmp(axes->child->text, "layer") != 0) return err_field(e, ERR_INVALID, "axes", "the first axis is \"layer\"");
    for (size_t i = 0; i < sizeof axes_known / sizeof *axes_known; i++)
        if (same_words(&axes_known[i], axes->child->next)) p->axes = &axes_known[i];
    if (!p->axes) return err_field(e, ERR_INVALID, "axes", "behind \"layer\" come \"pos\", \"head\" or \"neuron\", and \"pos\" behind these");
    p->request.axis = p->axes->axis;
    if (p->axes->block) p->request.block = (uint32_t)json_get(q, "block")->integer;
    if (p->axes->block && site->axis != AXIS_PLAIN)
        return err_field(e, ERR_INVALID, "axes", "%s has heads; its axis is \"head\", not \"neuron\"", site->spelling);
    return !p->axes->head || p->axes->block || site->axis != AXIS_PLAIN ||
           err_field(e, ERR_INVALID, "axes", "%s has no heads; its axes are [\"layer\",\"pos\"]", site->spelling);
}

static bool choose_source(struct patch_work *p, struct call *c, const struct json *q, struct err *e)
{
    const struct json *from = json_get(q, "from"), *window = json_get(q, "window");
    if (window) {
        p->request.before = (uint32_t)json_get(window, "before")->integer;
        p->request.after = (uint32_t)json_get(window, "after")->integer;
    }
    if (from->type == JSON_STRING) {
        p->request.from = strcmp(from->text, "zero") == 0 ? PATCH_FROM_ZERO : PATCH_FROM_OTHER;
        return true;
    }
    if (!look_view(&p->look, c, json_get(from, "view")->text, &p->source, e)) return place_blame(e, "from.view");
    look_also(&p->look, &p->source);
    return true;
}

/* Values by position stand in one table: all pairs must have them. And all must fit an answer. */
static bool bounded(const struct patch_work *p, struct err *e)
{
    enum { MOST_VALUES = 8388608 };
    uint32_t heads, pos;
    const struct pairs *q = &p->pairs;
    patch_columns(&p->request, &heads, &pos);
    for (size_t i = 1; p->axes->pos && i < q->n; i++)
        if (q->asked[i].n != q->asked->n)
            return err_field(e, ERR_INVALID, "pairs", "pair %zu has %u tokens and the first %u; with an axis of positions all "
                             "have the same", i, q->asked[i].n, q->asked->n);
    size_t cells = plan_times(plan_times(heads, pos), look_model(&p->look)->arch.n_layers);
    size_t values = plan_times(plan_times(cells, q->n_metrics), q->n + (q->listed ? 6 : 0));
    return values <= MOST_VALUES || err_field(e, ERR_TOO_LARGE, "pairs", "%zu values would be answered, at most %d", values, MOST_VALUES);
}

static bool tell_cost(struct patch_work *p, const struct plan *plan, struct err *e)
{
    struct patch_cost c;
    if (!patch_forecast(&p->request, &c, e)) return false;
    dry_run(&p->look, &(struct forecast){.cells = c.cells, .cells_run = c.cells_run, .rows = c.rows, .flops = c.all_flops}, plan);
    return true;
}

static bool prepare(struct patch_work *p, struct call *c, struct err *e)
{
    struct look *l = &p->look;
    struct plan plan = {0};
    if (!look_begin(l, c, &ops, e)) return false;
    if (!choose_site(p, l->request, e) || !choose_axes(p, l->request, e) || !choose_source(p, c, l->request, e) ||
        !pairs_read(&p->pairs, l, c, e))
        return false;
    l->seed = json_get(l->request, "seed")->integer;
    pairs_ask(&p->pairs, l, &p->request);
    p->request.source = p->source.view;
    p->request.n_naive = (uint32_t)json_get(l->request, "check_cells")->integer;
    p->request.seed = (uint64_t)l->seed;
    if (!bounded(p, e)) return false;
    const bool dry = dry_run_asked(l);
    if (!dry && !look_find(l, c, e)) return false;
    if (look_cached(l)) return true;
    patch_plan(&p->request, daemon_threads(c->daemon), &plan);
    if (p->pairs.listed) patch_stats_plan(&p->request, p->pairs.n_groups, &plan);
    if (dry) return tell_cost(p, &plan, e);
    p->patch = look_lease(l, &plan, e) ? patch_new(&p->request, e) : NULL;
    return p->patch != NULL;
}

struct work *api_patch(struct call *c, struct err *e)
{
    struct patch_work *p = mem_new(sizeof *p);
    if (prepare(p, c, e)) return &p->look.work;
    patch_work_free(&p->look.work);
    return NULL;
}
