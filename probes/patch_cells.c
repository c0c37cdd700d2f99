#include "patch_int.h"

#include <string.h>

/* Rows of a turn: as many as fit the memory, and no more than take a few seconds, so that a grid that is
 * given up half way has something to show. */
enum { DEFAULT_MEMORY = 512u << 20 };
#define TURN_FLOPS 4e11

void patch_columns(const struct patch_request *q, uint32_t *heads, uint32_t *pos)
{
    const struct arch *a = &view_model(q->view)->arch;
    const uint32_t units = q->block ? (hook_width(a, q->site) + q->block - 1) / q->block : hook_heads(a, q->site);
    *heads = patch_by_head(q->axis) ? units : 1;
    *pos = patch_by_pos(q->axis) ? q->pair->n : 1;
}

/* At most so many rows a turn; a column that has more is a turn of its own. */
static size_t turn_rows(const struct patch_request *q)
{
    const struct arch *a = &view_model(q->view)->arch;
    const size_t memory = (q->memory_bytes ? q->memory_bytes : DEFAULT_MEMORY) / (a->d_model * sizeof(float));
    const double time = TURN_FLOPS / (0.5 * run_flops(a, 1)); /* a row goes through half of the layers, on average */
    return time < (double)memory ? (size_t)time : memory;
}

size_t patch_most_rows(const struct patch_request *q, uint32_t longest, size_t cells)
{
    size_t column = plan_times(view_model(q->view)->arch.n_layers, longest), all = plan_times(cells, longest), most = turn_rows(q);
    if (most < column) most = column;
    return plan_sum(all < most ? all : most, 2 * CHECK_LAYERS * (size_t)longest);
}

/* First position a column's cells differ from the base at; n when they cannot matter. */
static uint32_t column_first(const struct patch *p, size_t pair, uint32_t pos)
{
    uint32_t p0 = p->first_difference[pair], n = patch_used(&p->q.pair[pair]);
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
        .entry = sweep_entry(patch_arch(p), p->q.site), .out = ((size_t)layer * g->n_heads + head) * g->n_pos + pos};
}

static void add_checks(struct patch *p)
{
    uint32_t layers[CHECK_LAYERS], n = patch_check_layers(patch_arch(p), layers);
    for (uint32_t i = 0; i < n; i++) {
        add_cell(p, 0, layers[i], 0, 0, 0, CELL_IDENTITY);
        if (patch_has_full_check(&p->q)) add_cell(p, 0, layers[i], 0, 0, 0, CELL_FULL);
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
    uint32_t L = p->grid.n_layers, n = patch_used(&p->q.pair[pair]), first = column_first(p, pair, pos);
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
    p->grid.cost.cells_run += cells;
}

/* Columns in turns, each turn's rows within the budget; the first turn carries the checks. */
bool patch_plan_cells(struct patch *p, struct err *e)
{
    size_t rows = 0, most = turn_rows(&p->q), columns = (size_t)p->grid.n_heads * p->grid.n_pos;
    size_t cells = p->q.only ? p->q.n_only * p->q.n_pairs : p->grid.cost.cells;
    p->listed = p->q.only ? mem_take(patch_cells_of_pair(&p->grid), sizeof *p->listed, e) : NULL;
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
void patch_enter(const struct patch *p, const struct cell *c, float *x, float *z)
{
    const struct arch *a = patch_arch(p);
    enum patch_role role = c->kind == CELL_FULL ? PATCH_SOURCE : PATCH_BASE;
    enum hook stream = c->entry == ENTER_MID ? HOOK_RESID_MID : HOOK_RESID_PRE;
    size_t d = a->d_model, w = (size_t)a->n_heads * a->d_head, rows = patch_used(&p->q.pair[c->base]) - c->first;
    const float *from = patch_runs_values(p->runs, c->base, role, (struct site){stream, c->layer});
    memcpy(x, from + c->first * d, rows * d * sizeof *x);
    if (!z) return;
    from = patch_runs_values(p->runs, c->base, role, (struct site){HOOK_Z, c->layer});
    memcpy(z, from + c->first * w, rows * w * sizeof *z);
}

bool patch_write(const struct patch *p, const struct cell *c, uint32_t layer, struct tap *out)
{
    const struct site site = {p->q.site, layer};
    const bool grid = c->kind == CELL_GRID;
    const uint32_t n = patch_used(&p->q.pair[c->base]);
    if (c->kind == CELL_FULL) return false;
    *out = (struct tap){.site = site, .op = TAP_SET, .weight = 1, .src_whole = true, .n_src_pos = n, .n_source = n, .every_pos = true};
    if (grid && p->q.from == PATCH_FROM_ZERO) out->src_whole = false;
    else if (grid && p->q.from == PATCH_FROM_MEAN) out->src = means_of(p->means, layer), out->n_src_pos = 1;
    else out->src = patch_runs_values(p->runs, c->base, grid ? PATCH_SOURCE : PATCH_BASE, site);
    if (grid && patch_by_pos(p->q.axis)) out->every_pos = false, out->pos = &c->pos, out->n_pos = 1;
    if (grid && patch_by_head(p->q.axis)) out->head = &c->head, out->n_head = 1, out->block = p->q.block;
    return true;
}

