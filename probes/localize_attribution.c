/* Localizer `attribution`: signed estimates of what patching each unit's z would do, from one pass back. */
#include "attribution.h"
#include "localizer.h"

static const enum hook z = HOOK_Z;

struct estimates {
    struct localizer_ask q;
    struct attribution *attribution;
};

static struct attribution_request request_of(const struct localizer_ask *q)
{
    return (struct attribution_request){.view = q->patch.view, .pair = q->patch.pair, .n_pairs = q->patch.n_pairs,
                                        .n_metrics = q->patch.n_metrics, .denoise = q->patch.denoise, .site = &z, .n_sites = 1,
                                        .axis = q->patch.axis};
}

static void plan(const struct localizer_ask *q, int threads, struct plan *p)
{
    const struct attribution_request r = request_of(q);
    attribution_plan(&r, threads, p);
}

static void *open(const struct localizer_ask *q, struct err *e)
{
    struct estimates *x = mem_new(sizeof *x);
    const struct attribution_request r = request_of(q);
    x->q = *q;
    x->attribution = attribution_new(&r, e);
    if (x->attribution) return x;
    mem_drop(x);
    return NULL;
}

static enum step step(void *state, struct session *s, struct err *e)
{
    return attribution_step(((struct estimates *)state)->attribution, s, e);
}

static void progress(const void *state, size_t *done, size_t *total)
{
    attribution_progress(((const struct estimates *)state)->attribution, done, total);
}

static void close(void *state)
{
    struct estimates *x = state;
    if (x) attribution_free(x->attribution);
    mem_drop(x);
}

static const struct patch_grid *grid(const void *state)
{
    return attribution_grid(((const struct estimates *)state)->attribution, 0);
}

static double value(const void *state, size_t row, size_t unit)
{
    const struct patch_scores *s = &grid(state)->scores[row];
    return localizer_towards(s, ((const struct estimates *)state)->q.patch.denoise, s->values[unit]);
}

const struct localizer localizer_attribution = {.plan = plan, .open = open, .step = step, .progress = progress, .close = close,
                                                .value = value, .grid = grid};
