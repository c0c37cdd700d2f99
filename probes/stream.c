#include "stream.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/base/random.h"

/* ---- parameters ---------------------------------------------------------------------------------- */

static bool take_all(struct stream_params *p, struct err *e)
{
    size_t places = (size_t)p->arch->n_layers * p->heads;
    p->unit = mem_take(p->n_units, sizeof *p->unit, e);
    p->slot = mem_take(places, sizeof *p->slot, e);
    p->head = mem_take(places, sizeof *p->head, e);
    p->n_head = mem_take(p->arch->n_layers, sizeof *p->n_head, e);
    p->theta = mem_take(p->n, sizeof *p->theta, e);
    p->grad = mem_take(p->n, sizeof *p->grad, e);
    return p->unit && p->slot && p->head && p->n_head && p->theta && p->grad;
}

static void place_units(struct stream_params *p, const struct stream_unit *unit)
{
    const uint32_t per_layer = p->grain == STREAM_LAYER ? 1 : p->heads;
    for (size_t i = 0; i < (size_t)p->arch->n_layers * p->heads; i++) p->slot[i] = STREAM_NONE;
    for (size_t i = 0; i < p->n_units; i++) {
        p->unit[i] = unit ? unit[i] : (struct stream_unit){(uint32_t)(i / per_layer), (uint32_t)(i % per_layer)};
        struct stream_unit u = p->unit[i];
        assert(u.layer < p->arch->n_layers && u.head < per_layer);
        if (u.layer < p->lowest) p->lowest = u.layer;
        for (uint32_t h = 0; h < p->heads; h++)
            if (p->grain == STREAM_LAYER || h == u.head) p->slot[u.layer * p->heads + h] = (uint32_t)i;
    }
    for (uint32_t l = 0; l < p->arch->n_layers; l++)
        for (uint32_t h = 0; h < p->heads; h++)
            if (p->slot[l * p->heads + h] != STREAM_NONE) p->head[l * p->heads + p->n_head[l]++] = h;
}

struct stream_params *stream_params_new(const struct arch *a, enum hook h, enum stream_kind kind, enum stream_grain grain,
                                        const struct stream_unit *unit, size_t n_units, struct err *e)
{
    assert(hook_info(h)->scope == SCOPE_LAYER && hook_info(h)->axis != AXIS_SOURCE && !hook_absent(a, h));
    struct stream_params *p = mem_new(sizeof *p);
    *p = (struct stream_params){.arch = a, .kind = kind, .grain = grain, .hook = h, .heads = hook_heads(a, h),
                                .width = hook_width(a, h), .lowest = a->n_layers - 1};
    p->each = grain == STREAM_CHANNEL ? p->width : 1;
    p->n_units = unit ? n_units : (size_t)a->n_layers * (grain == STREAM_LAYER ? 1 : p->heads);
    p->n = p->n_units * p->each;
    if (!take_all(p, e)) {
        stream_params_free(p);
        return NULL;
    }
    place_units(p, unit);
    return p;
}

void stream_params_free(struct stream_params *p)
{
    if (!p) return;
    mem_drop(p->unit);
    mem_drop(p->slot);
    mem_drop(p->head);
    mem_drop(p->n_head);
    mem_drop(p->theta);
    mem_drop(p->grad);
    mem_drop(p);
}

void stream_params_draw(struct stream_params *p, double std, uint64_t seed)
{
    struct random r;
    random_init(&r, seed);
    for (size_t i = 0; i < p->n; i++) p->theta[i] = (float)(std * random_normal(&r));
}

double stream_unit_norm(const struct stream_params *p, size_t unit)
{
    double sum = 0;
    for (uint32_t i = 0; i < p->each; i++) {
        double x = (double)p->theta[unit * p->each + i];
        sum += x * x;
    }
    return sqrt(sum);
}

/* ---- writes of one pass --------------------------------------------------------------------------- */

struct place { /* one layer of one sequence */
    struct stream_params *p;
    uint32_t layer;
    const struct stream_text *text;
    float *kept; /* [positions][heads with a unit][width] what the write found; NULL where nobody asks */
    struct tap_map map;
};

struct stream_writes {
    struct stream_text *text;
    struct place *place;
    struct taps taps;
    float *kept;
};

static size_t parameters_of(const struct place *c, uint32_t head)
{
    return (size_t)c->p->slot[c->layer * c->p->heads + head] * c->p->each;
}

static float *kept_at(const struct place *c, uint32_t pos, uint32_t head)
{
    const struct stream_params *p = c->p;
    const uint32_t *list = p->head + (size_t)c->layer * p->heads;
    uint32_t at = 0;
    while (list[at] != head) at++;
    return c->kept + ((size_t)pos * p->n_head[c->layer] + at) * p->width;
}

static const float *source_at(const struct place *c, uint32_t pos, uint32_t head)
{
    if (!c->text->source) return NULL;
    size_t row = c->text->n_source > 1 ? pos : 0;
    return c->text->source[c->layer] + (row * c->p->heads + head) * c->p->width;
}

static void forward(void *ctx, uint32_t pos, uint32_t head, float *x, uint32_t n)
{
    const struct place *c = ctx;
    const float *t = c->p->theta + parameters_of(c, head), *src;
    const uint32_t step = c->p->each > 1; /* one for all channels, or one each */
    if (c->kept) memcpy(kept_at(c, pos, head), x, n * sizeof *x);
    switch (c->p->kind) {
    case STREAM_SCALE:
        for (uint32_t i = 0; i < n; i++) x[i] = (1.0f + t[i * step]) * x[i];
        break;
    case STREAM_OFFSET:
        for (uint32_t i = 0; i < n; i++) x[i] += t[i * step];
        break;
    case STREAM_MASK: /* at 0 and 1 exactly the one or the other */
        src = source_at(c, pos, head);
        for (uint32_t i = 0; i < n; i++) x[i] = (1.0f - t[i * step]) * x[i] + t[i * step] * (src ? src[i] : 0.0f);
        break;
    }
}

static void back(void *ctx, uint32_t pos, uint32_t head, float *g, uint32_t n)
{
    const struct place *c = ctx;
    const size_t at = parameters_of(c, head);
    const float *t = c->p->theta + at, *x = c->kept ? kept_at(c, pos, head) : NULL, *src;
    double *d = c->p->grad + at;
    const uint32_t step = c->p->each > 1;
    assert(x || c->p->kind == STREAM_OFFSET);
    switch (c->p->kind) {
    case STREAM_SCALE:
        for (uint32_t i = 0; i < n; i++) {
            d[i * step] += (double)g[i] * (double)x[i];
            g[i] *= 1.0f + t[i * step];
        }
        break;
    case STREAM_OFFSET:
        for (uint32_t i = 0; i < n; i++) d[i * step] += (double)g[i];
        break;
    case STREAM_MASK:
        src = source_at(c, pos, head);
        for (uint32_t i = 0; i < n; i++) {
            d[i * step] += (double)g[i] * ((src ? (double)src[i] : 0.0) - (double)x[i]);
            g[i] *= 1.0f - t[i * step];
        }
        break;
    }
}

static size_t layers_written(const struct stream_params *p)
{
    size_t n = 0;
    for (uint32_t l = 0; l < p->arch->n_layers; l++) n += p->n_head[l] > 0;
    return n;
}

static size_t kept_floats(const struct stream_params *p, size_t rows, bool keep)
{
    size_t heads = 0;
    for (uint32_t l = 0; l < p->arch->n_layers; l++) heads += p->n_head[l];
    return keep && p->kind != STREAM_OFFSET ? plan_times(plan_times(rows, heads), p->width) : 0;
}

size_t stream_writes_bytes(const struct stream_params *p, size_t rows, size_t texts, bool keep)
{
    size_t taps = plan_times(plan_times(texts, layers_written(p)), sizeof(struct tap) + sizeof(struct place));
    return plan_sum(plan_sum(taps, texts * sizeof(struct stream_text)), mem_floats_bytes(kept_floats(p, rows, keep) + 1));
}

static void add_places(struct stream_writes *w, struct stream_params *p, const struct stream_text *text, uint32_t seq,
                       size_t *used)
{
    for (uint32_t l = 0; l < p->arch->n_layers; l++) {
        if (!p->n_head[l]) continue;
        struct place *c = &w->place[w->taps.n];
        *c = (struct place){p, l, text, w->kept ? w->kept + *used : NULL, {.ctx = c, .forward = forward, .back = back}};
        *used += (size_t)text->n * p->n_head[l] * p->width;
        w->taps.tap[w->taps.n++] = (struct tap){
            .site = {p->hook, l}, .op = TAP_MAP, .seq = seq, .every_pos = true, .map = &c->map,
            .head = p->n_head[l] < p->heads ? p->head + (size_t)l * p->heads : NULL, .n_head = p->n_head[l]};
    }
}

struct stream_writes *stream_writes_new(struct stream_params *p, const struct stream_text *text, size_t n, bool keep,
                                        struct err *e)
{
    struct stream_writes *w = mem_new(sizeof *w);
    size_t places = n * layers_written(p), rows = 0, used = 0;
    for (size_t i = 0; i < n; i++) rows += text[i].n;
    w->text = mem_take(n, sizeof *w->text, e);
    w->place = mem_take(places, sizeof *w->place, e);
    w->taps.tap = mem_take(places, sizeof *w->taps.tap, e);
    size_t floats = kept_floats(p, rows, keep);
    if (floats) w->kept = mem_floats(floats, e);
    if (!w->text || !w->place || !w->taps.tap || (floats && !w->kept)) {
        stream_writes_free(w);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        w->text[i] = text[i];
        add_places(w, p, &w->text[i], (uint32_t)i, &used);
    }
    return w;
}

void stream_writes_free(struct stream_writes *w)
{
    if (!w) return;
    mem_drop(w->text);
    mem_drop(w->place);
    mem_drop(w->taps.tap);
    mem_drop(w->kept);
    mem_drop(w);
}

struct taps *stream_writes_taps(struct stream_writes *w) { return &w->taps; }
