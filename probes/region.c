#include "region.h"

#include <assert.h>
#include <string.h>

#include "core/site.h"

/* ---- units and spaces ---------------------------------------------------------------------------------- */

static const char *const words[REGION_UNITS] = {
    [REGION_LAYER] = "layer", [REGION_HEAD] = "head", [REGION_NEURON] = "neuron",
    [REGION_TENSOR] = "tensor", [REGION_SITE] = "site", [REGION_POSITION] = "position",
};

const char *region_unit_word(enum region_unit u) { return words[u]; }

bool region_unit_parse(const char *word, enum region_unit *out)
{
    for (int u = 0; u < REGION_UNITS; u++)
        if (strcmp(words[u], word) == 0) {
            *out = (enum region_unit)u;
            return true;
        }
    return false;
}

static size_t lanes_of(const struct model *m, enum region_unit unit, size_t n_names)
{
    switch (unit) {
    case REGION_LAYER: return 1;
    case REGION_TENSOR: return m->n_tensors;
    case REGION_SITE: return site_count(&m->arch);
    case REGION_POSITION: return n_names;
    default: return m->arch.n_layers;
    }
}

static uint64_t width_of(const struct model *m, enum region_unit unit, size_t lane)
{
    switch (unit) {
    case REGION_LAYER: return m->arch.n_layers;
    case REGION_HEAD: return m->arch.n_heads;
    case REGION_NEURON: return m->arch.d_mlp;
    case REGION_TENSOR: return m->tensors[lane].n_elements;
    case REGION_SITE: {
        struct site s = site_at(&m->arch, lane);
        if (hook_absent(&m->arch, s.hook)) return 0;
        return hook_info(s.hook)->axis == AXIS_PLAIN ? 1 : hook_heads(&m->arch, s.hook);
    }
    default: return 1;
    }
}

bool region_space_init(struct region_space *s, const struct model *m, enum region_unit unit, size_t n_names, struct err *e)
{
    *s = (struct region_space){.unit = unit, .n_lanes = lanes_of(m, unit, n_names)};
    s->first = mem_take(s->n_lanes + 1, sizeof *s->first, e);
    for (size_t i = 0; s->first && i < s->n_lanes; i++) s->first[i + 1] = s->first[i] + width_of(m, unit, i);
    return s->first != NULL;
}

void region_space_release(struct region_space *s)
{
    mem_drop(s->first);
    *s = (struct region_space){0};
}

size_t region_lane(const struct region_space *s, uint64_t part)
{
    size_t low = 0, high = s->n_lanes; /* first[low] <= part < first[high] */
    assert(part < s->first[s->n_lanes]);
    while (high - low > 1) {
        size_t mid = low + (high - low) / 2;
        if (s->first[mid] <= part) low = mid;
        else high = mid;
    }
    return low;
}

/* ---- lists --------------------------------------------------------------------------------------------- */

void region_release(struct region *r)
{
    mem_drop(r->at);
    *r = (struct region){0};
}

bool region_add(struct region *r, uint64_t from, uint64_t to, struct err *e)
{
    if (from >= to) return true;
    if (r->n && r->at[r->n - 1].to == from) { /* what comes in order stays short */
        r->at[r->n - 1].to = to;
        return true;
    }
    if (r->n == REGION_INTERVALS_MOST) {
        region_settle(r);
        if (r->n > REGION_INTERVALS_MOST / 2) return err_set(e, ERR_TOO_LARGE, "a region has at most %d pieces", REGION_INTERVALS_MOST / 2);
    }
    if (r->n == r->cap) {
        size_t cap = r->cap ? 2 * r->cap : 16;
        struct interval *more = mem_take(cap, sizeof *more, e);
        if (!more) return false;
        if (r->n) memcpy(more, r->at, r->n * sizeof *more);
        mem_drop(r->at);
        r->at = more;
        r->cap = cap;
    }
    r->at[r->n++] = (struct interval){from, to};
    return true;
}

static int by_from(const void *x, const void *y)
{
    const struct interval *a = x, *b = y;
    return (a->from > b->from) - (a->from < b->from);
}

void region_settle(struct region *r)
{
    size_t k = 0;
    if (r->n) qsort(r->at, r->n, sizeof *r->at, by_from);
    for (size_t i = 0; i < r->n; i++) {
        if (k && r->at[i].from <= r->at[k - 1].to) {
            if (r->at[i].to > r->at[k - 1].to) r->at[k - 1].to = r->at[i].to;
        } else {
            r->at[k++] = r->at[i];
        }
    }
    r->n = k;
}

uint64_t region_size(const struct region *r)
{
    uint64_t n = 0;
    for (size_t i = 0; i < r->n; i++) n += r->at[i].to - r->at[i].from;
    return n;
}

bool region_has(const struct region *r, uint64_t part)
{
    size_t low = 0, high = r->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (r->at[mid].to <= part) low = mid + 1;
        else high = mid;
    }
    return low < r->n && r->at[low].from <= part;
}

bool region_equal(const struct region *a, const struct region *b)
{
    return a->n == b->n && (!a->n || memcmp(a->at, b->at, a->n * sizeof *a->at) == 0);
}

/* ---- algebra ------------------------------------------------------------------------------------------- */

/* Walk the ends of both lists in order; what lies between two ends is in a, in b, in both or in neither, and
 * keep[] says which of these are kept. Numbers in neither never are. */
static bool merge(const struct region *a, const struct region *b, const bool keep[4], struct region *out, struct err *e)
{
    size_t i = 0, j = 0, end_a = 2 * a->n, end_b = 2 * b->n; /* ends: even ones open, odd ones close */
    uint64_t at = 0;
    *out = (struct region){0};
    while (i < end_a || j < end_b) {
        uint64_t x = i < end_a ? (i % 2 ? a->at[i / 2].to : a->at[i / 2].from) : UINT64_MAX;
        uint64_t y = j < end_b ? (j % 2 ? b->at[j / 2].to : b->at[j / 2].from) : UINT64_MAX;
        uint64_t next = x < y ? x : y;
        if (keep[(i % 2) + 2 * (j % 2)] && !region_add(out, at, next, e)) {
            region_release(out);
            return false;
        }
        i += x == next;
        j += y == next;
        at = next;
    }
    return true;
}

bool region_union(const struct region *a, const struct region *b, struct region *out, struct err *e)
{
    return merge(a, b, (const bool[4]){false, true, true, true}, out, e);
}

bool region_intersect(const struct region *a, const struct region *b, struct region *out, struct err *e)
{
    return merge(a, b, (const bool[4]){false, false, false, true}, out, e);
}

bool region_minus(const struct region *a, const struct region *b, struct region *out, struct err *e)
{
    return merge(a, b, (const bool[4]){false, true, false, false}, out, e);
}

bool region_complement(const struct region_space *s, const struct region *a, struct region *out, struct err *e)
{
    struct interval all = {0, s->first[s->n_lanes]};
    const struct region whole = {.at = &all, .n = all.to > 0};
    return region_minus(&whole, a, out, e);
}
