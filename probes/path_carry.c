#include "path_carry.h"

#include <string.h>

#include "core/block.h"
#include "sweep.h"

/* ---- receivers ----------------------------------------------------------------------------------------- */

static const enum hook inputs[PATH_INPUTS] = {HOOK_Q, HOOK_K, HOOK_V};

bool path_groups_make(const struct path_request *q, struct path_groups *out, struct err *e)
{
    const size_t e_head = view_model(q->view)->arch.d_head;
    *out = (struct path_groups){.group = mem_take(q->n_receivers + 1, sizeof *out->group, e)};
    out->head = out->group ? mem_take(q->n_receivers + 1, sizeof *out->head, e) : NULL;
    if (!out->head) {
        path_groups_release(out);
        return false;
    }
    for (size_t i = 0; i < q->n_receivers; i++) {
        const struct path_receiver *r = &q->receiver[i];
        struct path_group *last = out->n ? &out->group[out->n - 1] : NULL;
        if (!last || last->layer != r->layer || last->hook != inputs[r->input]) {
            last = &out->group[out->n++];
            *last = (struct path_group){r->layer, inputs[r->input], out->head + i, 0, out->width};
        }
        out->head[i] = r->head;
        last->n++;
        out->width += e_head;
    }
    return true;
}

void path_groups_release(struct path_groups *g)
{
    mem_drop(g->group);
    mem_drop(g->head);
    *g = (struct path_groups){0};
}

uint32_t path_reaches(const struct path_request *q, const struct path_sender *s)
{
    if (!q->n_receivers) return view_model(q->view)->arch.n_layers;
    for (size_t i = 0; i < q->n_receivers; i++)
        if (s->from == PATH_EMBED || q->receiver[i].layer > s->layer) return q->receiver[i].layer;
    return UINT32_MAX;
}

/* ---- rows ---------------------------------------------------------------------------------------------- */

enum phase { NOTE, ADVANCE }; /* of a layer: receivers' inputs, then the layer itself */

struct path_carry {
    const struct path_request *q;
    const struct path_groups *g;
    const struct patch_runs *runs;
    const struct path_sender *sender;
    size_t n_senders, live, within; /* within: with the heads of this layer */
    uint32_t first, n, layer, end;  /* end: the last layer that is looked at, n_layers of the logits */
    enum phase phase;
    size_t next;
    float *x;        /* [n_senders][rows][d] the stream, or D where MLPs are frozen */
    float *input;    /* [n_senders] of each the groups' [rows][heads][e] one behind the other */
    float *row;      /* [tile][d] */
    uint32_t *pos;   /* [n] */
    struct span *span;
    struct tap *tap; /* [n_senders][PATH_INPUTS + 1] */
};

static const struct arch *arch_of(const struct path_carry *c) { return &view_model(c->q->view)->arch; }
static size_t rows_of(const struct path_carry *c) { return c->n - c->first; }
static size_t floats_of(const struct path_carry *c) { return rows_of(c) * arch_of(c)->d_model; }
static float *stream_of(const struct path_carry *c, size_t sender) { return c->x + sender * floats_of(c); }

static const float *values(const struct path_carry *c, enum patch_role role, enum hook h, uint32_t layer)
{
    return patch_runs_values(c->runs, 0, role, (struct site){h, layer}) + (size_t)c->first * hook_heads(arch_of(c), h) * hook_width(arch_of(c), h);
}

/* The base's stream entering that layer; behind the last one what the metric's row has. */
static const float *entering(const struct path_carry *c, uint32_t layer)
{
    return layer < arch_of(c)->n_layers ? values(c, PATCH_BASE, HOOK_RESID_PRE, layer) : patch_runs_final(c->runs, 0, PATCH_BASE);
}

static size_t tile_senders(const struct path_carry *c)
{
    const size_t n = SWEEP_TILE / rows_of(c);
    return n ? n : 1;
}

/* Senders that are no head: x ← what the base has there, and the sender's change; frozen: the change alone. */
static void join(struct path_carry *c, enum hook h, uint32_t layer, uint32_t entered)
{
    const size_t n = floats_of(c);
    const float *a = values(c, PATCH_SOURCE, h, layer), *b = values(c, PATCH_BASE, h, layer), *into = entering(c, entered);
    float *x = stream_of(c, c->live++);
    for (size_t i = 0; i < n; i++) x[i] = a[i] - b[i] + (c->q->freeze_mlps ? 0 : into[i]);
}

static void open_layer(struct path_carry *c)
{
    const uint32_t l = c->layer;
    c->next = 0;
    c->phase = NOTE;
    if (l == 0 && c->n_senders && c->sender->from == PATH_EMBED) join(c, HOOK_RESID_PRE, 0, 0);
    c->within = c->live;
    while (l < c->end && c->within < c->n_senders && c->sender[c->within].from == PATH_HEAD && c->sender[c->within].layer == l) c->within++;
}

static void close_layer(struct path_carry *c)
{
    c->live = c->within;
    while (c->live < c->n_senders && c->sender[c->live].from == PATH_MLP && c->sender[c->live].layer == c->layer)
        join(c, HOOK_MLP_OUT, c->layer, c->layer + 1);
    c->layer++;
    open_layer(c);
}

struct path_carry *path_carry_new(const struct path_request *q, const struct path_groups *g, const struct patch_runs *runs,
                                  const struct path_sender *sender, size_t n_senders, uint32_t first, uint32_t n, struct err *e)
{
    struct path_carry *c = mem_new(sizeof *c);
    *c = (struct path_carry){.q = q, .g = g, .runs = runs, .sender = sender, .n_senders = n_senders, .first = first, .n = n};
    const size_t all = n_senders * rows_of(c);
    c->end = q->n_receivers ? q->receiver[q->n_receivers - 1].layer : arch_of(c)->n_layers;
    c->x = mem_floats(all * arch_of(c)->d_model + 1, e);
    c->input = c->x ? mem_floats(all * g->width + 1, e) : NULL;
    c->row = c->input ? mem_floats(tile_senders(c) * floats_of(c), e) : NULL;
    c->pos = c->row ? mem_take(n, sizeof *c->pos, e) : NULL;
    c->span = c->pos ? mem_take(tile_senders(c), sizeof *c->span, e) : NULL;
    c->tap = c->span ? mem_take(tile_senders(c) * (PATH_INPUTS + 1), sizeof *c->tap, e) : NULL;
    if (!c->tap) {
        path_carry_free(c);
        return NULL;
    }
    for (uint32_t i = 0; i < n; i++) c->pos[i] = i;
    open_layer(c);
    return c;
}

void path_carry_free(struct path_carry *c)
{
    if (!c) return;
    mem_drop(c->x);
    mem_drop(c->input);
    mem_drop(c->row);
    mem_drop(c->pos);
    mem_drop(c->span);
    mem_drop(c->tap);
    mem_drop(c);
}

static bool lay_block(struct path_carry *c, struct session *s, size_t from, size_t to, float *x, struct block *b, struct err *e)
{
    const uint32_t rows = (uint32_t)rows_of(c);
    for (size_t i = from; i < to; i++)
        c->span[i - from] = (struct span){.seq = (uint32_t)i, .first_row = (uint32_t)(i - from) * rows, .n_rows = rows, .past_len = c->first};
    *b = (struct block){.session = s, .view = c->q->view, .layer = c->layer, .span = c->span, .n_spans = to - from,
                        .n_rows = (uint32_t)(to - from) * rows, .x = x};
    float *memory = session_scratch(s, block_rows_floats(arch_of(c), b->n_rows), e);
    if (memory) block_rows_place(arch_of(c), b->n_rows, memory, &b->rows);
    return memory != NULL;
}

/* ---- what receivers read ------------------------------------------------------------------------------- */

const float *path_carry_input(const struct path_carry *c, size_t sender, size_t group)
{
    return c->input + rows_of(c) * (sender * c->g->width + c->g->group[group].at);
}

static bool receives(const struct path_carry *c, uint32_t layer)
{
    for (size_t i = 0; i < c->g->n; i++)
        if (c->g->group[i].layer == layer) return true;
    return false;
}

static struct taps listen(struct path_carry *c, size_t from, size_t to)
{
    struct taps t = {.tap = c->tap};
    const struct tap here = {.pos = c->pos + c->first, .n_pos = rows_of(c)};
    for (size_t i = from; i < to; i++) {
        for (size_t k = 0; k < c->g->n; k++) {
            const struct path_group *g = &c->g->group[k];
            if (g->layer != c->layer) continue;
            struct tap *tap = &c->tap[t.n++];
            *tap = here;
            tap->site = (struct site){g->hook, g->layer}, tap->op = TAP_READ, tap->seq = (uint32_t)i;
            tap->head = g->head, tap->n_head = g->n;
            tap->dst = c->input + rows_of(c) * (i * c->g->width + g->at);
        }
        if (!c->q->freeze_norm) continue;
        struct tap *tap = &c->tap[t.n++];
        *tap = here;
        tap->site = (struct site){HOOK_LN1_SCALE, c->layer}, tap->op = TAP_SET, tap->seq = (uint32_t)i, tap->weight = 1;
        tap->src = values(c, PATCH_BASE, HOOK_LN1_SCALE, c->layer), tap->n_src_pos = rows_of(c);
    }
    return t;
}

static bool note(struct path_carry *c, struct session *s, size_t from, size_t to, struct err *e)
{
    const size_t n = floats_of(c);
    const float *base = entering(c, c->layer);
    struct block b;
    for (size_t i = from; i < to; i++) {
        float *row = c->row + (i - from) * n;
        memcpy(row, stream_of(c, i), n * sizeof *row);
        for (size_t k = 0; c->q->freeze_mlps && k < n; k++) row[k] += base[k];
    }
    struct taps taps = listen(c, from, to);
    if (!lay_block(c, s, from, to, c->row, &b, e)) return false;
    b.taps = &taps;
    return block_keys(&b, e);
}

/* ---- through a layer ----------------------------------------------------------------------------------- */

/* z of the rows: the base's, but for the head that sends. */
static void put_z(const struct path_carry *c, size_t i, float *z)
{
    const struct arch *a = arch_of(c);
    const size_t width = (size_t)a->n_heads * a->d_head;
    const float *base = values(c, PATCH_BASE, HOOK_Z, c->layer);
    memcpy(z, base, rows_of(c) * width * sizeof *z);
    if (i < c->live) return;
    const float *source = values(c, PATCH_SOURCE, HOOK_Z, c->layer);
    const size_t at = (size_t)c->sender[i].head * a->d_head;
    for (size_t r = 0; r < rows_of(c); r++) memcpy(z + r * width + at, source + r * width + at, a->d_head * sizeof *z);
}

/* D of heads that have just been projected. */
static void put_change(struct path_carry *c, const struct block *b, size_t from, size_t to)
{
    const size_t n = floats_of(c);
    const float *base = values(c, PATCH_BASE, HOOK_ATTN_OUT, c->layer), *made = arch_of(c)->parallel ? b->rows.attn : b->rows.out;
    for (size_t i = from; i < to; i++)
        for (size_t k = 0; k < n; k++) stream_of(c, i)[k] = made[(i - from) * n + k] - base[k];
}

static bool advance(struct path_carry *c, struct session *s, size_t from, size_t to, struct err *e)
{
    const size_t n = floats_of(c), z = rows_of(c) * arch_of(c)->n_heads * arch_of(c)->d_head;
    struct block b;
    if (!lay_block(c, s, from, to, stream_of(c, from), &b, e)) return false;
    for (size_t i = from; i < to; i++) {
        if (i >= c->live) memcpy(stream_of(c, i), entering(c, c->layer), n * sizeof *c->x);
        put_z(c, i, b.rows.z + (i - from) * z);
    }
    if (!block_project(&b, e)) return false;
    if (!c->q->freeze_mlps) return block_mlp(&b, e);
    put_change(c, &b, from, to);
    return true;
}

/* The final stream, where D is what was carried. */
static enum step end(struct path_carry *c)
{
    const size_t n = floats_of(c);
    const float *base = c->q->n_receivers || !c->q->freeze_mlps ? NULL : entering(c, c->end);
    for (size_t i = 0; base && i < c->n_senders; i++)
        for (size_t k = 0; k < n; k++) stream_of(c, i)[k] += base[k];
    return STEP_DONE;
}

enum step path_carry_step(struct path_carry *c, struct session *s, struct err *e)
{
    const bool noting = c->phase == NOTE;
    const size_t until = noting ? (receives(c, c->layer) ? c->live : 0) : c->within;
    size_t to = c->next + tile_senders(c);
    if (!noting && c->q->freeze_mlps && c->next < c->live) c->next = c->live, to = c->next + tile_senders(c);
    if (to > until) to = until;
    if (c->next < until) {
        if (!(noting ? note(c, s, c->next, to, e) : advance(c, s, c->next, to, e))) return STEP_FAIL;
        c->next = to;
        if (to < until) return STEP_MORE;
    }
    if (noting) {
        c->phase = ADVANCE;
        c->next = 0;
        return c->layer == c->end ? end(c) : STEP_MORE;
    }
    close_layer(c);
    return STEP_MORE;
}

const float *path_carry_final(const struct path_carry *c) { return c->x; }
