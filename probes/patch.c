#include "patch.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/head.h"
#include "sweep.h"

enum kind { CELL_GRID, CELL_IDENTITY, CELL_FULL };
enum { CHECK_LAYERS = 3, DEFAULT_MEMORY = 512u << 20, METRIC_ROWS = 64 };

/* The activations of one of the two runs, for all layers: stream and, where needed, z. */
struct capture {
    float *pre; /* [L][n][d] */
    float *z;   /* [L][n][H·e] */
};

struct patch {
    struct patch_request q;
    struct patch_grid grid;
    struct run *run;         /* of base and source together */
    struct capture base, source;
    struct kv *kv;           /* the base's */
    struct taps taps;
    struct cell *cell;       /* grid cells by group and layer, checks with the first group */
    size_t n_cells;
    size_t *group, n_groups, next_group; /* group[g]: first cell; group[n_groups] the end */
    struct sweep_base sweep_base;
    struct sweep *sweep;
    bool swept;              /* the group's cells are through the layers, their metrics are due */
    size_t n_evaluated;
    double *reference;       /* kl: log-probabilities of the source at the metric's position */
    double ld_clean, ld_corrupt;
    uint32_t n_used;         /* rows that matter: metric.pos + 1 */
    size_t done;
};

static const struct arch *arch_of(const struct patch *p) { return &view_model(p->q.view)->arch; }
static bool uses_z(const struct patch *p) { return p->q.site == HOOK_Z; }
static size_t z_width(const struct patch *p) { return (size_t)arch_of(p)->n_heads * arch_of(p)->d_head; }

/* ---- the two runs ------------------------------------------------------------------------------ */

static bool capture_taps(struct patch *p, struct capture *c, uint32_t seq, struct err *e)
{
    const struct arch *a = arch_of(p);
    size_t n = p->n_used, d = a->d_model;
    c->pre = mem_floats(a->n_layers * n * d, e);
    c->z = uses_z(p) ? mem_floats(a->n_layers * n * z_width(p), e) : NULL;
    if (!c->pre || (uses_z(p) && !c->z)) return false;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        p->taps.tap[p->taps.n++] = (struct tap){.site = {HOOK_RESID_PRE, l}, .seq = seq,
                                                .every_pos = true, .dst = c->pre + l * n * d};
        if (uses_z(p))
            p->taps.tap[p->taps.n++] = (struct tap){.site = {HOOK_Z, l}, .seq = seq, .every_pos = true,
                                                    .dst = c->z + l * n * z_width(p)};
    }
    return true;
}

static bool begin_runs(struct patch *p, struct err *e)
{
    const uint32_t *base = p->q.denoise ? p->q.corrupt : p->q.clean;
    const uint32_t *source = p->q.denoise ? p->q.clean : p->q.corrupt;
    p->taps.tap = mem_take(4 * (size_t)arch_of(p)->n_layers, sizeof(struct tap), e);
    p->kv = kv_new(arch_of(p));
    if (!p->taps.tap || !capture_taps(p, &p->base, 0, e) || !capture_taps(p, &p->source, 1, e))
        return false;
    const struct run_input in[2] = {
        {.ids = base, .n = p->n_used, .kv = p->kv, .seq = 0, .want = &p->q.metric.pos, .n_want = 1},
        {.ids = source, .n = p->n_used, .seq = 1, .want = &p->q.metric.pos, .n_want = 1}};
    p->run = run_new(p->q.view, in, 2, &p->taps, e);
    return p->run != NULL;
}

/* ---- metrics ----------------------------------------------------------------------------------- */

/* Metric of final rows x [n][d] into out; norm_logit_diff is left as the difference. */
static bool evaluate(struct patch *p, struct session *s, const float *x, size_t n, double *out, struct err *e)
{
    const struct metric *m = &p->q.metric;
    const uint32_t V = arch_of(p)->d_vocab;
    bool vocab = metric_needs_vocab(m->kind);
    size_t width = vocab ? V : m->n_answer + m->n_foil, d = arch_of(p)->d_model;
    uint32_t *ids = mem_take(m->n_answer + m->n_foil, sizeof *ids, e);
    float *logits = ids ? mem_floats(METRIC_ROWS * width, e) : NULL;
    bool ok = logits != NULL;
    if (ok) {
        if (m->n_answer) memcpy(ids, m->answer, m->n_answer * sizeof *ids);
        if (m->n_foil) memcpy(ids + m->n_answer, m->foil, m->n_foil * sizeof *ids);
    }
    for (size_t at = 0; ok && at < n; at += METRIC_ROWS) {
        size_t k = n - at < METRIC_ROWS ? n - at : METRIC_ROWS;
        ok = vocab ? unembed(s, p->q.view, x + at * d, k, NULL, logits, e)
                   : unembed_ids(s, p->q.view, x + at * d, k, ids, width, logits, e);
        for (size_t i = 0; ok && i < k; i++)
            out[at + i] = vocab ? metric_of_logits(m, logits + i * width, V, p->reference)
                                : logit_diff(logits + i * width, m->n_answer, metric_needs_foil(m->kind) ? m->n_foil : 0);
    }
    mem_drop(ids);
    mem_drop(logits);
    return ok;
}

static double normalised(const struct patch *p, double value)
{
    return p->q.metric.kind == METRIC_NORM_LOGIT_DIFF
               ? (value - p->ld_corrupt) / (p->ld_clean - p->ld_corrupt)
               : value;
}

static bool keep_reference(struct patch *p, struct session *s, struct err *e)
{
    uint32_t V = arch_of(p)->d_vocab;
    float *logits = mem_floats(V, e);
    p->reference = logits ? mem_take(V, sizeof(double), e) : NULL;
    bool ok = p->reference && unembed(s, p->q.view, run_final(p->run, 1), 1, NULL, logits, e);
    if (ok) log_softmax(logits, V, p->reference);
    mem_drop(logits);
    return ok;
}

static bool end_runs(struct patch *p, struct session *s, struct err *e)
{
    double base, source;
    if (p->q.metric.kind == METRIC_KL && !keep_reference(p, s, e)) return false;
    if (!evaluate(p, s, run_final(p->run, 0), 1, &base, e) ||
        !evaluate(p, s, run_final(p->run, 1), 1, &source, e))
        return false;
    p->ld_clean = p->q.denoise ? source : base;
    p->ld_corrupt = p->q.denoise ? base : source;
    if (p->q.metric.kind == METRIC_NORM_LOGIT_DIFF && !(fabs(p->ld_clean - p->ld_corrupt) >= 1e-3))
        return err_field(e, ERR_UNPROCESSABLE, "metric.kind",
                         "the logit differences of clean (%g) and corrupt (%g) are closer than 0.001: "
                         "nothing to normalise by", p->ld_clean, p->ld_corrupt);
    p->grid.clean = normalised(p, p->ld_clean);
    p->grid.corrupt = normalised(p, p->ld_corrupt);
    double unpatched = p->q.denoise ? p->grid.corrupt : p->grid.clean;
    for (size_t i = 0; i < p->grid.cells; i++) p->grid.values[i] = unpatched;
    run_free(p->run);
    p->run = NULL;
    return true;
}

/* ---- cells ------------------------------------------------------------------------------------- */

/* First position a column's cells differ from the base at; n_used when they cannot matter. */
static uint32_t column_first(const struct patch *p, uint32_t column)
{
    uint32_t p0 = p->grid.first_difference;
    if (p->q.axis != PATCH_LAYER_POS) return p0 < p->n_used ? p0 : p->n_used;
    return column >= p0 && column < p->n_used ? column : p->n_used;
}

static void add_cell(struct patch *p, uint32_t layer, uint32_t first, uint32_t column, enum kind kind)
{
    p->cell[p->n_cells++] = (struct cell){.layer = layer, .first = first, .column = column, .kind = kind,
                                          .entry = uses_z(p) ? ENTER_Z : ENTER_PRE,
                                          .out = (size_t)layer * p->grid.n_columns + column};
}

/* A few cells whose answer is known, at the bottom, in the middle and at the top. Everything
 * patched at z is the source run only where the stream below is patched too. */
static void add_checks(struct patch *p)
{
    uint32_t L = arch_of(p)->n_layers, layers[CHECK_LAYERS] = {0, L / 2, L - 1};
    for (int i = 0; i < CHECK_LAYERS; i++) {
        if (i && layers[i] == layers[i - 1]) continue;
        add_cell(p, layers[i], 0, 0, CELL_IDENTITY);
        add_cell(p, layers[i], 0, 0, CELL_FULL);
    }
}

static int by_layer(const void *x, const void *y)
{
    const struct cell *a = x, *b = y;
    if (a->layer != b->layer) return a->layer < b->layer ? -1 : 1;
    if (a->kind != b->kind) return a->kind < b->kind ? -1 : 1;
    return (a->column > b->column) - (a->column < b->column);
}

/* Columns in turns, each turn's rows within the budget; the first turn carries the checks. */
static bool plan_cells(struct patch *p, struct err *e)
{
    const struct arch *a = arch_of(p);
    size_t budget = p->q.memory_bytes ? p->q.memory_bytes : DEFAULT_MEMORY;
    size_t most = budget / (a->d_model * sizeof(float)), rows = 0;
    p->cell = mem_take(p->grid.cells + 2 * CHECK_LAYERS, sizeof *p->cell, e);
    p->group = mem_take((size_t)p->grid.n_columns + 2, sizeof *p->group, e);
    if (!p->cell || !p->group) return false;
    add_checks(p);
    for (uint32_t c = 0; c < p->grid.n_columns; c++) {
        uint32_t first = column_first(p, c);
        size_t column_rows = (size_t)a->n_layers * (p->n_used - first);
        if (!column_rows) continue;
        if (rows && rows + column_rows > most) {
            p->group[++p->n_groups] = p->n_cells;
            rows = 0;
        }
        rows += column_rows;
        for (uint32_t l = 0; l < a->n_layers; l++) add_cell(p, l, first, c, CELL_GRID);
        p->grid.cells_run += a->n_layers;
    }
    p->group[++p->n_groups] = p->n_cells;
    for (size_t g = 0; g < p->n_groups; g++)
        qsort(p->cell + p->group[g], p->group[g + 1] - p->group[g], sizeof *p->cell, by_layer);
    return true;
}

/* The rows a cell enters with: the base's, with the patched place from the source. */
static void fill(void *ctx, const struct cell *c, float *x, float *z)
{
    const struct patch *p = ctx;
    const struct arch *a = arch_of(p);
    size_t d = a->d_model, w = z_width(p), e = a->d_head, n = p->n_used;
    size_t rows = n - c->first, at = (size_t)c->layer * n + c->first;
    const struct capture *from = c->kind == CELL_FULL ? &p->source : &p->base;
    memcpy(x, from->pre + at * d, rows * d * sizeof *x);
    if (z) memcpy(z, from->z + at * w, rows * w * sizeof *z);
    if (c->kind != CELL_GRID) return;
    if (p->q.axis == PATCH_LAYER_POS) {
        memcpy(x, p->source.pre + at * d, d * sizeof *x);
        return;
    }
    size_t head = p->q.axis == PATCH_LAYER ? 0 : c->column * e, width = p->q.axis == PATCH_LAYER ? w : e;
    for (size_t r = 0; r < rows; r++)
        memcpy(z + r * w + head, p->source.z + (at + r) * w + head, width * sizeof *z);
}

static void record(struct patch *p, const struct cell *c, double value)
{
    double source = p->q.denoise ? p->grid.clean : p->grid.corrupt;
    double base = p->q.denoise ? p->grid.corrupt : p->grid.clean;
    value = normalised(p, value);
    double *check = c->kind == CELL_IDENTITY ? &p->grid.check_identity : &p->grid.check_full;
    double off = fabs(value - (c->kind == CELL_IDENTITY ? base : source));
    if (c->kind == CELL_GRID) p->grid.values[c->out] = value;
    else if (!(off <= *check)) *check = off;
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

/* The metric of the group's next few cells; the last ones end the group. */
static bool evaluate_some(struct patch *p, struct session *s, struct err *e)
{
    size_t first = p->group[p->next_group], n = p->group[p->next_group + 1] - first, at = p->n_evaluated;
    size_t k = n - at < METRIC_ROWS ? n - at : METRIC_ROWS;
    double values[METRIC_ROWS];
    if (!evaluate(p, s, sweep_final(p->sweep) + at * arch_of(p)->d_model, k, values, e)) return false;
    for (size_t i = 0; i < k; i++) record(p, &p->cell[first + at + i], values[i]);
    p->n_evaluated += k;
    p->done += k;
    if (p->n_evaluated == n) drop_sweep(p);
    return true;
}

/* ---- the job ----------------------------------------------------------------------------------- */

static uint32_t difference(const struct patch_request *q)
{
    uint32_t i = 0;
    while (i < q->n && q->clean[i] == q->corrupt[i]) i++;
    return i;
}

static uint32_t columns_of(const struct arch *a, const struct patch_request *q)
{
    return q->axis == PATCH_LAYER_POS ? q->n : q->axis == PATCH_LAYER ? 1 : a->n_heads;
}

/* Rows of the largest turn: columns up to the budget, or one that is larger alone, and the checks. */
static size_t most_rows(const struct arch *a, const struct patch_request *q)
{
    size_t budget = q->memory_bytes ? q->memory_bytes : DEFAULT_MEMORY, n = q->metric.pos + (size_t)1;
    size_t column = a->n_layers * n, all = plan_times(column, columns_of(a, q)), most = budget / (a->d_model * sizeof(float));
    if (most < column) most = column;
    return (all < most ? all : most) + 2 * CHECK_LAYERS * n;
}

void patch_plan(const struct patch_request *q, int threads, struct plan *p)
{
    const struct arch *a = &view_model(q->view)->arch;
    size_t n = q->metric.pos + (size_t)1, cells = plan_times(a->n_layers, columns_of(a, q)) + 2 * CHECK_LAYERS;
    size_t stream = mem_floats_bytes(a->n_layers * n * a->d_model),
           z = q->site == HOOK_Z ? mem_floats_bytes(a->n_layers * n * a->n_heads * a->d_head) : 0,
           listed = q->metric.n_answer + q->metric.n_foil, wide = metric_needs_vocab(q->metric.kind) ? a->d_vocab : listed;
    struct run_size runs = {0};
    struct plan run = {0}, sweep = {0};
    plan_add(p, NEED_CAPTURES, 2 * (stream + z));
    plan_add(p, NEED_CACHES, kv_bytes(a, n));
    plan_add(p, NEED_LOGITS, mem_floats_bytes(METRIC_ROWS * wide) + 2 * sizeof(double) * (size_t)a->d_vocab);
    plan_add(p, NEED_ANSWER, plan_times(cells, sizeof(struct cell) + sizeof(double) + 64)); /* and their text */
    plan_add(p, NEED_SCRATCH, mem_floats_bytes(listed * a->d_model));
    run_size_add(&runs, 0, n, 1, true);
    run_size_add(&runs, 0, n, 1, false);
    run_plan(&runs, a, threads, &run);
    sweep_plan(a, (uint32_t)n, cells, most_rows(a, q), threads, &sweep);
    plan_peak(&run, &sweep);
    plan_with(p, &run);
}

struct patch *patch_new(const struct patch_request *q, struct err *e)
{
    assert(q->metric.pos < q->n);
    struct patch *p = mem_new(sizeof *p);
    p->q = *q;
    view_retain(q->view);
    p->n_used = q->metric.pos + 1;
    p->grid.n_layers = arch_of(p)->n_layers;
    p->grid.n_columns = columns_of(arch_of(p), q);
    p->grid.cells = (size_t)p->grid.n_layers * p->grid.n_columns;
    p->grid.first_difference = difference(q);
    p->grid.values = mem_take(p->grid.cells, sizeof(double), e);
    if (p->grid.values && plan_cells(p, e) && begin_runs(p, e)) {
        p->sweep_base = (struct sweep_base){q->view, p->n_used, p->kv};
        return p;
    }
    patch_free(p);
    return NULL;
}

enum step patch_step(struct patch *p, struct session *s, struct err *e)
{
    if (p->run) {
        enum step step = run_step(p->run, s, e);
        if (step == STEP_DONE && !end_runs(p, s, e)) return STEP_FAIL;
        return step == STEP_FAIL ? STEP_FAIL : STEP_MORE;
    }
    if (p->next_group == p->n_groups) return STEP_DONE;
    if (p->swept) {
        if (!evaluate_some(p, s, e)) return STEP_FAIL;
        return p->next_group == p->n_groups ? STEP_DONE : STEP_MORE;
    }
    size_t first = p->group[p->next_group];
    if (!p->sweep &&
        !(p->sweep = sweep_new(&p->sweep_base, p->cell + first, p->group[p->next_group + 1] - first, fill, p, e)))
        return STEP_FAIL;
    enum step step = sweep_step(p->sweep, s, e);
    p->swept = step == STEP_DONE;
    return step == STEP_FAIL ? STEP_FAIL : STEP_MORE;
}

void patch_free(struct patch *p)
{
    if (!p) return;
    run_free(p->run);
    sweep_free(p->sweep);
    kv_free(p->kv);
    mem_drop(p->taps.tap);
    mem_drop(p->base.pre), mem_drop(p->base.z), mem_drop(p->source.pre), mem_drop(p->source.z);
    mem_drop(p->cell);
    mem_drop(p->group);
    mem_drop(p->reference);
    mem_drop(p->grid.values);
    view_drop(p->q.view);
    mem_drop(p);
}

bool patch_metric(struct patch *p, struct session *s, const float *x, size_t n, double *out, struct err *e)
{
    if (!evaluate(p, s, x, n, out, e)) return false;
    for (size_t i = 0; i < n; i++) out[i] = normalised(p, out[i]);
    return true;
}

void patch_progress(const struct patch *p, size_t *done, size_t *total)
{
    *done = p->done;
    *total = p->n_cells;
}

const struct patch_grid *patch_result(const struct patch *p) { return &p->grid; }
