#include "sweep.h"

#include <assert.h>
#include <string.h>

struct sweep {
    const struct sweep_base *base;
    const struct cell *cell;
    size_t n_cells;
    cell_fill fill;
    void *ctx;
    float *x;            /* [rows][d], cells in order; in the last layer their last rows move to final */
    size_t *row;         /* [n_cells + 1] first row of each cell */
    float *final;        /* [n_cells][d] */
    struct span *span;   /* of a tile */
    uint32_t layer;
    size_t next;         /* next cell to push through this layer */
    size_t live;         /* cells that have joined */
    struct sweep_cost cost;
};

static const struct arch *arch_of(const struct sweep *w) { return &view_model(w->base->view)->arch; }

size_t sweep_rows(const struct sweep_base *base, const struct cell *c) { return base->n - c->first; }

void sweep_plan(const struct arch *a, uint32_t n, size_t n_cells, size_t rows, int threads, struct plan *p)
{
    size_t tile = n > SWEEP_TILE ? n : SWEEP_TILE;
    plan_add(p, NEED_STREAM, mem_floats_bytes(plan_times(rows, a->d_model)));
    plan_add(p, NEED_STREAM, mem_floats_bytes(plan_times(n_cells, a->d_model)));
    plan_add(p, NEED_SCRATCH, session_bytes(a, tile < rows ? tile : rows, n, threads));
}

struct sweep *sweep_new(const struct sweep_base *base, const struct cell *cells, size_t n_cells,
                        cell_fill fill, void *ctx, struct err *e)
{
    struct sweep *w = mem_new(sizeof *w);
    *w = (struct sweep){.base = base, .cell = cells, .n_cells = n_cells, .fill = fill, .ctx = ctx};
    size_t d = arch_of(w)->d_model;
    w->row = mem_take(n_cells + 1, sizeof *w->row, e);
    w->span = mem_take(n_cells, sizeof *w->span, e);
    for (size_t i = 0; w->row && i < n_cells; i++) {
        assert(i == 0 || cells[i - 1].layer <= cells[i].layer);
        w->row[i + 1] = w->row[i] + sweep_rows(base, &cells[i]);
    }
    w->x = w->row ? mem_floats(w->row[n_cells] * d + 1, e) : NULL;
    w->final = mem_floats(n_cells * d + 1, e);
    w->layer = n_cells ? cells[0].layer : 0;
    if (w->row && w->span && w->x && w->final) return w;
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
    mem_drop(w);
}

static bool enters_past_attention(const struct sweep *w, size_t i)
{
    return w->cell[i].layer == w->layer && w->cell[i].entry == ENTER_Z;
}

/* Cells [from, to) that pass together: whole cells, all at the same stage. */
static size_t tile_end(const struct sweep *w, size_t from)
{
    size_t to = from + 1;
    while (to < w->live && w->row[to + 1] - w->row[from] <= SWEEP_TILE &&
           enters_past_attention(w, to) == enters_past_attention(w, from))
        to++;
    return to;
}

static void join(struct sweep *w)
{
    size_t d = arch_of(w)->d_model;
    for (; w->live < w->n_cells && w->cell[w->live].layer == w->layer; w->live++)
        if (w->cell[w->live].entry == ENTER_PRE)
            w->fill(w->ctx, &w->cell[w->live], w->x + w->row[w->live] * d, NULL);
}

static void account(struct sweep *w, const struct block *b, uint32_t rows_past_attention, bool attended)
{
    const struct arch *a = arch_of(w);
    double d = a->d_model, z = (double)a->n_heads * a->d_head, kv = (double)a->n_kv_heads * a->d_head;
    double keys = 0;
    for (size_t i = 0; attended && i < b->n_spans; i++)
        for (uint32_t r = 0; r < b->span[i].n_rows; r++) keys += b->span[i].past_len + r + 1;
    w->cost.rows += b->n_rows;
    w->cost.flops += (attended ? 2.0 * b->n_rows * d * (z + 2 * kv) + 4.0 * z * keys : 0) +
                     2.0 * rows_past_attention * (z * d + (1.0 + arch_branches(a)) * d * a->d_mlp);
}

/* Keep each cell's last row of x and z: nothing else of the last layer is read. */
static void keep_last_rows(struct block *b, size_t z_width)
{
    size_t d = view_model(b->view)->arch.d_model;
    for (size_t i = 0; i < b->n_spans; i++) {
        size_t last = b->span[i].first_row + b->span[i].n_rows - 1;
        memmove(b->x + i * d, b->x + last * d, d * sizeof *b->x);
        memmove(b->rows.z + i * z_width, b->rows.z + last * z_width, z_width * sizeof *b->rows.z);
    }
    b->n_rows = (uint32_t)b->n_spans;
}

static bool push_tile(struct sweep *w, struct session *s, size_t from, size_t to, struct err *e)
{
    const struct arch *a = arch_of(w);
    size_t z_width = (size_t)a->n_heads * a->d_head, d = a->d_model;
    uint32_t rows = (uint32_t)(w->row[to] - w->row[from]);
    struct block b = {.session = s, .view = w->base->view, .layer = w->layer, .span = w->span,
                      .n_spans = to - from, .n_rows = rows, .x = w->x + w->row[from] * d};
    float *memory = session_scratch(s, block_rows_floats(a, rows), e);
    if (!memory) return false;
    block_rows_place(a, rows, memory, &b.rows);
    for (size_t i = from; i < to; i++)
        w->span[i - from] = (struct span){
            .seq = (uint32_t)i, .first_row = (uint32_t)(w->row[i] - w->row[from]),
            .n_rows = (uint32_t)(w->row[i + 1] - w->row[i]), .past = w->base->kv,
            .past_len = w->cell[i].first};
    bool attend = !enters_past_attention(w, from);
    if (attend && !block_attention(&b, e)) return false;
    for (size_t i = from; !attend && i < to; i++) {
        size_t at = w->row[i] - w->row[from];
        w->fill(w->ctx, &w->cell[i], b.x + at * d, b.rows.z + at * z_width);
    }
    struct block whole = b;
    bool last = w->layer + 1 == a->n_layers;
    if (last) keep_last_rows(&b, z_width);
    account(w, &whole, b.n_rows, attend);
    if (!block_project(&b, e) || !block_mlp(&b, e)) return false;
    if (last) memcpy(w->final + from * d, b.x, (to - from) * d * sizeof(float));
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

const float *sweep_final(const struct sweep *w) { return w->final; }
struct sweep_cost sweep_cost(const struct sweep *w) { return w->cost; }
