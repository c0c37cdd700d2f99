#include "feature_write.h"

#include <math.h>

size_t feature_work(const struct sae_cfg *c) { return sae_work(c, 1) + (c->kind == SAE_TOPK ? c->features : 0); }

const char *feature_write_refused(const struct sae_cfg *c, enum hook at, enum feature_op op)
{
    bool apart = c->head == SAE_ALL_HEADS && hook_info(at)->axis != AXIS_PLAIN;
    if (!apart || (op == FEATURE_ADD && c->norm == SAE_NORM_NONE)) return NULL;
    return "its rows are all heads side by side, which are written one at a time: there only add can be written, without normalisation";
}

/* One head's part of the direction. */
static float add_part(const struct feature_write *w, uint32_t head, float *x, uint32_t n)
{
    const float *row = w->sae->w_dec + (size_t)w->feature * w->sae->cfg.width + (size_t)head * n;
    float most = 0;
    for (uint32_t i = 0; i < n; i++) {
        float old = x[i];
        x[i] += w->weight * row[i];
        float moved = fabsf(x[i] - old);
        if (moved > most || isnan(moved)) most = moved;
    }
    return most;
}

static void forward(void *ctx, uint32_t pos, uint32_t head, float *x, uint32_t n)
{
    struct feature_write *w = ctx;
    float by = w->weight, moved;
    (void)pos;
    if (n != w->sae->cfg.width) {
        moved = add_part(w, head, x, n);
    } else {
        float a = w->op == FEATURE_ADD ? 0 : sae_activation(w->sae, w->feature, x, w->work);
        if (w->op == FEATURE_SET) by = w->weight - a;
        if (w->op == FEATURE_SCALE) by = (w->weight - 1) * a;
        moved = sae_add(w->sae, w->feature, by, x);
    }
    if (moved > w->changed || isnan(moved)) w->changed = moved;
}

const struct tap_map *feature_write_map(struct feature_write *w)
{
    w->map = (struct tap_map){.ctx = w, .forward = forward, .changed = &w->changed};
    return &w->map;
}
