#include "patch.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "panel.h"
#include "patch_runs.h"
#include "sweep.h"

enum kind { CELL_GRID, CELL_IDENTITY, CELL_FULL };
enum { DEFAULT_MEMORY = 512u << 20 };

struct patch {
    struct patch_request q;
    struct patch_grid grid;
    struct patch_texts *texts;   /* [n_pairs] */
    struct patch_runs *runs;
    bool ran;
    struct patch_scores *scores; /* the grid's */
    double *values;              /* all of them */
    uint32_t *first_difference;
    double *reference;           /* [n_pairs][V] log-probabilities of the sources, for kl; or NULL */
    struct cell *cell;           /* grid cells by group and layer, checks with the first group */
    size_t n_cells;
    bool *listed;                /* [cells of a pair], or NULL: all are run */
    size_t *group, n_groups, next_group; /* group[g]: first cell; group[n_groups] the end */
    struct sweep_base *base;     /* [n_pairs] */
    struct cell_maker maker;
    struct sweep *sweep;
    bool swept;                  /* the group's cells are through the layers, their metrics are due */
    size_t n_evaluated, done;
};

static struct view *source_view(const struct patch_request *q) { return q->source ? q->source : q->view; }
static const struct arch *arch_of(const struct patch *p) { return &view_model(p->q.view)->arch; }
static uint32_t n_used(const struct patch_pair *pair) { return pair->metric->pos + 1; }

void patch_columns(const struct patch_request *q, uint32_t *heads, uint32_t *pos)
{
    *heads = patch_by_head(q->axis) ? hook_heads(&view_model(q->view)->arch, q->site) : 1;
    *pos = patch_by_pos(q->axis) ? q->pair->n : 1;
}

static size_t cells_of_pair(const struct patch_grid *g) { return (size_t)g->n_layers * g->n_heads * g->n_pos; }

/* ---- the runs ---------------------------------------------------------------------------------- */

static bool has_full_check(const struct patch_request *q)
{
    return q->from == PATCH_FROM_OTHER && source_view(q) == q->view;
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
    struct patch_runs_request r = {.view = {[PATCH_BASE] = q->view, [PATCH_SOURCE] = source_view(q)}, .pair = texts,
                                   .n_pairs = q->n_pairs};
    keep(&r, PATCH_BASE, q->site, false);
    keep(&r, PATCH_BASE, entry_hook(at), true);
    if (at == ENTER_Z) keep(&r, PATCH_BASE, HOOK_RESID_PRE, true);
    if (q->from == PATCH_FROM_OTHER) keep(&r, PATCH_SOURCE, q->site, true);
    if (!has_full_check(q)) return r;
    keep(&r, PATCH_SOURCE, entry_hook(at), false);
    if (at == ENTER_Z) keep(&r, PATCH_SOURCE, HOOK_RESID_PRE, false);
    return r;
}

static struct patch_texts *texts_of(const struct patch_request *q, struct err *e)
{
    struct patch_texts *t = mem_take(q->n_pairs, sizeof *t, e);
    for (size_t i = 0; t && i < q->n_pairs; i++) {
        const struct patch_pair *pair = &q->pair[i];
        t[i] = (struct patch_texts){.ids = {[PATCH_BASE] = q->denoise ? pair->corrupt : pair->clean,
                                            [PATCH_SOURCE] = q->denoise ? pair->clean : pair->corrupt},
                                    .n = n_used(pair)};
    }
    return t;
}

/* ---- metrics ----------------------------------------------------------------------------------- */

static bool has_kl(const struct patch_request *q)
{
    for (size_t i = 0; i < q->n_metrics; i++)
        if (q->pair->metric[i].kind == METRIC_KL) return true;
    return false;
}

static struct panel panel_of(const struct patch *p, size_t pair)
{
    return (struct panel){.view = p->q.view, .metric = p->q.pair[pair].metric, .n_metrics = p->q.n_metrics,
                          .reference = p->reference ? p->reference + pair * arch_of(p)->d_vocab : NULL};
}

static struct patch_scores *scores_of(const struct patch *p, size_t pair, size_t metric)
{
    return &p->scores[pair * p->q.n_metrics + metric];
}

double patch_normalised(const struct metric *m, const struct patch_scores *s, double value)
{
    return m->kind == METRIC_NORM_LOGIT_DIFF ? (value - s->ld_corrupt) / (s->ld_clean - s->ld_corrupt) : value;
}

bool patch_normalises(const struct metric *m, double clean, double corrupt, struct err *e)
{
    return m->kind != METRIC_NORM_LOGIT_DIFF || fabs(clean - corrupt) >= 1e-3 ||
           err_field(e, ERR_UNPROCESSABLE, "metric.kind",
                     "the logit differences of clean (%g) and corrupt (%g) are closer than 0.001: "
                     "nothing to normalise by", clean, corrupt);
}

/* The metrics of both runs; scores keep them as differences until the end (finish). */
static bool baselines(struct patch *p, struct session *s, size_t pair, struct err *e)
{
    const size_t M = p->q.n_metrics;
    struct panel panel = panel_of(p, pair);
    double *read = mem_take(2 * M, sizeof *read, e);
    bool ok = read != NULL;
    if (ok && panel.reference)
        ok = panel_reference(source_view(&p->q), s, patch_runs_final(p->runs, pair, PATCH_SOURCE),
                             p->reference + pair * arch_of(p)->d_vocab, e);
    for (int role = 0; ok && role < PATCH_ROLES; role++) {
        panel.view = role == PATCH_SOURCE ? source_view(&p->q) : p->q.view;
        ok = panel_read(&panel, s, patch_runs_final(p->runs, pair, (enum patch_role)role), 1, read + (size_t)role * M, e);
    }
    for (size_t m = 0; ok && m < M; m++) {
        struct patch_scores *out = scores_of(p, pair, m);
        double base = read[m], source = read[M + m];
        out->clean = p->q.denoise ? source : base;
        out->corrupt = p->q.denoise ? base : source;
        for (size_t i = 0; i < cells_of_pair(&p->grid); i++) out->values[i] = base;
        ok = patch_normalises(&p->q.pair[pair].metric[m], out->clean, out->corrupt, e);
    }
    mem_drop(read);
    return ok;
}

static bool end_runs(struct patch *p, struct session *s, struct err *e)
{
    for (size_t i = 0; i < p->q.n_pairs; i++) {
        if (!baselines(p, s, i, e)) return false;
        p->base[i] = (struct sweep_base){n_used(&p->q.pair[i]), patch_runs_kv(p->runs, i)};
    }
    p->ran = true;
    return true;
}

/* ---- cells ------------------------------------------------------------------------------------- */

/* First position a column's cells differ from the base at; n when they cannot matter. */
static uint32_t column_first(const struct patch *p, size_t pair, uint32_t pos)
{
    uint32_t p0 = p->first_difference[pair], n = n_used(&p->q.pair[pair]);
    if (!patch_by_pos(p->q.axis)) return p0 < n ? p0 : n;
    return pos >= p0 && pos < n ? pos : n;
}

static void add_cell(struct patch *p, size_t pair, uint32_t layer, uint32_t first, uint32_t head, uint32_t pos,
                     enum kind kind)
{
    const struct patch_grid *g = &p->grid;
    uint32_t L = g->n_layers, up = L - 1 - layer;
    bool grid = kind == CELL_GRID; /* checks are of one layer */
    uint32_t from = grid ? layer - (layer < p->q.before ? layer : p->q.before) : layer;
    p->cell[p->n_cells++] = (struct cell){
        .base = (uint32_t)pair, .layer = from, .first = first, .head = head, .pos = pos, .kind = kind,
        .last = grid ? layer + (up < p->q.after ? up : p->q.after) : layer,
        .entry = sweep_entry(arch_of(p), p->q.site), .out = ((size_t)layer * g->n_heads + head) * g->n_pos + pos};
}

static void add_checks(struct patch *p)
{
    uint32_t layers[CHECK_LAYERS], n = patch_check_layers(arch_of(p), layers);
    for (uint32_t i = 0; i < n; i++) {
        add_cell(p, 0, layers[i], 0, 0, 0, CELL_IDENTITY);
        if (has_full_check(&p->q)) add_cell(p, 0, layers[i], 0, 0, 0, CELL_FULL);
    }
}

static int by_layer(const void *x, const void *y)
{
    const struct cell *a = x, *b = y;
    if (a->layer != b->layer) return a->layer < b->layer ? -1 : 1;
    if (a->base != b->base) return a->base < b->base ? -1 : 1;
    if (a->kind != b->kind) return a->kind < b->kind ? -1 : 1;
    return (a->out > b->out) - (a->out < b->out);
}

static bool is_listed(const struct patch *p, uint32_t layer, uint32_t head, uint32_t pos)
{
    return !p->listed || p->listed[((size_t)layer * p->grid.n_heads + head) * p->grid.n_pos + pos];
}

/* A column's cells that are to be run, in the group in hand or, if its rows are too many there, in the next. */
static void add_column(struct patch *p, size_t pair, uint32_t head, uint32_t pos, size_t most, size_t *rows)
{
    uint32_t L = p->grid.n_layers, n = n_used(&p->q.pair[pair]), first = column_first(p, pair, pos);
    size_t cells = 0;
    for (uint32_t l = 0; l < L; l++) cells += is_listed(p, l, head, pos);
    size_t column = cells * (n - first);
    if (!column) return;
    if (*rows && *rows + column > most) {
        p->group[++p->n_groups] = p->n_cells;
        *rows = 0;
    }
    *rows += column;
    for (uint32_t l = 0; l < L; l++)
        if (is_listed(p, l, head, pos)) add_cell(p, pair, l, first, head, pos, CELL_GRID);
    p->grid.cells_run += cells;
}

/* Columns in turns, each turn's rows within the budget; the first turn carries the checks. */
static bool plan_cells(struct patch *p, struct err *e)
{
    const struct arch *a = arch_of(p);
    size_t budget = p->q.memory_bytes ? p->q.memory_bytes : DEFAULT_MEMORY, rows = 0;
    size_t most = budget / (a->d_model * sizeof(float)), columns = (size_t)p->grid.n_heads * p->grid.n_pos;
    size_t cells = p->q.only ? p->q.n_only * p->q.n_pairs : p->grid.cells;
    p->listed = p->q.only ? mem_take(cells_of_pair(&p->grid), sizeof *p->listed, e) : NULL;
    if (p->q.only && !p->listed) return false;
    for (size_t i = 0; p->q.only && i < p->q.n_only; i++) p->listed[p->q.only[i]] = true;
    p->cell = mem_take(cells + 2 * CHECK_LAYERS, sizeof *p->cell, e);
    p->group = mem_take(columns * p->q.n_pairs + 2, sizeof *p->group, e);
    if (!p->cell || !p->group) return false;
    add_checks(p);
    for (size_t i = 0; i < p->q.n_pairs; i++)
        for (uint32_t h = 0; h < p->grid.n_heads; h++)
            for (uint32_t pos = 0; pos < p->grid.n_pos; pos++) add_column(p, i, h, pos, most, &rows);
    p->group[++p->n_groups] = p->n_cells;
    for (size_t g = 0; g < p->n_groups; g++)
        qsort(p->cell + p->group[g], p->group[g + 1] - p->group[g], sizeof *p->cell, by_layer);
    return true;
}

/* The rows a cell enters with: the base's; of a full check the source's. */
static void enter(void *ctx, const struct cell *c, float *x, float *z)
{
    const struct patch *p = ctx;
    const struct arch *a = arch_of(p);
    enum patch_role role = c->kind == CELL_FULL ? PATCH_SOURCE : PATCH_BASE;
    enum hook stream = c->entry == ENTER_MID ? HOOK_RESID_MID : HOOK_RESID_PRE;
    size_t d = a->d_model, w = (size_t)a->n_heads * a->d_head, rows = n_used(&p->q.pair[c->base]) - c->first;
    const float *from = patch_runs_values(p->runs, c->base, role, (struct site){stream, c->layer});
    memcpy(x, from + c->first * d, rows * d * sizeof *x);
    if (!z) return;
    from = patch_runs_values(p->runs, c->base, role, (struct site){HOOK_Z, c->layer});
    memcpy(z, from + c->first * w, rows * w * sizeof *z);
}

static bool write_of(void *ctx, const struct cell *c, uint32_t layer, struct tap *out)
{
    const struct patch *p = ctx;
    const struct site site = {p->q.site, layer};
    const bool grid = c->kind == CELL_GRID, zero = grid && p->q.from == PATCH_FROM_ZERO;
    if (c->kind == CELL_FULL) return false;
    *out = (struct tap){.site = site, .op = TAP_SET, .weight = 1, .src_whole = !zero, .n_src_pos = n_used(&p->q.pair[c->base]),
                        .n_source = n_used(&p->q.pair[c->base]), .every_pos = true};
    if (!zero) out->src = patch_runs_values(p->runs, c->base, grid ? PATCH_SOURCE : PATCH_BASE, site);
    if (grid && patch_by_pos(p->q.axis)) out->every_pos = false, out->pos = &c->pos, out->n_pos = 1;
    if (grid && patch_by_head(p->q.axis)) out->head = &c->head, out->n_head = 1;
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
        double scale = p->q.pair->metric[m].kind == METRIC_NORM_LOGIT_DIFF ? fabs(s->clean - s->corrupt) : 1;
        double *check = c->kind == CELL_IDENTITY ? &p->grid.check_identity : &p->grid.check_full;
        double off = fabs(read[m] - (c->kind == CELL_IDENTITY ? base : source)) / scale;
        if (!(off <= *check)) *check = off;
    }
}

static void drop_sweep(struct patch *p)
{
    struct sweep_cost cost = sweep_cost(p->sweep);
    p->grid.rows += cost.rows;
    p->grid.flops += cost.flops;
    sweep_free(p->sweep);
    p->sweep = NULL;
    p->swept = false;
    p->n_evaluated = 0;
    p->next_group++;
}

/* From differences to what is asked for. */
static void finish(struct patch *p)
{
    for (size_t i = 0; i < p->q.n_pairs; i++)
        for (size_t m = 0; m < p->q.n_metrics; m++) {
            struct patch_scores *s = scores_of(p, i, m);
            const struct metric *metric = &p->q.pair[i].metric[m];
            bool logits = metric->kind == METRIC_NORM_LOGIT_DIFF || metric->kind == METRIC_LOGIT_DIFF;
            s->ld_clean = logits ? s->clean : (double)NAN;
            s->ld_corrupt = logits ? s->corrupt : (double)NAN;
            for (size_t k = 0; k < cells_of_pair(&p->grid); k++) s->values[k] = patch_normalised(metric, s, s->values[k]);
            s->clean = patch_normalised(metric, s, s->clean);
            s->corrupt = patch_normalised(metric, s, s->corrupt);
        }
}

/* The metrics of the group's next few cells, which are of one pair; the last ones end the group. */
static bool evaluate_some(struct patch *p, struct session *s, struct err *e)
{
    size_t first = p->group[p->next_group], end = p->group[p->next_group + 1], at = first + p->n_evaluated, n = 1;
    const struct cell *cell = p->cell + at;
    while (n < PANEL_ROWS && at + n < end && cell[n].base == cell->base) n++;
    struct panel panel = panel_of(p, cell->base);
    double *read = mem_take(n * p->q.n_metrics, sizeof *read, e);
    bool ok = read && panel_read(&panel, s, sweep_final(p->sweep) + p->n_evaluated * arch_of(p)->d_model, n, read, e);
    for (size_t i = 0; ok && i < n; i++) record(p, &cell[i], read + i * p->q.n_metrics);
    mem_drop(read);
    p->n_evaluated += n;
    p->done += n;
    if (at + n == end) drop_sweep(p);
    if (ok && p->next_group == p->n_groups) finish(p);
    return ok;
}

/* ---- the job ----------------------------------------------------------------------------------- */

/* Other weights, or no source at all, make a difference from the first position on. */
uint32_t patch_difference(const struct patch_request *q, const struct patch_pair *pair)
{
    uint32_t i = 0;
    if (q->from != PATCH_FROM_OTHER || source_view(q) != q->view) return 0;
    while (i < pair->n && pair->clean[i] == pair->corrupt[i]) i++;
    return i;
}

/* Rows of the largest turn: columns up to the budget, or one that is larger alone, and the checks. */
static size_t most_rows(const struct patch_request *q, uint32_t longest, size_t cells)
{
    const struct arch *a = &view_model(q->view)->arch;
    size_t budget = q->memory_bytes ? q->memory_bytes : DEFAULT_MEMORY;
    size_t column = plan_times(a->n_layers, longest), all = plan_times(cells, longest), most = budget / (a->d_model * sizeof(float));
    if (most < column) most = column;
    return plan_sum(all < most ? all : most, 2 * CHECK_LAYERS * (size_t)longest);
}

void patch_plan(const struct patch_request *q, int threads, struct plan *p)
{
    const struct arch *a = &view_model(q->view)->arch;
    uint32_t heads, pos, longest = 0;
    struct plan sweep = {0}, run = {0};
    struct err e;
    patch_columns(q, &heads, &pos);
    size_t each = plan_times(heads, pos), listed = q->only ? q->n_only : plan_times(a->n_layers, each);
    size_t grid = plan_times(listed, q->n_pairs), cells = grid + 2 * CHECK_LAYERS;
    struct patch_texts *texts = texts_of(q, &e);
    struct patch_runs_request runs = runs_of(q, texts);
    for (size_t i = 0; i < q->n_pairs; i++)
        if (n_used(&q->pair[i]) > longest) longest = n_used(&q->pair[i]);
    if (texts) patch_runs_plan(&runs, threads, &run);
    mem_drop(texts);
    panel_plan(a, q->pair->metric, q->n_metrics, p);
    plan_add(p, NEED_LOGITS, plan_times(has_kl(q) ? q->n_pairs + 1 : 1, sizeof(double) * (size_t)a->d_vocab));
    plan_add(p, NEED_ANSWER, plan_times(cells, sizeof(struct cell) + sizeof(size_t)));
    plan_add(p, NEED_ANSWER, plan_times(plan_times(plan_times(each, a->n_layers), q->n_pairs), 1 + plan_times(q->n_metrics, sizeof(double) + 64)));
    sweep_plan(a, longest, cells, most_rows(q, longest, grid), threads, &sweep);
    plan_peak(&run, &sweep);
    plan_with(p, &run);
}

static bool take_grid(struct patch *p, struct err *e)
{
    struct patch_grid *g = &p->grid;
    const size_t each = cells_of_pair(g), scores = p->q.n_pairs * p->q.n_metrics;
    g->cells = each * p->q.n_pairs;
    p->scores = mem_take(scores, sizeof *p->scores, e);
    p->values = p->scores ? mem_take(scores * each, sizeof *p->values, e) : NULL;
    p->first_difference = p->values ? mem_take(p->q.n_pairs, sizeof *p->first_difference, e) : NULL;
    p->base = p->first_difference ? mem_take(p->q.n_pairs, sizeof *p->base, e) : NULL;
    if (!p->base) return false;
    for (size_t i = 0; i < scores; i++) p->scores[i].values = p->values + i * each;
    for (size_t i = 0; i < p->q.n_pairs; i++) p->first_difference[i] = patch_difference(&p->q, &p->q.pair[i]);
    g->scores = p->scores;
    g->first_difference = p->first_difference;
    if (!has_full_check(&p->q)) g->check_full = NAN;
    if (!has_kl(&p->q)) return true;
    p->reference = mem_take(p->q.n_pairs * arch_of(p)->d_vocab, sizeof *p->reference, e);
    return p->reference != NULL;
}

struct patch *patch_new(const struct patch_request *q, struct err *e)
{
    assert(q->n_pairs && q->n_metrics && q->pair->metric->pos < q->pair->n);
    struct patch *p = mem_new(sizeof *p);
    p->q = *q;
    view_retain(q->view);
    p->grid.n_layers = arch_of(p)->n_layers;
    patch_columns(q, &p->grid.n_heads, &p->grid.n_pos);
    p->maker = (struct cell_maker){enter, write_of, p};
    p->texts = texts_of(q, e);
    if (p->texts && take_grid(p, e) && plan_cells(p, e)) {
        struct patch_runs_request runs = runs_of(q, p->texts);
        p->runs = patch_runs_new(&runs, e);
    }
    if (p->runs) return p;
    patch_free(p);
    return NULL;
}

enum step patch_step(struct patch *p, struct session *s, struct err *e)
{
    if (!p->ran) {
        enum step step = patch_runs_step(p->runs, s, e);
        if (step == STEP_DONE && !end_runs(p, s, e)) return STEP_FAIL;
        return step == STEP_FAIL ? STEP_FAIL : STEP_MORE;
    }
    if (p->next_group == p->n_groups) return STEP_DONE;
    if (p->swept) {
        if (!evaluate_some(p, s, e)) return STEP_FAIL;
        return p->next_group == p->n_groups ? STEP_DONE : STEP_MORE;
    }
    size_t first = p->group[p->next_group];
    if (!p->sweep && !(p->sweep = sweep_new(p->q.view, p->base, p->cell + first, p->group[p->next_group + 1] - first,
                                            &p->maker, e)))
        return STEP_FAIL;
    enum step step = sweep_step(p->sweep, s, e);
    p->swept = step == STEP_DONE;
    return step == STEP_FAIL ? STEP_FAIL : STEP_MORE;
}

void patch_free(struct patch *p)
{
    if (!p) return;
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

bool patch_metric(struct patch *p, struct session *s, const float *x, size_t n, double *out, struct err *e)
{
    struct panel panel = panel_of(p, 0);
    panel.n_metrics = 1;
    if (!panel_read(&panel, s, x, n, out, e)) return false;
    for (size_t i = 0; i < n; i++) out[i] = patch_normalised(p->q.pair->metric, p->scores, out[i]);
    return true;
}

const float *patch_source(const struct patch *p, uint32_t layer)
{
    return patch_runs_values(p->runs, 0, PATCH_SOURCE, (struct site){p->q.site, layer});
}

void patch_progress(const struct patch *p, size_t *done, size_t *total)
{
    *done = p->done;
    *total = p->n_cells;
}

const struct patch_grid *patch_result(const struct patch *p) { return &p->grid; }
