/* Taps at work: the values of one hook meet the listeners of one pass. */
#include <math.h>
#include <string.h>

#include "hook.h"

/* ---- which taps ----------------------------------------------------------------------------------- */

static bool at_site(const struct tap *t, enum hook h, uint32_t layer)
{
    return t->site.hook == h && t->site.layer == layer;
}

bool taps_any(const struct taps *t, enum hook h, uint32_t layer)
{
    for (size_t i = 0; t && i < t->n; i++)
        if (at_site(&t->tap[i], h, layer)) return true;
    return false;
}

bool taps_write(const struct taps *t, enum hook h, uint32_t layer)
{
    for (size_t i = 0; t && i < t->n; i++)
        if (at_site(&t->tap[i], h, layer) && t->tap[i].op != TAP_READ) return true;
    return false;
}

static size_t find(const uint32_t *list, size_t n, uint32_t value)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == value) return i;
    return n;
}

bool taps_head(const struct taps *t, enum hook h, uint32_t layer, uint32_t head)
{
    for (size_t i = 0; t && i < t->n; i++) {
        const struct tap *p = &t->tap[i];
        if (at_site(p, h, layer) && (!p->head || find(p->head, p->n_head, head) < p->n_head)) return true;
    }
    return false;
}

/* ---- one vector ----------------------------------------------------------------------------------- */

static void change(struct tap *t, float *x, float to)
{
    float moved = fabsf(to - *x);
    if (moved > t->max_change || isnan(moved)) t->max_change = moved; /* a NaN stays to be seen */
    t->elements++;
    *x = to;
}

static void map(struct tap *t, uint32_t pos, uint32_t head, float *x, uint32_t n)
{
    t->map->forward(t->map->ctx, pos, head, x, n);
    t->elements += n;
    if (t->map->changed) t->max_change = *t->map->changed;
}

/* read_at, write_at: the vector's place in the tap's dst and src. */
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
    case TAP_MAP: break; /* knows its position: fire_row */
    }
}

static void touch_back(const struct tap *t, float *g, uint32_t n)
{
    const float by = t->op == TAP_SET ? 1.0f - t->weight : t->weight;
    if (t->op != TAP_SET && t->op != TAP_SCALE) return;
    for (uint32_t i = 0; i < n; i++) g[i] *= by;
}

/* ---- plain, query and kv hooks -------------------------------------------------------------------- */

/* Rows of one head of a hook of `heads`, which is number `slot` of the `count` heads the tap's data hold. A row
 * of all heads has `whole` values, of which this head's begin at `from`. */
struct rows {
    uint32_t first_pos, n, width, head;
    size_t whole, from;
    size_t slot, count, stride;
    float *data;
    bool back; /* gradients, through the writes */
};

/* at: number of the row's position in the tap's data. */
static void fire_row(struct tap *t, const struct rows *r, size_t at, uint32_t row)
{
    size_t src_at = t->n_src_pos <= 1 ? 0 : at;
    if (t->n_src_pos > 1 && src_at >= t->n_src_pos) return;
    float *x = r->data + row * r->stride;
    if (t->op == TAP_MAP) {
        if (r->back) t->map->back(t->map->ctx, r->first_pos + row, r->head, x, r->width);
        else map(t, r->first_pos + row, r->head, x, r->width);
        return;
    }
    if (r->back) {
        touch_back(t, x, r->width);
        return;
    }
    size_t write_at = t->src_whole ? (t->n_src_pos <= 1 ? 0 : ((size_t)r->first_pos + row) * r->whole) + r->from : (src_at * r->count + r->slot) * r->width;
    touch(t, x, r->width, (at * r->count + r->slot) * r->width, write_at);
}

static void fire_rows(struct tap *t, const struct rows *r)
{
    if (t->every_pos) {
        for (uint32_t row = 0; row < r->n; row++) fire_row(t, r, r->first_pos + row, row);
        return;
    }
    size_t low = 0, high = t->n_pos; /* the first of its ascending positions among the rows */
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (t->pos[middle] < r->first_pos) low = middle + 1;
        else high = middle;
    }
    for (; low < t->n_pos && t->pos[low] - r->first_pos < r->n; low++)
        fire_row(t, r, low, t->pos[low] - r->first_pos);
}

static bool listens(const struct tap *t, struct site s, uint32_t seq)
{
    return at_site(t, s.hook, s.layer) && t->seq == seq;
}

static size_t heads_of(const struct tap *t, uint32_t n_heads) { return t->head ? t->n_head : n_heads; }
static size_t head_at(const struct tap *t, size_t slot) { return t->head ? t->head[slot] : slot; }

/* Of all heads those that the tap names; its own blocks are heads as well. */
static void fire_heads(struct tap *t, struct rows r, float *data)
{
    const uint32_t each = t->block ? t->block : r.width;
    r.count = heads_of(t, (uint32_t)((r.whole + each - 1) / each));
    for (; r.slot < r.count; r.slot++) {
        r.head = (uint32_t)head_at(t, r.slot);
        r.from = (size_t)r.head * each;
        r.width = r.whole - r.from < each ? (uint32_t)(r.whole - r.from) : each;
        r.data = data + r.from;
        fire_rows(t, &r);
    }
}

void taps_fire(const struct taps *taps, struct site s, uint32_t seq, uint32_t first_pos,
               uint32_t n_rows, float *data, size_t stride, uint32_t n_heads, uint32_t width)
{
    struct rows r = {.first_pos = first_pos, .n = n_rows, .width = width, .whole = (size_t)n_heads * width, .stride = stride};
    for (size_t i = 0; taps && i < taps->n; i++)
        if (listens(&taps->tap[i], s, seq)) fire_heads(&taps->tap[i], r, data);
}

void taps_back(const struct taps *taps, struct site s, uint32_t seq, uint32_t first_pos,
               uint32_t n_rows, float *data, size_t stride, uint32_t n_heads, uint32_t width)
{
    struct rows r = {.first_pos = first_pos, .n = n_rows, .width = width, .whole = (size_t)n_heads * width, .stride = stride,
                     .back = true};
    for (size_t i = taps ? taps->n : 0; i-- > 0;)
        if (listens(&taps->tap[i], s, seq) && taps->tap[i].op != TAP_READ) fire_heads(&taps->tap[i], r, data);
}

void taps_fire_head(const struct taps *taps, struct site s, uint32_t seq, uint32_t first_pos, uint32_t n_rows,
                    uint32_t head, float *data, size_t stride, uint32_t n_heads, uint32_t width)
{
    for (size_t i = 0; taps && i < taps->n; i++) {
        struct tap *t = &taps->tap[i];
        if (!listens(t, s, seq)) continue;
        struct rows r = {.first_pos = first_pos, .n = n_rows, .width = width, .head = head,
                         .whole = (size_t)n_heads * width, .from = (size_t)head * width, .count = heads_of(t, n_heads), .stride = stride, .data = data};
        for (; r.slot < r.count; r.slot++)
            if (head_at(t, r.slot) == head) fire_rows(t, &r);
    }
}

/* ---- source hooks --------------------------------------------------------------------------------- */

/* Row `row` of the tap's data: its values are row[first..n), all else is masked. */
static void read_source(const struct tap *t, float *dst, const float *row, uint32_t first, uint32_t n, float masked)
{
    for (uint32_t j = 0; j < t->n_source; j++) dst[j] = j >= first && j < n ? row[j] : masked;
}

void taps_fire_source(const struct taps *taps, struct site s, uint32_t seq, uint32_t pos, uint32_t head,
                      float *row, uint32_t first_key, uint32_t n_key, float masked)
{
    for (size_t i = 0; taps && i < taps->n; i++) {
        struct tap *t = &taps->tap[i];
        if (!listens(t, s, seq)) continue;
        size_t n_pos = t->every_pos ? t->n_source : t->n_pos;
        size_t at = t->every_pos ? pos : find(t->pos, t->n_pos, pos);
        size_t slot = t->head ? find(t->head, t->n_head, head) : head;
        if (at >= n_pos || (t->head && slot == t->n_head)) continue;
        uint32_t n = n_key < t->n_source ? n_key : t->n_source;
        size_t src_n = t->n_src_pos <= 1 ? 1 : n_pos, src_at = t->n_src_pos <= 1 ? 0 : at;
        size_t write_at = t->src_whole ? (size_t)head * t->n_source + pos : slot * src_n + src_at;
        if (t->op == TAP_READ)
            read_source(t, t->dst + (slot * n_pos + at) * t->n_source, row, first_key, n, masked);
        else if (first_key < n)
            touch(t, row + first_key, n - first_key, 0, write_at * t->n_source + first_key);
    }
}
