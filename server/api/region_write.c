/* A region's canonical form (region_expr.h). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json_write.h"
#include "core/site.h"
#include "region_expr.h"

struct writing {
    const struct region_told *t;
    const struct model *m;
    struct region_space s;
    struct buf *out;
    size_t n; /* members written */
};

static void begin(struct writing *w) { buf_text(w->out, w->n++ ? ",{" : "{"); }

static void put_layer(struct writing *w, size_t lane, uint64_t from, uint64_t to)
{
    (void)lane;
    for (; from < to; from++) {
        begin(w);
        buf_printf(w->out, "\"layer\":%llu}", (unsigned long long)from);
    }
}

static void put_in_layer(struct writing *w, size_t lane, uint64_t from, uint64_t to)
{
    for (; from < to; from++) {
        begin(w);
        buf_printf(w->out, "\"layer\":%zu,\"%s\":%llu}", lane, w->t->unit == REGION_HEAD ? "head" : "neuron", (unsigned long long)from);
    }
}

static void put_site(struct writing *w, size_t lane, uint64_t from, uint64_t to)
{
    char name[64];
    uint64_t n = w->s.first[lane + 1] - w->s.first[lane];
    site_text(site_at(&w->m->arch, lane), name);
    if (to - from == n) {
        begin(w);
        buf_printf(w->out, "\"site\":\"%s\"}", name);
        return;
    }
    for (; from < to; from++) {
        begin(w);
        buf_printf(w->out, "\"site\":\"%s\",\"head\":%llu}", name, (unsigned long long)from);
    }
}

/* ---- tensors: bands of rows that have the same columns ----------------------------------------------------- */

struct band { uint64_t r0, r1, c0, c1; };
struct bands {
    struct band *at;
    size_t n, cap;
    size_t before, last; /* where the last two groups of equal rows begin */
};

static void close_group(struct bands *b)
{
    size_t k = b->n - b->last;
    bool same = b->last > b->before && b->last - b->before == k && b->at[b->before].r1 == b->at[b->last].r0;
    for (size_t i = 0; same && i < k; i++)
        same = b->at[b->before + i].c0 == b->at[b->last + i].c0 && b->at[b->before + i].c1 == b->at[b->last + i].c1;
    if (!same) {
        b->before = b->last;
        b->last = b->n;
        return;
    }
    for (size_t i = 0; i < k; i++) b->at[b->before + i].r1 = b->at[b->last + i].r1;
    b->n = b->last;
}

static bool push(struct bands *b, struct band one, struct err *e)
{
    if (b->n > b->last && b->at[b->last].r0 != one.r0) close_group(b);
    if (b->n == b->cap) {
        size_t cap = b->cap ? 2 * b->cap : 64;
        struct band *more = mem_take(cap, sizeof *more, e);
        if (!more) return false;
        if (b->n) memcpy(more, b->at, b->n * sizeof *more);
        mem_drop(b->at);
        b->at = more;
        b->cap = cap;
    }
    b->at[b->n++] = one;
    return true;
}

/* An interval of elements: the end of a row, whole rows, the start of one. */
static bool push_interval(struct bands *b, uint64_t from, uint64_t to, uint64_t cols, struct err *e)
{
    uint64_t row = from / cols, end = (row + 1) * cols;
    if (from % cols || to < end) {
        uint64_t stop = to < end ? to : end;
        if (!push(b, (struct band){row, row + 1, from % cols, stop - row * cols}, e)) return false;
        from = stop;
    }
    if (to - from >= cols) {
        uint64_t last = to / cols;
        if (!push(b, (struct band){from / cols, last, 0, cols}, e)) return false;
        from = last * cols;
    }
    return from == to || push(b, (struct band){from / cols, from / cols + 1, 0, to - from}, e);
}

static void put_band(struct writing *w, const struct tensor *t, const struct band *b, uint64_t rows, uint64_t cols)
{
    begin(w);
    buf_text(w->out, "\"tensor\":");
    json_write_text(w->out, t->name, strlen(t->name));
    if (b->r0 != 0 || b->r1 != rows) buf_printf(w->out, ",\"rows\":[%llu,%llu]", (unsigned long long)b->r0, (unsigned long long)b->r1);
    if (b->c0 != 0 || b->c1 != cols) buf_printf(w->out, ",\"cols\":[%llu,%llu]", (unsigned long long)b->c0, (unsigned long long)b->c1);
    buf_text(w->out, "}");
}

/* All that lies in one tensor. */
static bool put_tensor(struct writing *w, size_t lane, struct err *e)
{
    const struct tensor *t = &w->m->tensors[lane];
    const struct region *r = &w->t->set;
    uint64_t lo = w->s.first[lane], hi = w->s.first[lane + 1];
    uint64_t rows = (uint64_t)t->rows * t->cols == t->n_elements ? t->rows : 1, cols = t->n_elements / (rows ? rows : 1);
    struct bands b = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < r->n; i++) {
        uint64_t from = r->at[i].from > lo ? r->at[i].from : lo, to = r->at[i].to < hi ? r->at[i].to : hi;
        if (from < to) ok = push_interval(&b, from - lo, to - lo, cols, e);
    }
    if (ok && b.n > b.last) close_group(&b);
    for (size_t i = 0; ok && i < b.n; i++) put_band(w, t, &b.at[i], rows, cols);
    mem_drop(b.at);
    return ok;
}

/* ---- all ---------------------------------------------------------------------------------------------------- */

static int by_text(const void *x, const void *y) { return strcmp(*(const char *const *)x, *(const char *const *)y); }

static bool put_names(struct writing *w, struct err *e)
{
    size_t n = 0;
    const char **name = mem_take(w->t->n_names + 1, sizeof *name, e);
    if (!name) return false;
    for (size_t i = 0; i < w->t->n_names; i++)
        if (region_has(&w->t->set, i)) name[n++] = w->t->name[i];
    qsort(name, n, sizeof *name, by_text);
    for (size_t i = 0; i < n; i++) {
        begin(w);
        buf_text(w->out, "\"span\":");
        json_write_text(w->out, name[i], strlen(name[i]));
        buf_text(w->out, "}");
    }
    mem_drop(name);
    return true;
}

/* Intervals cut at the ends of lanes. */
static bool put_lanes(struct writing *w, void (*put)(struct writing *, size_t, uint64_t, uint64_t), struct err *e)
{
    const struct region *r = &w->t->set;
    if (region_size(r) > REGION_MEMBERS_MOST)
        return err_field(e, ERR_TOO_LARGE, "expr", "the region has more than %d members", REGION_MEMBERS_MOST);
    for (size_t i = 0; i < r->n; i++)
        for (uint64_t from = r->at[i].from; from < r->at[i].to;) {
            size_t lane = region_lane(&w->s, from);
            uint64_t first = w->s.first[lane], end = w->s.first[lane + 1], to = r->at[i].to < end ? r->at[i].to : end;
            put(w, lane, from - first, to - first);
            from = to;
        }
    return true;
}

static bool put_members(struct writing *w, struct err *e)
{
    static void (*const put[REGION_UNITS])(struct writing *, size_t, uint64_t, uint64_t) = {
        [REGION_LAYER] = put_layer, [REGION_HEAD] = put_in_layer, [REGION_NEURON] = put_in_layer, [REGION_SITE] = put_site,
    };
    if (w->t->unit == REGION_POSITION) return put_names(w, e);
    if (w->t->unit != REGION_TENSOR) return put_lanes(w, put[w->t->unit], e);
    for (size_t lane = 0; lane < w->s.n_lanes; lane++)
        if (!put_tensor(w, lane, e)) return false;
    return true;
}

bool region_write(const struct region_told *t, const struct model *m, struct buf *out, struct err *e)
{
    struct writing w = {.t = t, .m = m, .out = out};
    if (!region_space_init(&w.s, m, t->unit, t->n_names, e)) return false;
    buf_printf(out, "{\"unit\":\"%s\",\"members\":[", region_unit_word(t->unit));
    bool ok = put_members(&w, e);
    buf_text(out, "]}");
    region_space_release(&w.s);
    if (ok && w.n > REGION_MEMBERS_MOST) return err_field(e, ERR_TOO_LARGE, "expr", "the region has more than %d members", REGION_MEMBERS_MOST);
    return ok && buf_ok(out, e);
}

void region_summary(const struct region_told *t, struct buf *out)
{
    buf_printf(out, "{\"unit\":\"%s\",\"size\":%llu}", region_unit_word(t->unit), (unsigned long long)region_size(&t->set));
}
