#include "patch_int.h"

#include <math.h>

#include "pick.h"

/* A sweep of fewer operations takes about a second at most. */
#define SHORT_SWEEP 3e10

struct patch_naive {
    const struct patch *patch;
    const struct cell *cell[NAIVE_MOST];
    size_t n;
    struct run_input input[NAIVE_MOST];
    uint32_t want[NAIVE_MOST];
    struct taps taps;
    struct run *run;
    double worst;
};

size_t patch_naive_cells(const struct patch *p)
{
    const double fit = 0.1 * p->grid.cost.flops / run_flops(patch_arch(p), patch_longest(p->q.pair, p->q.n_pairs));
    size_t most = p->q.n_naive < NAIVE_MOST ? p->q.n_naive : NAIVE_MOST, least = p->grid.cost.flops < SHORT_SWEEP ? 1 : 0;
    size_t n = fit < (double)most ? (size_t)fit : most;
    if (n < least) n = least;
    if (n > most) n = most;
    return n < p->grid.cost.cells_run ? n : p->grid.cost.cells_run;
}

double patch_naive_flops(const struct patch *p)
{
    return (double)patch_naive_cells(p) * run_flops(patch_arch(p), patch_longest(p->q.pair, p->q.n_pairs));
}

void patch_naive_plan(const struct patch_request *q, uint32_t n, int threads, struct plan *p)
{
    const struct arch *a = &view_model(q->view)->arch;
    const size_t cells = q->n_naive < NAIVE_MOST ? q->n_naive : NAIVE_MOST;
    struct run_size size = {0};
    for (size_t i = 0; i < cells; i++) run_size_add(&size, 0, n, 1, false);
    if (cells) run_plan(&size, a, threads, p);
    plan_add(p, NEED_CAPTURES, plan_times(plan_times(cells, a->n_layers), sizeof(struct tap)));
}

/* The first metric's distance from the base, which is what a cell is looked at for. */
static double effect(const void *ctx, size_t i)
{
    const struct patch *p = ctx;
    const struct cell *c = &p->cell[i];
    const struct patch_scores *s = &p->scores[c->base * p->q.n_metrics];
    return c->kind == CELL_GRID ? fabs(s->values[c->out] - (p->q.denoise ? s->corrupt : s->clean)) : -1;
}

static void choose(struct patch_naive *n, size_t wanted)
{
    const struct patch *p = n->patch;
    size_t chosen[NAIVE_MOST];
    n->n = pick_some(effect, p, p->n_cells, wanted, p->q.seed, chosen);
    for (size_t i = 0; i < n->n; i++) n->cell[i] = &p->cell[chosen[i]];
}

static bool lay_run(struct patch_naive *n, struct err *e)
{
    const struct patch *p = n->patch;
    n->taps.tap = mem_take(n->n * patch_arch(p)->n_layers, sizeof(struct tap), e);
    if (!n->taps.tap) return false;
    for (size_t i = 0; i < n->n; i++) {
        const struct cell *c = n->cell[i];
        n->want[i] = patch_used(&p->q.pair[c->base]) - 1;
        n->input[i] = (struct run_input){.ids = p->texts[c->base].ids[PATCH_BASE], .n = n->want[i] + 1, .seq = (uint32_t)i,
                                         .want = &n->want[i], .n_want = 1};
        for (uint32_t l = c->layer; l <= c->last; l++)
            if (patch_write(n->patch, c, l, &n->taps.tap[n->taps.n])) n->taps.tap[n->taps.n++].seq = (uint32_t)i;
    }
    n->run = run_new(p->q.view, n->input, n->n, &n->taps, e);
    return n->run != NULL;
}

struct patch_naive *patch_naive_new(const struct patch *p, struct err *e)
{
    struct patch_naive *n = mem_new(sizeof *n);
    n->patch = p;
    choose(n, patch_naive_cells(p));
    if (lay_run(n, e)) return n;
    patch_naive_free(n);
    return NULL;
}

/* The grid's values are still differences where they will be normalised. */
static bool compare(struct patch_naive *n, struct session *s, struct err *e)
{
    const struct patch *p = n->patch;
    const size_t M = p->q.n_metrics;
    double *read = mem_take(M, sizeof *read, e);
    bool ok = read != NULL;
    for (size_t i = 0; ok && i < n->n; i++) {
        const struct cell *c = n->cell[i];
        ok = patch_read(p, s, c->base, run_final(n->run, i), 1, read, e);
        for (size_t m = 0; ok && m < M; m++) {
            const struct patch_scores *of = &p->scores[c->base * M + m];
            double scale = patch_scores_unit(&p->q.pair->metric[m], of);
            double off = fabs(read[m] - of->values[c->out]) / scale;
            if (!(off <= n->worst)) n->worst = off;
        }
    }
    mem_drop(read);
    return ok;
}

enum step patch_naive_step(struct patch_naive *n, struct session *s, struct err *e)
{
    enum step step = run_step(n->run, s, e);
    if (step != STEP_DONE) return step;
    return compare(n, s, e) ? STEP_DONE : STEP_FAIL;
}

void patch_naive_free(struct patch_naive *n)
{
    if (!n) return;
    run_free(n->run);
    mem_drop(n->taps.tap);
    mem_drop(n);
}

double patch_naive_worst(const struct patch_naive *n, size_t *cells)
{
    *cells = n->n;
    return n->worst;
}
