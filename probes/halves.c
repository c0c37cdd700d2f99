#include "halves.h"

#include <string.h>

#include "core/base/mem.h"
#include "core/base/random.h"
#include "core/plan.h"

/* renamed[g]: the half's number of group g, or n_groups. */
static bool fill(struct half *h, const uint32_t *group, size_t n, size_t n_groups, const size_t *order, size_t from, size_t to,
                 struct err *e)
{
    size_t *renamed = mem_take(n_groups + 1, sizeof *renamed, e);
    h->row = renamed ? mem_take(n + 1, sizeof *h->row, e) : NULL;
    h->group = h->row ? mem_take(n + 1, sizeof *h->group, e) : NULL;
    for (size_t i = 0; h->group && i < n_groups; i++) renamed[order[i]] = i >= from && i < to ? i - from : n_groups;
    for (size_t i = 0; h->group && i < n; i++) {
        const size_t g = renamed[group ? group[i] : i];
        if (g == n_groups) continue;
        h->row[h->n] = i;
        h->group[h->n++] = (uint32_t)g;
    }
    h->n_groups = to - from;
    mem_drop(renamed);
    return h->group != NULL;
}

bool halves_make(struct half out[2], const uint32_t *group, size_t n, size_t n_groups, bool split, uint64_t seed, struct err *e)
{
    const size_t groups = group ? n_groups : n, middle = split ? (groups + 1) / 2 : groups;
    size_t *order = mem_take(groups + 1, sizeof *order, e);
    struct random random;
    memset(out, 0, 2 * sizeof *out);
    if (!order) return false;
    for (size_t i = 0; i < groups; i++) order[i] = i;
    random_init(&random, seed);
    if (split) random_shuffle(&random, order, groups);
    bool ok = fill(&out[0], group, n, groups, order, 0, middle, e) &&
              fill(&out[1], group, n, groups, order, split ? middle : 0, groups, e);
    mem_drop(order);
    return ok;
}

void halves_release(struct half h[2])
{
    for (int i = 0; i < 2; i++) {
        mem_drop(h[i].row);
        mem_drop(h[i].group);
        h[i] = (struct half){0};
    }
}

size_t halves_bytes(size_t n, size_t n_groups)
{
    return plan_times(2 * (n + 1), sizeof(size_t) + sizeof(uint32_t)) + plan_times(2 * (n_groups + 1), sizeof(size_t));
}
