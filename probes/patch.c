#include "patch_int.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "panel.h"

/* ---- the runs ---------------------------------------------------------------------------------- */

bool patch_has_full_check(const struct patch_request *q)
{
    return q->from == PATCH_FROM_OTHER && patch_source_view(q) == q->view;
}

static void keep(struct patch_runs_request *r, enum patch_role role, enum hook hook, bool every_layer)
{
    for (size_t i = 0; i < r->n_keep; i++)
        if (r->keep[i].role == role && r->keep[i].hook == hook) {
            r->keep[i].every_layer |= every_layer;
            return;
        }
    r->keep[r->n_keep++] = (struct patch_keep){role, hook, every_layer};
}

/* The hook whose rows a cell enters with, beside the stream itself for ENTER_Z. */
static enum hook entry_hook(enum cell_entry at)
{
    static const enum hook hooks[] = {[ENTER_PRE] = HOOK_RESID_PRE, [ENTER_Z] = HOOK_Z, [ENTER_MID] = HOOK_RESID_MID};
    return hooks[at];
}

static struct patch_runs_request runs_of(const struct patch_request *q, const struct patch_texts *texts)
{
    enum cell_entry at = sweep_entry(&view_model(q->view)->arch, q->site);
    struct patch_runs_request r = {.view = {[PATCH_BASE] = q->view, [PATCH_SOURCE] = patch_source_view(q)}, .pair = texts,
                                   .n_pairs = q->n_pairs};
    keep(&r, PATCH_BASE, q->site, patch_fills(q));
    keep(&r, PATCH_BASE, entry_hook(at), true);
    if (at == ENTER_Z) keep(&r, PATCH_BASE, HOOK_RESID_PRE, true);
    if (q->from == PATCH_FROM_OTHER || patch_fills(q)) keep(&r, PATCH_SOURCE, q->site, true);
    if (!patch_has_full_check(q)) return r;
    keep(&r, PATCH_SOURCE, entry_hook(at), false);
    if (at == ENTER_Z) keep(&r, PATCH_SOURCE, HOOK_RESID_PRE, false);
    return r;
}

static struct patch_texts *texts_of(const struct patch_request *q, struct err *e)
{
    struct patch_texts *t = mem_take(q->n_pairs, sizeof *t, e);
    for (size_t i = 0; t && i < q->n_pairs; i++) t[i] = patch_texts_of(&q->pair[i], q->denoise);
    return t;
}

/* ---- metrics ----------------------------------------------------------------------------------- */

static struct panel panel_of(const struct patch *p, size_t pair)
{
    return (struct panel){.view = p->q.view, .metric = p->q.pair[pair].metric, .n_metrics = p->q.n_metrics,
                          .reference = p->reference ? p->reference + pair * patch_arch(p)->d_vocab : NULL};
}

static struct patch_scores *scores_of(const struct patch *p, size_t pair, size_t metric)
{
    return &p->scores[pair * p->q.n_metrics + metric];
}

/* The metrics of both runs; scores are raw until the end (finish). */
static bool baselines(struct patch *p, struct session *s, size_t pair, struct err *e)
{
    const size_t M = p->q.n_metrics;
    struct panel panel = panel_of(p, pair);
    double *read = mem_take(2 * M, sizeof *read, e);
    bool ok = read != NULL;
    if (ok && panel.reference)
        ok = panel_reference(patch_source_view(&p->q), s, patch_runs_final(p->runs, pair, PATCH_SOURCE),
                             p->reference + pair * patch_arch(p)->d_vocab, e);
    for (int role = 0; ok && role < PATCH_ROLES; role++) {
        panel.view = role == PATCH_SOURCE ? patch_source_view(&p->q) : p->q.view;
        ok = panel_read(&panel, s, patch_runs_final(p->runs, pair, (enum patch_role)role), 1, read + (size_t)role * M, e);
    }
    for (size_t m = 0; ok && m < M; m++) {
        struct patch_scores *out = scores_of(p, pair, m);
        for (size_t i = 0; i < patch_cells_of_pair(&p->grid); i++) out->values[i] = read[m];
        ok = patch_scores_open(&p->q.pair[pair].metric[m], read[m], read[M + m], p->q.denoise, out, e);
    }
    mem_drop(read);
    return ok;
}

/* Until its turn has been a cell's value is not known. */
static void await_cells(struct patch *p)
{
    for (size_t c = 0; c < p->n_cells; c++)
        for (size_t m = 0; p->cell[c].kind == CELL_GRID && m < p->q.n_metrics; m++)
            scores_of(p, p->cell[c].base, m)->values[p->cell[c].out] = NAN;
}

/* What both runs of the next pair come to. */
static bool judge(struct patch *p, struct session *s, struct err *e)
{
    const size_t i = p->judged++;
    if (!baselines(p, s, i, e) || (patch_fills(&p->q) && !patch_fill(&p->q, p->runs, i, e))) return false;
    p->base[i].kv = patch_runs_kv(p->runs, i);
    if (p->judged < p->q.n_pairs) return true;
    await_cells(p);
    p->ran = true;
    return true;
}

static void record(struct patch *p, const struct cell *c, const double *read)
{
    for (size_t m = 0; m < p->q.n_metrics; m++) {
        struct patch_scores *s = scores_of(p, c->base, m);
        if (c->kind == CELL_GRID) {
            s->values[c->out] = read[m];
            continue;
        }
        double base = p->q.denoise ? s->corrupt : s->clean, source = p->q.denoise ? s->clean : s->corrupt;
        double scale = patch_scores_unit(&p->q.pair->metric[m], s);
        double *check = c->kind == CELL_IDENTITY ? &p->grid.check_identity : &p->grid.check_full;
        double off = fabs(read[m] - (c->kind == CELL_IDENTITY ? base : source)) / scale;
        if (!(off <= *check)) *check = off;
    }
}

static void drop_sweep(struct patch *p)
{
    sweep_free(p->sweep);
    p->sweep = NULL;
    p->swept = false;
    p->n_evaluated = 0;
    p->next_group++;
}

static void finish(struct patch *p)
{
    for (size_t i = 0; i < p->q.n_pairs; i++)
        for (size_t m = 0; m < p->q.n_metrics; m++)
            patch_scores_settle(&p->q.pair[i].metric[m], scores_of(p, i, m), patch_cells_of_pair(&p->grid));
}

bool patch_read(const struct patch *p, struct session *s, size_t pair, const float *x, size_t n, double *out, struct err *e)
{
    struct panel panel = panel_of(p, pair);
    return panel_read(&panel, s, x, n, out, e);
}

/* The metrics of the group's next few cells, which are of one pair; the last ones end the group. */
static bool evaluate_some(struct patch *p, struct session *s, struct err *e)
{
    size_t first = p->group[p->next_group], end = p->group[p->next_group + 1], at = first + p->n_evaluated, n = 1;
    const struct cell *cell = p->cell + at;
    while (n < PANEL_ROWS && at + n < end && cell[n].base == cell->base) n++;
    double *read = mem_take(n * p->q.n_metrics, sizeof *read, e);
    bool ok = read && patch_read(p, s, cell->base, sweep_final(p->sweep) + p->n_evaluated * patch_arch(p)->d_model, n, read, e);
    for (size_t i = 0; ok && i < n; i++) record(p, &cell[i], read + i * p->q.n_metrics);
    mem_drop(read);
    p->n_evaluated += n;
    p->done += n;
    if (at + n == end) drop_sweep(p);
    return ok;
}

static enum step end_grid(struct patch *p)
{
    finish(p);
    p->finished = true;
    return STEP_DONE;
}

static enum step step_naive(struct patch *p, struct session *s, struct err *e)
{
    if (!p->naive && !(p->naive = patch_naive_new(p, e))) return STEP_FAIL;
    enum step step = patch_naive_step(p->naive, s, e);
    if (step != STEP_DONE) return step;
    p->grid.check_naive = patch_naive_worst(p->naive, &p->grid.n_naive);
    return end_grid(p);
}

static enum step step_sweep(struct patch *p, struct session *s, struct err *e)
{
    size_t first = p->group[p->next_group];
    if (p->swept) return evaluate_some(p, s, e) ? STEP_MORE : STEP_FAIL;
    if (!p->sweep && !(p->sweep = sweep_new(p->q.view, p->base, p->cell + first, p->group[p->next_group + 1] - first,
                                            &p->maker, e)))
        return STEP_FAIL;
    enum step step = sweep_step(p->sweep, s, e);
    p->swept = step == STEP_DONE;
    return step == STEP_FAIL ? STEP_FAIL : STEP_MORE;
}

/* ---- the job ----------------------------------------------------------------------------------- */

uint32_t patch_longest(const struct patch_pair *pair, size_t n)
{
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++)
        if (patch_used(&pair[i]) > most) most = patch_used(&pair[i]);
    return most;
}

uint32_t patch_pair_difference(const struct patch_pair *pair)
{
    uint32_t i = 0;
    while (i < pair->n && pair->clean[i] == pair->corrupt[i]) i++;
    return i;
}

uint32_t patch_difference(const struct patch_request *q, const struct patch_pair *pair)
{
    const bool other = q->from == PATCH_FROM_OTHER || q->from == PATCH_FROM_SUBSPACE;
    return other && patch_source_view(q) == q->view ? patch_pair_difference(pair) : 0;
}

void patch_plan(const struct patch_request *q, int threads, struct plan *p)
{
    const struct arch *a = &view_model(q->view)->arch;
    const uint32_t longest = patch_longest(q->pair, q->n_pairs);
    uint32_t heads, pos;
    struct plan sweep = {0}, run = {0}, naive = {0};
    struct err e;
    patch_columns(q, &heads, &pos);
    size_t each = plan_times(heads, pos), listed = q->only ? q->n_only : plan_times(a->n_layers, each);
    size_t grid = plan_times(listed, q->n_pairs), cells = grid + 2 * CHECK_LAYERS;
    struct patch_texts *texts = texts_of(q, &e);
    struct patch_runs_request runs = runs_of(q, texts);
    if (texts) patch_runs_plan(&runs, threads, &run);
    mem_drop(texts);
    panel_plan(a, q->pair->metric, q->n_metrics, p);
    plan_add(p, NEED_LOGITS, plan_times(metric_any(q->pair->metric, q->n_metrics, METRIC_KL) ? q->n_pairs + 1 : 1, sizeof(double) * (size_t)a->d_vocab));
    plan_add(p, NEED_ANSWER, plan_times(cells, sizeof(struct cell) + sizeof(size_t)));
    plan_add(p, NEED_ANSWER, plan_times(plan_times(plan_times(each, a->n_layers), q->n_pairs), 1 + plan_times(q->n_metrics, sizeof(double) + 64)));
    sweep_plan(a, longest, cells, patch_most_rows(q, longest, grid), threads, &sweep);
    patch_naive_plan(q, longest, threads, &naive);
    plan_peak(&sweep, &naive);
    plan_add(&sweep, NEED_CACHES, run.bytes[NEED_CACHES]); /* what the runs leave is there to the end */
    plan_add(&sweep, NEED_CAPTURES, run.bytes[NEED_CAPTURES]);
    plan_peak(&run, &sweep);
    if (q->from == PATCH_FROM_MEAN) means_plan(a, q->site, q->mean, q->n_mean, threads, p);
    plan_with(p, &run);
}

static bool take_grid(struct patch *p, struct err *e)
{
    struct patch_grid *g = &p->grid;
    const size_t each = patch_cells_of_pair(g), scores = p->q.n_pairs * p->q.n_metrics;
    g->cost.cells = each * p->q.n_pairs;
    p->scores = mem_take(scores, sizeof *p->scores, e);
    p->values = p->scores ? mem_take(scores * each, sizeof *p->values, e) : NULL;
    p->first_difference = p->values ? mem_take(p->q.n_pairs, sizeof *p->first_difference, e) : NULL;
    p->base = p->first_difference ? mem_take(p->q.n_pairs, sizeof *p->base, e) : NULL;
    if (!p->base) return false;
    for (size_t i = 0; i < scores; i++) p->scores[i].values = p->values + i * each;
    for (size_t i = 0; i < p->q.n_pairs; i++) {
        p->first_difference[i] = patch_difference(&p->q, &p->q.pair[i]);
        p->base[i].n = patch_used(&p->q.pair[i]);
    }
    g->scores = p->scores;
    g->first_difference = p->first_difference;
    if (!patch_has_full_check(&p->q)) g->check_full = NAN;
    g->check_naive = NAN;
    if (!metric_any(p->q.pair->metric, p->q.n_metrics, METRIC_KL)) return true;
    p->reference = mem_take(p->q.n_pairs * patch_arch(p)->d_vocab, sizeof *p->reference, e);
    return p->reference != NULL;
}

static void enter(void *ctx, const struct cell *c, float *x, float *z) { patch_enter(ctx, c, x, z); }
static size_t write(void *ctx, const struct cell *c, uint32_t layer, struct tap *out) { return patch_write(ctx, c, layer, out); }

static void count_cost(struct patch *p)
{
    const struct arch *a = patch_arch(p);
    struct sweep_cost sweep = sweep_forecast(a, p->base, p->cell, p->n_cells);
    struct patch_cost *c = &p->grid.cost;
    c->rows = sweep.rows;
    c->flops = sweep.flops;
    c->all_flops = sweep.flops + (double)(p->n_cells + 2 * p->q.n_pairs) * panel_flops(a, p->q.pair->metric, p->q.n_metrics) +
                   patch_naive_flops(p);
    for (size_t i = 0; i < p->q.n_pairs; i++) c->all_flops += 2 * run_flops(a, p->base[i].n);
    for (size_t i = 0; i < p->q.n_mean; i++) c->all_flops += run_flops(a, p->q.mean[i].n);
}

/* All but the runs. */
static struct patch *lay_out(const struct patch_request *q, struct err *e)
{
    assert(q->n_pairs && q->n_metrics && q->pair->metric->pos < q->pair->n);
    struct patch *p = mem_new(sizeof *p);
    p->q = *q;
    view_retain(q->view);
    p->grid.n_layers = patch_arch(p)->n_layers;
    patch_columns(q, &p->grid.n_heads, &p->grid.n_pos);
    p->maker = (struct cell_maker){enter, write, p, 1};
    p->texts = texts_of(q, e);
    if (p->texts && take_grid(p, e) && patch_plan_cells(p, e)) {
        count_cost(p);
        return p;
    }
    patch_free(p);
    return NULL;
}

bool patch_forecast(const struct patch_request *q, struct patch_cost *out, struct err *e)
{
    struct patch *p = lay_out(q, e);
    if (!p) return false;
    *out = p->grid.cost;
    patch_free(p);
    return true;
}

struct patch *patch_new(const struct patch_request *q, struct err *e)
{
    struct patch *p = lay_out(q, e);
    if (!p) return NULL;
    struct patch_runs_request runs = runs_of(q, p->texts);
    const bool mean = q->from == PATCH_FROM_MEAN;
    p->runs = patch_runs_new(&runs, e);
    if (p->runs && mean) p->means = means_new(q->view, q->site, q->mean, q->n_mean, e);
    if (p->runs && (!mean || p->means)) return p;
    patch_free(p);
    return NULL;
}

static enum step step_means(struct patch *p, struct session *s, struct err *e)
{
    enum step step = means_step(p->means, s, e);
    p->averaged = step == STEP_DONE;
    return step == STEP_FAIL ? STEP_FAIL : STEP_MORE;
}

enum step patch_step(struct patch *p, struct session *s, struct err *e)
{
    if (p->finished) return STEP_DONE;
    if (p->ran && p->next_group < p->n_groups) return step_sweep(p, s, e);
    if (p->ran) return patch_naive_cells(p) ? step_naive(p, s, e) : end_grid(p);
    if (p->means && !p->averaged) return step_means(p, s, e);
    if (p->ready) return judge(p, s, e) ? STEP_MORE : STEP_FAIL;
    enum step step = patch_runs_step(p->runs, s, e);
    p->ready = step == STEP_DONE;
    return step == STEP_FAIL ? STEP_FAIL : STEP_MORE;
}

bool patch_checking(const struct patch *p)
{
    return p->ran && !p->finished && p->next_group == p->n_groups && patch_naive_cells(p) > 0;
}

/* Whole turns are done; what they have not come to is NaN. */
const struct patch_grid *patch_partial(struct patch *p)
{
    if (!p->ran || (!p->finished && p->next_group == 0)) return NULL;
    if (!p->finished) (void)end_grid(p);
    return &p->grid;
}

void patch_free(struct patch *p)
{
    if (!p) return;
    patch_naive_free(p->naive);
    means_free(p->means);
    sweep_free(p->sweep);
    patch_runs_free(p->runs);
    mem_drop(p->texts);
    mem_drop(p->cell);
    mem_drop(p->group);
    mem_drop(p->listed);
    mem_drop(p->base);
    mem_drop(p->reference);
    mem_drop(p->first_difference);
    mem_drop(p->values);
    mem_drop(p->scores);
    view_drop(p->q.view);
    mem_drop(p);
}

const float *patch_source(const struct patch *p, uint32_t layer)
{
    return patch_runs_values(p->runs, 0, PATCH_SOURCE, (struct site){p->q.site, layer});
}

void patch_progress(const struct patch *p, size_t *done, size_t *total)
{
    const bool walking = p->sweep || p->swept;
    const double turn = walking ? (double)(p->group[p->next_group + 1] - p->group[p->next_group]) : 0;
    const double walked = p->swept ? 1 : walking ? sweep_share(p->sweep) : 0; /* the metrics are the last tenth */
    *done = p->done - p->n_evaluated + (size_t)(0.9 * walked * turn + 0.1 * (double)p->n_evaluated);
    *total = p->n_cells;
}

const struct patch_grid *patch_result(const struct patch *p) { return &p->grid; }
