#include "audit.h"

#include <math.h>
#include <stdlib.h>

#include "stats.h"

struct audit {
    struct audit_request q;
    struct audit_cell *cell;
    struct audit_found found;
    size_t *only;
    struct patch *patch;
};

struct ranked {
    size_t at;
    double score;
};

static size_t cells_of(const struct patch_grid *g) { return (size_t)g->n_layers * g->n_heads * g->n_pos; }

/* Mean over pairs of the first metric's numbers at a cell; less each pair's own `from` where there is one. */
static double mean_at(const struct audit *a, const struct patch_grid *g, size_t at, bool from_base)
{
    const size_t M = a->q.patch.n_metrics, n = a->q.patch.n_pairs;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        const struct patch_scores *s = &g->scores[i * M];
        sum += s->values[at] - (from_base ? (a->q.patch.denoise ? s->corrupt : s->clean) : 0);
    }
    return sum / (double)n;
}

static double score_of(const struct audit *a, size_t at)
{
    const size_t M = a->q.patch.n_metrics, n = a->q.patch.n_pairs;
    double sum = 0;
    if (!a->q.rank) return fabs(mean_at(a, a->q.grid, at, false));
    for (size_t i = 0; i < n; i++) sum += a->q.rank[i * M * cells_of(a->q.grid) + at];
    return sum / (double)n;
}

/* May it differ in any pair? */
static bool candidate(const struct audit *a, size_t at)
{
    const uint32_t pos = (uint32_t)(at % a->q.grid->n_pos);
    for (size_t i = 0; i < a->q.patch.n_pairs; i++) {
        const uint32_t first = a->q.grid->first_difference[i], last = a->q.patch.pair[i].metric->pos;
        if (first <= last && (!patch_by_pos(a->q.patch.axis) || (pos >= first && pos <= last))) return true;
    }
    return false;
}

static int by_score(const void *x, const void *y)
{
    const struct ranked *a = x, *b = y;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    return (a->at > b->at) - (a->at < b->at);
}

static void add(struct audit *a, size_t at, bool random)
{
    const struct patch_grid *g = a->q.grid;
    a->cell[a->found.n++] = (struct audit_cell){
        .layer = (uint32_t)(at / g->n_pos / g->n_heads), .head = (uint32_t)(at / g->n_pos % g->n_heads),
        .pos = (uint32_t)(at % g->n_pos), .random = random, .estimate = mean_at(a, g, at, false), .at = at};
}

static bool pick(struct audit *a, struct err *e)
{
    const size_t all = cells_of(a->q.grid);
    struct ranked *r = mem_take(all, sizeof *r, e);
    struct random rng;
    size_t n = 0;
    if (!r) return false;
    for (size_t i = 0; i < all; i++)
        if (candidate(a, i)) r[n++] = (struct ranked){i, score_of(a, i)};
    qsort(r, n, sizeof *r, by_score);
    a->found.candidates = n;
    size_t top = n < a->q.top ? n : a->q.top;
    for (size_t i = 0; i < top; i++) add(a, r[i].at, false);
    random_init(&rng, a->q.seed);
    for (size_t i = top; i < n && i - top < a->q.random; i++) { /* the first of a shuffle of the rest */
        size_t k = i + random_below(&rng, n - i);
        struct ranked chosen = r[k];
        r[k] = r[i];
        r[i] = chosen;
        add(a, chosen.at, true);
    }
    mem_drop(r);
    return true;
}

static struct patch_request listed(struct audit *a)
{
    struct patch_request q = a->q.patch;
    for (size_t i = 0; i < a->found.n; i++) a->only[i] = a->cell[i].at;
    q.only = a->only;
    q.n_only = a->found.n;
    return q;
}

void audit_plan(const struct audit_request *q, int threads, struct plan *p)
{
    static const size_t none[1];
    uint32_t heads, pos;
    struct patch_request patch = q->patch;
    patch_columns(&patch, &heads, &pos);
    size_t cells = plan_times(plan_times(heads, pos), view_model(patch.view)->arch.n_layers), picks = (size_t)q->top + q->random;
    patch.only = none; /* which they are is not looked at */
    patch.n_only = picks < cells ? picks : cells;
    patch_plan(&patch, threads, p);
    plan_add(p, NEED_ANSWER, plan_times(cells, sizeof(struct ranked)) + picks * (sizeof(struct audit_cell) + sizeof(size_t) + 4 * sizeof(double)));
}

/* The first that may differ: a lower layer's cell has more layers to run. */
bool audit_forecast(const struct audit_request *q, struct patch_cost *out, struct err *e)
{
    const size_t most = (size_t)q->top + q->random;
    struct patch_request patch = q->patch;
    uint32_t heads, pos, first = UINT32_MAX, last = 0;
    size_t *only = mem_take(most + 1, sizeof *only, e), n = 0;
    if (!only) return false;
    patch_columns(&patch, &heads, &pos);
    for (size_t i = 0; i < patch.n_pairs; i++) {
        const uint32_t f = patch_difference(&patch, &patch.pair[i]), l = patch.pair[i].metric->pos;
        if (f < first) first = f;
        if (l > last) last = l;
    }
    const size_t cells = (size_t)heads * pos * view_model(patch.view)->arch.n_layers;
    for (size_t at = 0; at < cells && n < most && first <= last; at++)
        if (!patch_by_pos(patch.axis) || (at % pos >= first && at % pos <= last)) only[n++] = at;
    patch.only = only;
    patch.n_only = n;
    *out = (struct patch_cost){0};
    const bool ok = !n || patch_forecast(&patch, out, e);
    mem_drop(only);
    return ok;
}

struct audit *audit_new(const struct audit_request *q, struct err *e)
{
    struct audit *a = mem_new(sizeof *a);
    const size_t most = (size_t)q->top + q->random + 1;
    a->q = *q;
    a->cell = mem_take(most, sizeof *a->cell, e);
    a->only = a->cell ? mem_take(most, sizeof *a->only, e) : NULL;
    a->found = (struct audit_found){.cell = a->cell, .rho = NAN, .worst = NAN, .share = NAN};
    if (a->only && pick(a, e)) {
        struct patch_request patch = listed(a);
        a->patch = patch_new(&patch, e);
    }
    if (a->patch) return a;
    audit_free(a);
    return NULL;
}

void audit_free(struct audit *a)
{
    if (!a) return;
    patch_free(a->patch);
    mem_drop(a->cell);
    mem_drop(a->only);
    mem_drop(a);
}

/* ---- what they say ------------------------------------------------------------------------------------ */

static void shares(struct audit *a)
{
    double top = 0, random = 0;
    size_t n_top = 0, n_random = 0;
    for (size_t i = 0; i < a->found.n; i++) {
        const struct audit_cell *c = &a->cell[i];
        *(c->random ? &random : &top) += fabs(c->exact);
        *(c->random ? &n_random : &n_top) += 1;
    }
    size_t others = a->found.candidates - n_top;
    if (others && !n_random) return;
    double total = top + (others ? random / (double)n_random * (double)others : 0);
    a->found.share = total > 0 ? top / total : (double)NAN;
}

static bool conclude(struct audit *a, struct err *e)
{
    double *pair = mem_take(2 * a->found.n + 1, sizeof *pair, e);
    a->found.exact = patch_result(a->patch);
    for (size_t i = 0; pair && i < a->found.n; i++) {
        struct audit_cell *c = &a->cell[i];
        c->exact = mean_at(a, a->found.exact, c->at, true);
        pair[i] = c->estimate;
        pair[a->found.n + i] = c->exact;
        double hidden = fabs(c->exact) - fabs(c->estimate);
        if (!(hidden <= a->found.worst)) a->found.worst = hidden, a->found.worst_cell = i;
    }
    if (pair) shares(a);
    bool ok = pair && stats_spearman(pair, pair + a->found.n, a->found.n, &a->found.rho, e);
    mem_drop(pair);
    return ok;
}

enum step audit_step(struct audit *a, struct session *s, struct err *e)
{
    enum step step = patch_step(a->patch, s, e);
    if (step == STEP_DONE && !conclude(a, e)) return STEP_FAIL;
    return step;
}

const struct audit_found *audit_result(const struct audit *a) { return &a->found; }
