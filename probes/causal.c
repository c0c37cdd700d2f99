#include "causal.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/base/random.h"
#include "core/head.h"
#include "panel.h"
#include "patch_runs.h"
#include "sweep.h"

enum { DEFAULT_MEMORY = 512u << 20 };
enum { CELL_RESTORED = CAUSAL_KINDS, CELL_IDENTITY }; /* kinds of cells beside the places in `kind` */

const char *const causal_words[CAUSAL_KINDS] = {"state", "mlp", "attn"};
static const enum hook sites[CAUSAL_KINDS] = {HOOK_RESID_POST, HOOK_MLP_OUT, HOOK_ATTN_OUT};

struct causal {
    struct causal_request q;
    struct causal_scores *scores; /* [n_facts] */
    size_t fact;                  /* the one in hand */
    /* of the fact in hand */
    float *noise;                 /* [samples][subject][d] */
    uint32_t *pos;                /* the subject's positions */
    struct tap *tap;              /* [samples] the noise */
    struct patch_texts *text;     /* [samples] */
    struct sweep_base *base;      /* [samples] */
    struct patch_runs *runs;
    bool ran, swept;
    double *low;                  /* [samples] each noised run's own p(answer) */
    struct metric metric;
    struct cell *cell;
    size_t n_cells;
    size_t *group, n_groups, next_group; /* group[g]: first cell; group[n_groups] the end */
    struct cell_maker maker;
    struct sweep *sweep;
    size_t n_evaluated;
    struct causal_cost cost;
    double restored, identity;
};

static const struct arch *arch_of(const struct causal *c) { return &view_model(c->q.view)->arch; }
static const struct causal_fact *fact_of(const struct causal *c) { return &c->q.fact[c->fact]; }

/* ---- noise ----------------------------------------------------------------------------------------- */

bool causal_embedding_sd(struct view *v, const struct causal_fact *fact, size_t n, double *out, struct err *e)
{
    const struct arch *a = &view_model(v)->arch;
    const struct matrix table = view_embed(v);
    float *row = mem_floats(a->d_model, e);
    double mean = 0, squares = 0, count = 0; /* Welford */
    for (size_t i = 0; row && i < n; i++)
        for (uint32_t t = fact[i].first; t < fact[i].end; t++) {
            matrix_rows_widen(&table, fact[i].ids[t], 1, row, a->d_model);
            for (uint32_t k = 0; k < a->d_model; k++) {
                double x = (double)a->embed_scale * (double)row[k], off = x - mean;
                mean += off / ++count;
                squares += off * (x - mean);
            }
        }
    *out = sqrt(squares / (count - 1));
    mem_drop(row);
    return row != NULL;
}

/* Box and Muller, in pairs. */
void causal_noise(uint64_t seed, double sd, size_t n, float *out)
{
    struct random r;
    random_init(&r, seed);
    for (size_t i = 0; i < n; i += 2) {
        double both[2];
        random_normals(&r, both);
        out[i] = (float)(sd * both[0]);
        if (i + 1 < n) out[i + 1] = (float)(sd * both[1]);
    }
}

void causal_window(enum causal_kind k, uint32_t window, uint32_t n_layers, uint32_t l, uint32_t *from, uint32_t *to)
{
    const uint32_t w = k == CAUSAL_STATE ? 1 : window, below = w / 2, above = w - w / 2;
    *from = l > below ? l - below : 0;
    *to = n_layers - l > above ? l + above : n_layers;
}

/* ---- the runs -------------------------------------------------------------------------------------- */

static void keep(struct patch_runs_request *r, enum patch_role role, enum hook hook, bool every_layer)
{
    for (size_t i = 0; i < r->n_keep; i++)
        if (r->keep[i].role == role && r->keep[i].hook == hook) {
            r->keep[i].every_layer |= every_layer;
            return;
        }
    assert(r->n_keep < PATCH_KEEPS);
    r->keep[r->n_keep++] = (struct patch_keep){role, hook, every_layer};
}

/* Rows that cells enter with are the bases', values put back the source's; the checks need a few more. */
static struct patch_runs_request runs_of(const struct causal_request *q, const struct patch_texts *text)
{
    const struct arch *a = &view_model(q->view)->arch;
    struct patch_runs_request r = {.view = {q->view, q->view}, .pair = text, .n_pairs = q->samples};
    keep(&r, PATCH_BASE, HOOK_RESID_PRE, false);
    keep(&r, PATCH_SOURCE, HOOK_RESID_PRE, false);
    keep(&r, PATCH_BASE, sites[q->kind[0]], false);
    for (size_t i = 0; i < q->n_kinds; i++) {
        const enum cell_entry at = sweep_entry(a, sites[q->kind[i]]);
        keep(&r, PATCH_SOURCE, sites[q->kind[i]], true);
        keep(&r, PATCH_BASE, at == ENTER_MID ? HOOK_RESID_MID : HOOK_RESID_PRE, true);
        if (at == ENTER_Z) keep(&r, PATCH_BASE, HOOK_Z, true);
    }
    return r;
}

static bool begin_fact(struct causal *c, struct err *e)
{
    const struct causal_fact *f = fact_of(c);
    const size_t d = arch_of(c)->d_model, subject = f->end - f->first, each = subject * d;
    mem_drop(c->noise);
    mem_drop(c->pos);
    c->noise = mem_floats(plan_times(c->q.samples, each), e);
    c->pos = c->noise ? mem_take(subject, sizeof *c->pos, e) : NULL;
    if (!c->pos) return false;
    causal_noise(c->q.seed, c->q.sd, c->q.samples * each, c->noise);
    for (uint32_t i = 0; i < subject; i++) c->pos[i] = f->first + i;
    for (size_t i = 0; i < c->q.samples; i++) {
        c->tap[i] = (struct tap){.site = {HOOK_EMBED, 0}, .op = TAP_ADD, .weight = 1, .pos = c->pos, .n_pos = subject,
                                 .src = c->noise + i * each, .n_src_pos = subject};
        c->text[i] = (struct patch_texts){.ids = {f->ids, f->ids}, .n = f->n, .write = &c->tap[i], .n_write = 1, .shares = i > 0};
    }
    struct patch_runs_request runs = runs_of(&c->q, c->text);
    c->runs = patch_runs_new(&runs, e);
    return c->runs != NULL;
}

/* What the clean run says, and whether that is the answer. */
static bool read_clean(struct causal *c, struct session *s, struct err *e)
{
    struct causal_scores *out = &c->scores[c->fact];
    const uint32_t V = arch_of(c)->d_vocab;
    float *logits = mem_floats(V, e);
    bool ok = logits && unembed(s, c->q.view, patch_runs_final(c->runs, 0, PATCH_SOURCE), 1, NULL, logits, e);
    if (ok) {
        out->said = arg_max(logits, V);
        out->answer = fact_of(c)->given ? fact_of(c)->answer : out->said;
        out->dropped = c->q.expect && out->answer != out->said;
        out->high = exp(log_prob(logits, V, out->answer));
        c->metric = (struct metric){.kind = METRIC_PROB, .answer = &out->answer, .n_answer = 1};
    }
    mem_drop(logits);
    return ok;
}

static struct panel panel_of(const struct causal *c) { return (struct panel){.view = c->q.view, .metric = &c->metric, .n_metrics = 1}; }

static bool read_low(struct causal *c, struct session *s, struct err *e)
{
    const struct causal_fact *f = fact_of(c);
    struct causal_scores *out = &c->scores[c->fact];
    struct panel panel = panel_of(c);
    const size_t cells = (size_t)arch_of(c)->n_layers * f->n;
    for (size_t i = 0; i < c->q.samples; i++) {
        if (!panel_read(&panel, s, patch_runs_final(c->runs, i, PATCH_BASE), 1, &c->low[i], e)) return false;
        c->base[i] = (struct sweep_base){f->n, patch_runs_kv(c->runs, i)};
    }
    out->low = 0;
    for (size_t i = 0; i < c->q.samples; i++) out->low += c->low[i] / c->q.samples;
    for (size_t k = 0; k < c->q.n_kinds; k++) {
        if (!(out->score[k] = mem_take(cells, sizeof(double), e))) return false;
        for (size_t i = 0; i < cells; i++) out->score[k][i] = i % f->n < f->first ? out->low : 0;
    }
    return true;
}

/* ---- cells ----------------------------------------------------------------------------------------- */

static size_t columns(const struct causal_request *q, const struct causal_fact *f)
{
    return plan_times(plan_times(q->samples, q->n_kinds), f->n - f->first);
}

static void add_checks(struct causal *c, uint32_t sample)
{
    const uint32_t first = fact_of(c)->first, middle = arch_of(c)->n_layers / 2;
    c->cell[c->n_cells++] = (struct cell){.base = sample, .first = first, .entry = ENTER_PRE, .kind = CELL_RESTORED};
    c->cell[c->n_cells++] = (struct cell){.base = sample, .layer = middle, .last = middle, .first = first, .pos = first,
                                          .entry = sweep_entry(arch_of(c), sites[c->q.kind[0]]), .kind = CELL_IDENTITY};
}

static void add_column(struct causal *c, uint32_t sample, uint32_t kind, uint32_t pos)
{
    const enum causal_kind k = c->q.kind[kind];
    const uint32_t L = arch_of(c)->n_layers;
    for (uint32_t l = 0; l < L; l++) {
        uint32_t from, to;
        causal_window(k, c->q.window, L, l, &from, &to);
        c->cell[c->n_cells++] = (struct cell){.base = sample, .layer = from, .last = to - 1, .first = pos, .pos = pos, .kind = kind,
                                              .entry = sweep_entry(arch_of(c), sites[k]), .out = (size_t)l * fact_of(c)->n + pos};
    }
}

static int by_layer(const void *x, const void *y)
{
    const struct cell *a = x, *b = y;
    if (a->layer != b->layer) return a->layer < b->layer ? -1 : 1;
    if (a->entry != b->entry) return a->entry < b->entry ? -1 : 1;
    if (a->base != b->base) return a->base < b->base ? -1 : 1;
    if (a->kind != b->kind) return a->kind < b->kind ? -1 : 1;
    return (a->out > b->out) - (a->out < b->out);
}

/* Columns in turns, each turn's rows within the budget; the first turn carries the checks. */
static bool plan_cells(struct causal *c, struct err *e)
{
    const struct causal_fact *f = fact_of(c);
    const uint32_t L = arch_of(c)->n_layers;
    const size_t most = (c->q.memory_bytes ? c->q.memory_bytes : DEFAULT_MEMORY) / (arch_of(c)->d_model * sizeof(float));
    const size_t n = columns(&c->q, f);
    size_t rows = 0;
    mem_drop(c->cell);
    mem_drop(c->group);
    c->n_cells = c->n_groups = c->next_group = 0;
    c->cell = mem_take(plan_sum(plan_times(n, L), 2 * c->q.samples), sizeof *c->cell, e);
    c->group = c->cell ? mem_take(plan_sum(n, 2), sizeof *c->group, e) : NULL;
    if (!c->group) return false;
    for (uint32_t i = 0; i < c->q.samples; i++) add_checks(c, i);
    for (uint32_t i = 0; i < c->q.samples; i++)
        for (uint32_t k = 0; k < c->q.n_kinds; k++)
            for (uint32_t pos = f->first; pos < f->n; pos++) {
                const size_t column = (size_t)L * (f->n - pos);
                if (rows && rows + column > most) c->group[++c->n_groups] = c->n_cells, rows = 0;
                rows += column;
                add_column(c, i, k, pos);
            }
    c->group[++c->n_groups] = c->n_cells;
    for (size_t g = 0; g < c->n_groups; g++)
        qsort(c->cell + c->group[g], c->group[g + 1] - c->group[g], sizeof *c->cell, by_layer);
    c->cost.cells += plan_times(plan_times(c->q.samples * c->q.n_kinds, L), f->n);
    c->cost.cells_run += c->n_cells - 2 * c->q.samples;
    return true;
}

static void enter(void *ctx, const struct cell *cell, float *x, float *z)
{
    const struct causal *c = ctx;
    const struct arch *a = arch_of(c);
    const size_t d = a->d_model, w = (size_t)a->n_heads * a->d_head, rows = fact_of(c)->n - cell->first;
    const enum hook stream = cell->entry == ENTER_MID ? HOOK_RESID_MID : HOOK_RESID_PRE;
    const float *from = patch_runs_values(c->runs, cell->base, PATCH_BASE, (struct site){stream, cell->layer});
    memcpy(x, from + cell->first * d, rows * d * sizeof *x);
    if (!z) return;
    from = patch_runs_values(c->runs, cell->base, PATCH_BASE, (struct site){HOOK_Z, cell->layer});
    memcpy(z, from + cell->first * w, rows * w * sizeof *z);
}

/* The stream that enters layer 0 is the embedding (and position): put back, it is the embedding put back. */
static size_t write_of(void *ctx, const struct cell *cell, uint32_t layer, struct tap *out)
{
    const struct causal *c = ctx;
    const struct causal_fact *f = fact_of(c);
    const bool all = cell->kind == CELL_RESTORED;
    const enum patch_role role = cell->kind == CELL_IDENTITY ? PATCH_BASE : PATCH_SOURCE;
    const struct site site = {all ? HOOK_RESID_PRE : sites[c->q.kind[cell->kind < CAUSAL_KINDS ? cell->kind : 0]], layer};
    *out = (struct tap){.site = site, .op = TAP_SET, .weight = 1, .src = patch_runs_values(c->runs, cell->base, role, site),
                        .src_whole = true, .n_src_pos = f->n, .n_source = f->n, .pos = all ? c->pos : &cell->pos,
                        .n_pos = all ? f->end - f->first : 1};
    return 1;
}

static void record(struct causal *c, const struct cell *cell, double p)
{
    if (cell->kind < CAUSAL_KINDS) {
        c->scores[c->fact].score[cell->kind][cell->out] += p / c->q.samples;
        return;
    }
    const bool restored = cell->kind == CELL_RESTORED;
    double *check = restored ? &c->restored : &c->identity, off = fabs(p - (restored ? c->scores[c->fact].high : c->low[cell->base]));
    if (!(off <= *check)) *check = off;
}

/* ---- the job --------------------------------------------------------------------------------------- */

void causal_plan(const struct causal_request *q, int threads, struct plan *p)
{
    const struct arch *a = &view_model(q->view)->arch;
    const size_t L = a->n_layers, most = (q->memory_bytes ? q->memory_bytes : DEFAULT_MEMORY) / (a->d_model * sizeof(float));
    const struct metric prob = {.kind = METRIC_PROB, .n_answer = 1};
    struct plan peak = {0};
    for (size_t i = 0; i < q->n_facts; i++) {
        const struct causal_fact *f = &q->fact[i];
        const size_t n = columns(q, f), column = plan_times(L, f->n), all = plan_times(n, column);
        struct plan run = {0}, sweep = {0};
        struct patch_texts *text = mem_new(plan_times(q->samples, sizeof *text));
        for (size_t k = 0; k < q->samples; k++) text[k] = (struct patch_texts){.n = f->n, .n_write = 1, .shares = k > 0};
        struct patch_runs_request runs = runs_of(q, text);
        patch_runs_plan(&runs, threads, &run);
        mem_drop(text);
        const size_t cells = plan_sum(plan_times(n, L), 2 * q->samples);
        sweep_plan(a, f->n, cells, plan_sum(all < most ? all : most < column ? column : most, plan_times(2 * q->samples, f->n)), threads, &sweep);
        plan_add(&sweep, NEED_ANSWER, plan_times(plan_sum(cells, n), sizeof(struct cell) + sizeof(size_t)));
        plan_with(&sweep, &run); /* the runs' values are read while it walks */
        plan_add(&sweep, NEED_CAPTURES, mem_floats_bytes(plan_times(plan_times(q->samples, f->end - f->first), a->d_model)));
        plan_peak(&peak, &sweep);
        plan_add(p, NEED_ANSWER, plan_times(plan_times(q->n_kinds, plan_times(L, f->n)), sizeof(double)) + sizeof(struct causal_scores));
    }
    plan_with(p, &peak);
    panel_plan(a, &prob, 1, p);
    plan_add(p, NEED_LOGITS, mem_floats_bytes(a->d_vocab));
    plan_add(p, NEED_REQUEST, plan_times(q->samples, sizeof(struct tap) + sizeof(struct patch_texts) + 64));
}

struct causal *causal_new(const struct causal_request *q, struct err *e)
{
    assert(q->n_facts && q->n_kinds && q->samples && q->window);
    struct causal *c = mem_new(sizeof *c);
    c->q = *q;
    view_retain(q->view);
    c->maker = (struct cell_maker){enter, write_of, c, 1};
    c->restored = c->identity = -1;
    c->scores = mem_take(q->n_facts, sizeof *c->scores, e);
    c->tap = c->scores ? mem_take(q->samples, sizeof *c->tap, e) : NULL;
    c->text = c->tap ? mem_take(q->samples, sizeof *c->text, e) : NULL;
    c->base = c->text ? mem_take(q->samples, sizeof *c->base, e) : NULL;
    c->low = c->base ? mem_take(q->samples, sizeof *c->low, e) : NULL;
    if (c->low) return c;
    causal_free(c);
    return NULL;
}

void causal_free(struct causal *c)
{
    if (!c) return;
    sweep_free(c->sweep);
    patch_runs_free(c->runs);
    for (size_t i = 0; c->scores && i < c->q.n_facts; i++)
        for (size_t k = 0; k < CAUSAL_KINDS; k++) mem_drop(c->scores[i].score[k]);
    mem_drop(c->scores);
    mem_drop(c->noise);
    mem_drop(c->pos);
    mem_drop(c->tap);
    mem_drop(c->text);
    mem_drop(c->base);
    mem_drop(c->low);
    mem_drop(c->cell);
    mem_drop(c->group);
    view_drop(c->q.view);
    mem_drop(c);
}

static void end_fact(struct causal *c)
{
    patch_runs_free(c->runs);
    c->runs = NULL;
    c->ran = false;
    c->fact++;
}

/* The runs are there: is it to be traced? */
static bool end_runs(struct causal *c, struct session *s, struct err *e)
{
    if (!read_clean(c, s, e)) return false;
    if (c->scores[c->fact].dropped) {
        c->scores[c->fact].low = NAN;
        end_fact(c);
        return true;
    }
    c->ran = true;
    return read_low(c, s, e) && plan_cells(c, e);
}

static bool evaluate_some(struct causal *c, struct session *s, struct err *e)
{
    const size_t first = c->group[c->next_group], end = c->group[c->next_group + 1], at = first + c->n_evaluated;
    const size_t n = end - at < PANEL_ROWS ? end - at : PANEL_ROWS;
    struct panel panel = panel_of(c);
    double p[PANEL_ROWS];
    if (!panel_read(&panel, s, sweep_final(c->sweep) + c->n_evaluated * arch_of(c)->d_model, n, p, e)) return false;
    for (size_t i = 0; i < n; i++) record(c, &c->cell[at + i], p[i]);
    c->n_evaluated += n;
    if (at + n < end) return true;
    const struct sweep_cost cost = sweep_forecast(arch_of(c), c->base, c->cell + first, end - first);
    c->cost.rows += cost.rows;
    c->cost.flops += cost.flops;
    sweep_free(c->sweep);
    c->sweep = NULL;
    c->swept = false;
    c->n_evaluated = 0;
    if (++c->next_group == c->n_groups) end_fact(c);
    return true;
}

enum step causal_step(struct causal *c, struct session *s, struct err *e)
{
    enum step step;
    if (c->fact == c->q.n_facts) return STEP_DONE;
    if (!c->ran) {
        if (!c->runs && !begin_fact(c, e)) return STEP_FAIL;
        step = patch_runs_step(c->runs, s, e);
        return step == STEP_FAIL || (step == STEP_DONE && !end_runs(c, s, e)) ? STEP_FAIL : STEP_MORE;
    }
    if (c->swept) return evaluate_some(c, s, e) ? STEP_MORE : STEP_FAIL;
    const size_t first = c->group[c->next_group];
    if (!c->sweep)
        c->sweep = sweep_new(c->q.view, c->base, c->cell + first, c->group[c->next_group + 1] - first, &c->maker, e);
    step = c->sweep ? sweep_step(c->sweep, s, e) : STEP_FAIL;
    c->swept = step == STEP_DONE;
    return step == STEP_FAIL ? STEP_FAIL : STEP_MORE;
}

void causal_progress(const struct causal *c, size_t *done, size_t *total)
{
    *done = c->fact;
    *total = c->q.n_facts;
}

const struct causal_scores *causal_result(const struct causal *c, size_t fact) { return &c->scores[fact]; }
struct causal_cost causal_cost(const struct causal *c) { return c->cost; }

void causal_checks(const struct causal *c, double *restored, double *identity)
{
    *restored = c->restored < 0 ? (double)NAN : c->restored;
    *identity = c->identity < 0 ? (double)NAN : c->identity;
}
