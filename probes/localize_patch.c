/* Localizers `patch` and `ablation`: one sweep of the grid of units, from the source's z or from zero. */
#include <math.h>

#include "localizer.h"

struct grid {
    struct localizer_ask q;
    struct patch *patch;
};

static struct grid *open_grid(const struct localizer_ask *q, struct err *e)
{
    struct grid *g = mem_new(sizeof *g);
    g->q = *q;
    g->patch = patch_new(&q->patch, e);
    if (g->patch) return g;
    mem_drop(g);
    return NULL;
}

static enum step step(void *state, struct session *s, struct err *e) { return patch_step(((struct grid *)state)->patch, s, e); }

static void progress(const void *state, size_t *done, size_t *total)
{
    patch_progress(((const struct grid *)state)->patch, done, total);
}

static void close_grid(void *state)
{
    struct grid *g = state;
    if (g) patch_free(g->patch);
    mem_drop(g);
}

static const struct patch_grid *grid_of(const void *state) { return patch_result(((const struct grid *)state)->patch); }

/* What the unit changes of that row. */
static double change(const struct grid *g, const struct patch_scores *s, size_t unit)
{
    return s->values[unit] - (g->q.patch.denoise ? s->corrupt : s->clean);
}

/* ---- patch ------------------------------------------------------------------------------------------- */

static void patch_plan_of(const struct localizer_ask *q, int threads, struct plan *p) { patch_plan(&q->patch, threads, p); }
static void *patch_open(const struct localizer_ask *q, struct err *e) { return open_grid(q, e); }

static double patch_value(const void *state, size_t row, size_t unit)
{
    const struct grid *g = state;
    const struct patch_scores *s = &grid_of(g)->scores[row];
    return localizer_towards(s, g->q.patch.denoise, change(g, s, unit));
}

const struct localizer localizer_patch = {.plan = patch_plan_of, .open = patch_open, .step = step, .progress = progress,
                                          .close = close_grid, .value = patch_value, .grid = grid_of};

/* ---- ablation ---------------------------------------------------------------------------------------- */

/* Of the clean run, which is the base of a patch the other way. */
static struct localizer_ask zeroed(const struct localizer_ask *q)
{
    struct localizer_ask z = *q;
    z.patch.from = PATCH_FROM_ZERO;
    z.patch.denoise = false;
    return z;
}

static void ablation_plan(const struct localizer_ask *q, int threads, struct plan *p)
{
    const struct localizer_ask z = zeroed(q);
    patch_plan(&z.patch, threads, p);
}

static void *ablation_open(const struct localizer_ask *q, struct err *e)
{
    const struct localizer_ask z = zeroed(q);
    return open_grid(&z, e);
}

static double ablation_value(const void *state, size_t row, size_t unit)
{
    const struct grid *g = state;
    return fabs(change(g, &grid_of(g)->scores[row], unit));
}

const struct localizer localizer_ablation = {.plan = ablation_plan, .open = ablation_open, .step = step, .progress = progress,
                                             .close = close_grid, .value = ablation_value, .grid = grid_of};
