#include "hook.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct hook_info infos[] = {
#define HOOK(name, suffix, axis, width, what) {suffix, AXIS_##axis, what},
#include "hook.def"
#undef HOOK
};
static_assert(sizeof infos / sizeof *infos == HOOK_COUNT, "one description per hook");

const struct hook_info *hook_info(enum hook h)
{
    assert((unsigned)h < HOOK_COUNT);
    return &infos[h];
}

uint32_t hook_width(const struct arch *a, enum hook h)
{
    switch (h) {
#define HOOK(name, suffix, axis, width, what)                                                      \
    case HOOK_##name: return AXIS_##axis == AXIS_SOURCE ? 0 : a->width;
#include "hook.def"
#undef HOOK
    case HOOK_COUNT: break;
    }
    return 0;
}

uint32_t hook_heads(const struct arch *a, enum hook h)
{
    switch (hook_info(h)->axis) {
    case AXIS_PLAIN: return 1;
    case AXIS_KV: return a->n_kv_heads;
    case AXIS_QUERY:
    case AXIS_SOURCE: break;
    }
    return a->n_heads;
}

bool hook_parse(const char *suffix, enum hook *out, struct err *e)
{
    for (unsigned h = 0; h < HOOK_COUNT; h++)
        if (strcmp(infos[h].suffix, suffix) == 0) {
            *out = (enum hook)h;
            return true;
        }
    /* The bare last word is what people forget the module of: hook_z for attn.hook_z. */
    for (unsigned h = 0; h < HOOK_COUNT; h++) {
        const char *dot = strchr(infos[h].suffix, '.');
        if (dot && strcmp(dot + 1, suffix) == 0)
            return err_set(e, ERR_INVALID, "unknown hook \"%s\"; did you mean \"%s\"?", suffix,
                           infos[h].suffix);
    }
    return err_set(e, ERR_INVALID,
                   "unknown hook \"%s\"; the hooks are listed at /v1/models/{name}/hooks", suffix);
}

bool site_parse(const struct arch *a, const char *text, struct site *out, struct err *e)
{
    unsigned layer;
    int used = 0;
    if (sscanf(text, "blocks.%9u.%n", &layer, &used) != 1 || used == 0)
        return err_set(e, ERR_INVALID,
                       "unknown site \"%s\"; a site looks like blocks.%u.attn.hook_z", text,
                       a->n_layers / 2);
    if (layer >= a->n_layers)
        return err_set(e, ERR_INVALID, "layer %u of \"%s\" is outside 0..%u", layer, text,
                       a->n_layers - 1);
    char canonical[64];
    out->layer = layer;
    if (!hook_parse(text + used, &out->hook, e)) return false;
    site_text(*out, canonical); /* refuses "blocks.05." and "blocks.+5." */
    return strcmp(canonical, text) == 0 ||
           err_set(e, ERR_INVALID, "unknown site \"%s\"; did you mean \"%s\"?", text, canonical);
}

void site_text(struct site s, char out[64])
{
    (void)snprintf(out, 64, "blocks.%u.%s", s.layer, hook_info(s.hook)->suffix);
}

bool taps_any(const struct taps *t, enum hook h, uint32_t layer)
{
    for (size_t i = 0; t && i < t->n; i++)
        if (t->tap[i].site.hook == h && t->tap[i].site.layer == layer) return true;
    return false;
}

static void change(struct tap *t, float *x, float to)
{
    float moved = fabsf(to - *x);
    if (!(moved <= t->max_change)) t->max_change = moved; /* a NaN stays to be seen */
    t->elements++;
    *x = to;
}

/* One vector of `n` values: slot is its place in the tap's own data. */
static void touch(struct tap *t, float *x, uint32_t n, size_t read_at, size_t write_at)
{
    const float w = t->weight, *src = t->src ? t->src + write_at : NULL;
    switch (t->op) {
    case TAP_READ: memcpy(t->dst + read_at, x, n * sizeof *x); break;
    case TAP_SCALE:
        for (uint32_t i = 0; i < n; i++) change(t, x + i, w * x[i]);
        break;
    case TAP_ADD:
        for (uint32_t i = 0; i < n; i++) change(t, x + i, x[i] + w * (src ? src[i] : 0.0f));
        break;
    case TAP_SET: /* at w = 1 the source itself, so that a full patch is exact */
        for (uint32_t i = 0; i < n; i++) {
            float s = src ? src[i] : 0.0f;
            change(t, x + i, w == 1.0f ? s : (1.0f - w) * x[i] + w * s);
        }
        break;
    }
}

/* The tap's heads at one position. at: index of the position in the tap's list. */
static void fire_row(struct tap *t, size_t at, float *row, uint32_t n_heads, uint32_t width)
{
    size_t count = t->head ? t->n_head : n_heads;
    size_t src_at = t->n_src_pos <= 1 ? 0 : at;
    if (t->n_src_pos > 1 && src_at >= t->n_src_pos) return;
    for (size_t h = 0; h < count; h++) {
        size_t head = t->head ? t->head[h] : h;
        touch(t, row + head * width, width, (at * count + h) * width,
              (src_at * count + h) * width);
    }
}

void taps_fire(const struct taps *taps, struct site s, uint32_t seq, uint32_t first_pos,
               uint32_t n_rows, float *data, size_t stride, uint32_t n_heads, uint32_t width)
{
    for (size_t i = 0; taps && i < taps->n; i++) {
        struct tap *t = &taps->tap[i];
        if (t->site.hook != s.hook || t->site.layer != s.layer || t->seq != seq) continue;
        if (t->every_pos) {
            for (uint32_t r = 0; r < n_rows; r++)
                fire_row(t, first_pos + r, data + r * stride, n_heads, width);
            continue;
        }
        for (size_t p = 0; p < t->n_pos; p++)
            if (t->pos[p] >= first_pos && t->pos[p] - first_pos < n_rows)
                fire_row(t, p, data + (t->pos[p] - first_pos) * stride, n_heads, width);
    }
}

static size_t find(const uint32_t *list, size_t n, uint32_t value)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == value) return i;
    return n;
}

void taps_fire_pattern(const struct taps *taps, uint32_t layer, uint32_t seq, uint32_t pos,
                       uint32_t head, float *row, uint32_t n_key)
{
    for (size_t i = 0; taps && i < taps->n; i++) {
        struct tap *t = &taps->tap[i];
        if (t->site.hook != HOOK_PATTERN || t->site.layer != layer || t->seq != seq) continue;
        size_t n_pos = t->every_pos ? t->n_source : t->n_pos;
        size_t at = t->every_pos ? pos : find(t->pos, t->n_pos, pos);
        size_t ih = t->head ? find(t->head, t->n_head, head) : head;
        if (at >= n_pos || (t->head && ih == t->n_head)) continue;
        uint32_t n = n_key < t->n_source ? n_key : t->n_source;
        size_t src_n = t->n_src_pos <= 1 ? 1 : n_pos, src_at = t->n_src_pos <= 1 ? 0 : at;
        touch(t, row, n, (ih * n_pos + at) * t->n_source,
              (ih * src_n + src_at) * t->n_source);
        if (t->op == TAP_READ && n < t->n_source)
            memset(t->dst + (ih * n_pos + at) * t->n_source + n, 0,
                   (t->n_source - n) * sizeof(float));
    }
}
