/* POST /v1/patch: a grid of every pair by every metric, in one sweep. */
#include <string.h>

#include "dry_run.h"
#include "handlers.h"
#include "patch_answer.h"
#include "patch_source.h"
#include "place.h"
#include "server/clock.h"

struct patch_work {
    struct look look;
    struct pairs pairs;
    struct patch_request request;
    struct patch *patch;
    struct patch_stats *stats;
    bool counted;                 /* they are all there */
    const struct patch_axes *axes;
    struct patch_source source;
    int64_t checks_us;            /* spent on recomputing cells */
};

static struct patch_work *of(struct work *w) { return (struct patch_work *)w; }

static void patch_work_free(struct work *w)
{
    patch_stats_free(of(w)->stats);
    patch_free(of(w)->patch);
    pairs_release(&of(w)->pairs);
    patch_source_release(&of(w)->source);
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
    work_progress(&p->look.work, done, total);
    return step;
}

static enum step step_stats(struct patch_work *p, struct err *e)
{
    enum step step = patch_stats_step(p->stats, e);
    p->counted = step == STEP_DONE;
    return step;
}

static enum step patch_work_step(struct work *w, struct session *s, struct err *e)
{
    struct patch_work *p = of(w);
    if (look_cached(&p->look)) return STEP_DONE;
    if (p->stats) return step_stats(p, e);
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
    const struct patch_told told = {&p->pairs, p->axes, p->request.block, grid, p->counted ? p->stats : NULL, NULL};
    if (p->source.view.view) answer_view(root, "against", &p->source.view);
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

static bool choose_place(struct patch_work *p, const struct json *q, struct err *e)
{
    if (!patch_site_read(json_get(q, "site"), &look_model(&p->look)->arch, &p->request.site, e) ||
        !patch_axes_read(q, p->request.site, &p->axes, &p->request.block, e))
        return false;
    p->request.axis = p->axes->axis;
    return true;
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
    if (!choose_place(p, l->request, e) || !patch_source_read(&p->source, l, c, &p->request, e) ||
        !pairs_read(&p->pairs, l, c, e))
        return false;
    l->seed = json_get(l->request, "seed")->integer;
    pairs_ask(&p->pairs, l, &p->request);
    p->request.n_naive = (uint32_t)json_get(l->request, "check_cells")->integer;
    p->request.seed = (uint64_t)l->seed;
    if (!patch_bounded(&p->pairs, &p->request, e)) return false;
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
