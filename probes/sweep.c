#include "sweep.h"

#include <assert.h>
#include <string.h>

struct sweep {
    struct view *view;
    const struct sweep_base *base;
    const struct cell *cell;
    size_t n_cells;
    const struct cell_maker *maker;
    float *x;            /* [rows][d], cells in order; in the last layer their last rows move to final */
    size_t *row;         /* [n_cells + 1] first row of each cell */
    float *final;        /* [n_cells][d] */
    struct span *span;   /* of a tile */
    struct tap *tap;     /* of a tile: `most` for each of its cells */
    uint32_t layer;
    size_t next;         /* next cell to push through this layer */
    size_t live;         /* cells that have joined */
};

static const struct arch *arch_of(const struct sweep *w) { return &view_model(w->view)->arch; }

/* Rows one cell keeps. */
static size_t rows_of(const struct sweep_base *bases, const struct cell *c) { return bases[c->base].n - c->first; }

/* core/hook.def is in the order of the computation. */
enum cell_entry sweep_entry(const struct arch *a, enum hook h)
{
    if (h < HOOK_Z) return ENTER_PRE;
    return h <= HOOK_ATTN_OUT || a->parallel ? ENTER_Z : ENTER_MID;
}

/* One layer of a cell of so many rows behind `past` positions: `late` of them go past attention. */
static double layer_flops(const struct arch *a, enum cell_entry from, double rows, double past, double late)
{
    const double d = a->d_model, z = (double)a->n_heads * a->d_head, kv = (double)a->n_kv_heads * a->d_head;
    const double keys = rows * past + rows * (rows + 1) / 2;
    return (from == ENTER_PRE ? 2 * rows * d * (z + 2 * kv) + 4 * z * keys : 0) + (from != ENTER_MID ? 2 * late * z * d : 0) +
           2 * late * (1.0 + arch_branches(a)) * d * a->d_mlp;
}

struct sweep_cost sweep_forecast(const struct arch *a, const struct sweep_base *bases, const struct cell *cells, size_t n_cells)
{
    struct sweep_cost cost = {0};
    for (size_t i = 0; i < n_cells; i++) {
        const size_t rows = rows_of(bases, &cells[i]);
        for (uint32_t l = cells[i].layer; l < a->n_layers; l++) {
            const enum cell_entry from = l == cells[i].layer ? cells[i].entry : ENTER_PRE;
            cost.rows += rows;
            cost.flops += layer_flops(a, from, (double)rows, cells[i].first, l + 1 == a->n_layers ? 1 : (double)rows);
        }
    }
    return cost;
}

void sweep_plan(const struct arch *a, uint32_t n, size_t n_cells, size_t rows, int threads, struct plan *p)
{
    size_t tile = n > SWEEP_TILE ? n : SWEEP_TILE;
    plan_add(p, NEED_STREAM, mem_floats_bytes(plan_times(rows, a->d_model)));
    plan_add(p, NEED_STREAM, mem_floats_bytes(plan_times(n_cells, a->d_model)));
    plan_add(p, NEED_STREAM, plan_times(n_cells, sizeof(size_t) + sizeof(struct span) + sizeof(struct tap)));
    plan_add(p, NEED_SCRATCH, session_bytes(a, tile < rows ? tile : rows, n, threads));
}

static bool in_order(const struct cell *a, const struct cell *b)
{
    return a->layer != b->layer ? a->layer < b->layer : a->entry <= b->entry;
}

struct sweep *sweep_new(struct view *view, const struct sweep_base *bases, const struct cell *cells, size_t n_cells,
                        const struct cell_maker *maker, struct err *e)
{
    struct sweep *w = mem_new(sizeof *w);
    *w = (struct sweep){.view = view, .base = bases, .cell = cells, .n_cells = n_cells, .maker = maker};
    size_t d = arch_of(w)->d_model;
    w->row = mem_take(n_cells + 1, sizeof *w->row, e);
    w->span = mem_take(n_cells, sizeof *w->span, e);
    w->tap = mem_take(plan_times(n_cells, maker->most ? maker->most : 1), sizeof *w->tap, e);
    for (size_t i = 0; w->row && i < n_cells; i++) {
        assert(i == 0 || in_order(&cells[i - 1], &cells[i]));
        w->row[i + 1] = w->row[i] + rows_of(bases, &cells[i]);
    }
    w->x = w->row ? mem_floats(w->row[n_cells] * d + 1, e) : NULL;
    w->final = mem_floats(n_cells * d + 1, e);
    w->layer = n_cells ? cells[0].layer : 0;
    if (w->row && w->span && w->tap && w->x && w->final) return w;
    sweep_free(w);
    return NULL;
}

void sweep_free(struct sweep *w)
{
    if (!w) return;
    mem_drop(w->x);
    mem_drop(w->row);
    mem_drop(w->final);
    mem_drop(w->span);
    mem_drop(w->tap);
    mem_drop(w);
}

/* Where cell i goes into the block of this layer. */
static enum cell_entry stage(const struct sweep *w, size_t i)
{
    return w->cell[i].layer == w->layer ? w->cell[i].entry : ENTER_PRE;
}

/* Cells [from, to) that pass together: whole cells, all at the same stage. */
static size_t tile_end(const struct sweep *w, size_t from)
{
    size_t to = from + 1;
    while (to < w->live && w->row[to + 1] - w->row[from] <= SWEEP_TILE && stage(w, to) == stage(w, from)) to++;
    return to;
}

static void join(struct sweep *w)
{
    size_t d = arch_of(w)->d_model;
    for (; w->live < w->n_cells && w->cell[w->live].layer == w->layer; w->live++)
        if (w->cell[w->live].entry != ENTER_Z)
            w->maker->enter(w->maker->ctx, &w->cell[w->live], w->x + w->row[w->live] * d, NULL);
}

/* Keep each cell's last row of x, z and (for an MLP that shares it) attention's norm: nothing else of the last
 * layer is read. */
static void keep_last_rows(struct block *b, struct span *span, size_t z_width)
{
    size_t d = view_model(b->view)->arch.d_model;
    for (size_t i = 0; i < b->n_spans; i++) {
        size_t last = span[i].first_row + span[i].n_rows - 1;
        memmove(b->x + i * d, b->x + last * d, d * sizeof *b->x);
        memmove(b->rows.norm + i * d, b->rows.norm + last * d, d * sizeof *b->x);
        memmove(b->rows.z + i * z_width, b->rows.z + last * z_width, z_width * sizeof *b->rows.z);
        span[i].past_len += span[i].n_rows - 1;
        span[i].first_row = (uint32_t)i;
        span[i].n_rows = 1;
    }
    b->n_rows = (uint32_t)b->n_spans;
}

static void lay_spans(struct sweep *w, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        w->span[i - from] = (struct span){
            .seq = (uint32_t)i, .first_row = (uint32_t)(w->row[i] - w->row[from]),
            .n_rows = (uint32_t)(w->row[i + 1] - w->row[i]), .past = w->base[w->cell[i].base].kv,
            .past_len = w->cell[i].first};
}

/* What the tile's cells write in this layer. */
static struct taps writes_of(struct sweep *w, size_t from, size_t to)
{
    struct taps t = {.tap = w->tap};
    for (size_t i = from; i < to; i++) {
        size_t n = w->layer <= w->cell[i].last ? w->maker->write(w->maker->ctx, &w->cell[i], w->layer, &w->tap[t.n]) : 0;
        for (; n; n--) w->tap[t.n++].seq = (uint32_t)i;
    }
    return t;
}

/* Up to the place where the MLP begins, from where the tile's cells come in. */
static bool before_mlp(struct sweep *w, struct block *b, enum cell_entry at, size_t from, size_t to, struct err *e)
{
    const struct arch *a = arch_of(w);
    const size_t z_width = (size_t)a->n_heads * a->d_head, d = a->d_model;
    const bool last = w->layer + 1 == a->n_layers;
    if (at == ENTER_PRE && !block_attention(b, e)) return false;
    for (size_t i = from; at == ENTER_Z && i < to; i++) {
        size_t row = w->row[i] - w->row[from];
        w->maker->enter(w->maker->ctx, &w->cell[i], b->x + row * d, b->rows.z + row * z_width);
    }
    if (at == ENTER_Z) block_given_z(b);
    if (at == ENTER_MID) block_given_mid(b);
    if (last) keep_last_rows(b, w->span, z_width);
    return at == ENTER_MID || block_project(b, e);
}

static bool push_tile(struct sweep *w, struct session *s, size_t from, size_t to, struct err *e)
{
    const struct arch *a = arch_of(w);
    size_t d = a->d_model;
    uint32_t rows = (uint32_t)(w->row[to] - w->row[from]);
    lay_spans(w, from, to);
    struct taps taps = writes_of(w, from, to);
    struct block b = {.session = s, .view = w->view, .layer = w->layer, .span = w->span, .n_spans = to - from,
                      .n_rows = rows, .x = w->x + w->row[from] * d, .taps = taps.n ? &taps : NULL};
    float *memory = session_scratch(s, block_rows_floats(a, rows), e);
    if (!memory) return false;
    block_rows_place(a, rows, memory, &b.rows);
    if (!before_mlp(w, &b, stage(w, from), from, to, e) || !block_mlp(&b, e)) return false;
    if (w->layer + 1 == a->n_layers) memcpy(w->final + from * d, b.x, (to - from) * d * sizeof(float));
    return true;
}

enum step sweep_step(struct sweep *w, struct session *s, struct err *e)
{
    if (w->n_cells == 0) return STEP_DONE;
    if (w->next == 0) join(w);
    size_t to = tile_end(w, w->next);
    if (!push_tile(w, s, w->next, to, e)) return STEP_FAIL;
    w->next = to;
    if (w->next < w->live) return STEP_MORE;
    w->next = 0;
    return ++w->layer < arch_of(w)->n_layers ? STEP_MORE : STEP_DONE;
}

double sweep_share(const struct sweep *w)
{
    const double at = (double)w->layer / arch_of(w)->n_layers;
    return at * at;
}

const float *sweep_final(const struct sweep *w) { return w->final; }
