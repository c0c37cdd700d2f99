#include "run.h"

#include <assert.h>
#include <string.h>

#include "block.h"
#include "head.h"

struct state { /* of one input */
    struct run_input in;
    struct kv *own_kv;   /* made here because the input spans chunks, or a pair needs it */
    struct kv *own_against;
    uint32_t start;      /* positions in its cache before this run */
    uint32_t fed;        /* ids already in finished chunks */
    float *final;        /* [n_want][d] */
    size_t n_final;
};

struct beside { /* a run over a pair */
    const struct view_pair *pair; /* NULL: over one view */
    bool few, some;          /* asked rows apart (core/pair.h); not all layers are shared */
    struct span *span;       /* [n_inputs] of the other view */
    struct pair_row *row;    /* asked rows of the chunk */
    size_t n_rows;
    struct span *apart;
    float *memory;
};

struct run {
    struct view *view;
    struct taps *taps;
    struct state *input;
    size_t n_inputs;
    float *x;            /* [RUN_ROWS][d] of the chunk in hand, fewer when the whole run is shorter */
    struct span *span;   /* [n_inputs] */
    struct state **of;   /* [n_inputs] whose span it is */
    size_t n_spans, next_input; /* next_input: first not wholly fed */
    uint32_t n_rows, layer, n_layers; /* of the chunk; n_layers: how many are run */
    size_t done, total;
    struct beside beside;
};

static struct kv *cache(const struct state *s) { return s->in.kv ? s->in.kv : s->own_kv; }
static struct kv *cache_against(const struct state *s) { return s->in.kv_against ? s->in.kv_against : s->own_against; }

void run_size_add(struct run_size *s, size_t past, size_t n, size_t n_want, bool cached)
{
    if (!cached && n > s->cut[1]) s->cut[1] = n;
    if (s->cut[1] > s->cut[0]) {
        s->cut[1] = s->cut[0];
        s->cut[0] = n;
    }
    s->rows += n;
    s->wanted += n_want;
    if (past + n > s->longest) s->longest = past + n;
}

double run_flops(const struct arch *a, double n)
{
    const double z = (double)a->n_heads * a->d_head, kv = (double)a->n_kv_heads * a->d_head;
    return n * a->n_layers * 2.0 * a->d_model * (2 * z + 2 * kv + (1.0 + arch_branches(a)) * a->d_mlp);
}

void run_plan(const struct run_size *s, const struct arch *a, int threads, struct plan *p)
{
    size_t rows = s->rows < RUN_ROWS ? s->rows : RUN_ROWS;
    plan_add(p, NEED_STREAM, mem_floats_bytes(rows * a->d_model));
    plan_add(p, NEED_STREAM, mem_floats_bytes((s->wanted + 1) * a->d_model));
    if (s->rows > RUN_ROWS) /* one that the chunk goes on with, and one that goes on in the next */
        plan_add(p, NEED_CACHES, plan_sum(kv_bytes(a, s->cut[0]), kv_bytes(a, s->cut[1])));
    plan_add(p, NEED_SCRATCH, session_bytes(a, rows, s->longest, threads));
}

/* Of so many rows the asked ones are few enough to be run apart. */
static bool are_few(size_t wanted, size_t rows, bool terms, bool some) { return terms && some && 2 * wanted <= rows; }

void run_plan_beside(const struct run_size *s, const struct arch *a, bool terms, bool some, struct plan *p)
{
    size_t rows = s->rows < RUN_ROWS ? s->rows : RUN_ROWS, asked = s->wanted < rows ? s->wanted : rows;
    bool few = are_few(s->wanted, s->rows, terms, some), cut = s->rows > RUN_ROWS;
    size_t caches = plan_sum(kv_bytes(a, s->cut[0]), kv_bytes(a, s->cut[1]));
    if (few && !cut) plan_add(p, NEED_CACHES, caches); /* else they are in run_plan */
    if (some && (few || cut)) plan_add(p, NEED_CACHES, caches);
    plan_add(p, NEED_STREAM, mem_floats_bytes(pair_floats(a, rows, terms ? asked : 0, few)));
    plan_add(p, NEED_STREAM, asked * (sizeof(struct pair_row) + sizeof(struct span)) + sizeof(struct span));
}

struct run *run_new(struct view *v, const struct run_input *in, size_t n, struct taps *taps,
                    struct err *e)
{
    const struct arch *a = &view_model(v)->arch;
    struct run *r = mem_new(sizeof *r);
    r->view = view_retain(v);
    r->taps = taps && taps->n ? taps : NULL;
    r->n_inputs = n;
    r->n_layers = a->n_layers;
    r->input = mem_take(n, sizeof *r->input, e);
    r->span = mem_take(n, sizeof *r->span, e);
    r->of = mem_take(n, sizeof *r->of, e);
    bool ok = r->input && r->span && r->of;
    for (size_t i = 0; ok && i < n; i++) {
        struct state *s = &r->input[i];
        s->in = in[i];
        s->start = in[i].kv ? kv_len(in[i].kv) : 0;
        r->total += (size_t)in[i].n * a->n_layers;
        s->final = mem_floats(in[i].n_want * a->d_model + 1, e);
        ok = s->final && (!in[i].kv || kv_reserve(in[i].kv, s->start + in[i].n, e));
    }
    size_t rows = r->total / a->n_layers;
    r->x = ok ? mem_floats((rows < RUN_ROWS ? rows : RUN_ROWS) * a->d_model, e) : NULL;
    if (r->x) return r;
    run_free(r);
    return NULL;
}

void run_stop_before(struct run *r, uint32_t layer)
{
    assert(r->done == 0 && r->n_rows == 0 && layer > 0 && layer <= r->n_layers);
    r->total = r->total / r->n_layers * layer;
    r->n_layers = layer;
}

bool run_beside(struct run *r, const struct view_pair *p, struct err *e)
{
    struct beside *b = &r->beside;
    const struct arch *a = &view_model(r->view)->arch;
    size_t rows = r->total / a->n_layers, wanted = 0;
    assert(r->done == 0 && r->n_rows == 0 && (!p->terms || p->alpha == 1.0f));
    for (size_t i = 0; i < r->n_inputs; i++) {
        struct state *s = &r->input[i];
        assert(!s->in.kv == !s->in.kv_against);
        wanted += s->in.n_want;
        if (s->in.kv_against && !kv_reserve(s->in.kv_against, s->start + s->in.n, e)) return false;
    }
    b->some = !pair_shares_all(r->view, p->against);
    b->few = are_few(wanted, rows, p->terms != NULL, b->some);
    if (rows > RUN_ROWS) rows = RUN_ROWS;
    if (wanted > rows) wanted = rows;
    b->span = mem_take(r->n_inputs, sizeof *b->span, e);
    b->row = mem_take(wanted, sizeof *b->row, e);
    b->apart = mem_take(wanted, sizeof *b->apart, e);
    b->memory = mem_floats(pair_floats(a, rows, p->terms ? wanted : 0, b->few), e);
    b->pair = p;
    return b->span && b->row && b->apart && b->memory;
}

void run_free(struct run *r)
{
    if (!r) return;
    void *const parts[] = {r->beside.span, r->beside.row, r->beside.apart, r->beside.memory};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) mem_drop(parts[i]);
    for (size_t i = 0; r->input && i < r->n_inputs; i++) {
        kv_free(r->input[i].own_kv);
        kv_free(r->input[i].own_against);
        mem_drop(r->input[i].final);
    }
    mem_drop(r->input);
    mem_drop(r->span);
    mem_drop(r->of);
    mem_drop(r->x);
    view_drop(r->view);
    mem_drop(r);
}

/* A sequence cut by the end of the chunk needs a cache to go on from; rows that are run apart read it. */
static bool ensure_cache(struct run *r, struct state *s, uint32_t rows, struct err *e)
{
    if (cache(s) || (s->fed + rows == s->in.n && !r->beside.few)) return true;
    s->own_kv = kv_new(&view_model(r->view)->arch);
    if (!kv_reserve(s->own_kv, s->in.n, e)) return false;
    if (!r->beside.some) return true;
    s->own_against = kv_new(&view_model(r->view)->arch);
    return kv_reserve(s->own_against, s->in.n, e);
}

/* The other view's spans, and the rows of the chunk that were asked for. */
static void place_beside(struct run *r)
{
    struct beside *b = &r->beside;
    b->n_rows = 0;
    for (size_t i = 0; b->pair && i < r->n_spans; i++) {
        const struct state *s = r->of[i];
        const struct span *at = &r->span[i];
        b->span[i] = *at;
        b->span[i].past = b->span[i].keep = cache_against(s);
        for (size_t k = s->n_final; b->pair->terms && k < s->in.n_want && s->in.want[k] < s->fed + at->n_rows; k++)
            b->row[b->n_rows++] = (struct pair_row){at->first_row + s->in.want[k] - s->fed, s->in.seq, s->start + s->in.want[k], k};
    }
}

/* Pack the next sequences, or the next part of one, into the chunk. */
static bool begin_chunk(struct run *r, struct session *session, struct err *e)
{
    r->n_spans = r->n_rows = r->layer = 0;
    size_t d = view_model(r->view)->arch.d_model;
    for (size_t i = r->next_input; i < r->n_inputs && r->n_rows < RUN_ROWS; i++) {
        struct state *s = &r->input[i];
        uint32_t left = s->in.n - s->fed, room = RUN_ROWS - r->n_rows;
        uint32_t rows = left < room ? left : room;
        if (!rows) continue;
        if (!ensure_cache(r, s, rows, e)) return false;
        r->of[r->n_spans] = s;
        r->span[r->n_spans++] = (struct span){
            .seq = s->in.seq, .first_row = r->n_rows, .n_rows = rows,
            .past = cache(s), .past_len = s->start + s->fed, .keep = cache(s)};
        if (!embed(session, r->view, s->in.ids + s->fed, rows, s->start + s->fed, r->taps, s->in.seq, r->x + r->n_rows * d, e))
            return false;
        r->n_rows += rows;
    }
    place_beside(r);
    return true;
}

static void end_chunk(struct run *r)
{
    size_t d = view_model(r->view)->arch.d_model;
    for (size_t i = 0; i < r->n_spans; i++) {
        const struct span *sp = &r->span[i];
        struct state *s = r->of[i];
        for (; s->n_final < s->in.n_want && s->in.want[s->n_final] < s->fed + sp->n_rows; s->n_final++) {
            assert(s->in.want[s->n_final] >= s->fed);
            memcpy(s->final + s->n_final * d,
                   r->x + (sp->first_row + s->in.want[s->n_final] - s->fed) * d, d * sizeof(float));
        }
        s->fed += sp->n_rows;
        if (sp->keep) kv_commit(sp->keep, s->start + s->fed);
        if (r->beside.pair && cache_against(s)) kv_commit(cache_against(s), s->start + s->fed);
        if (s->fed < s->in.n) continue;
        kv_free(s->own_kv); /* wholly read: nobody attends to it any more */
        kv_free(s->own_against);
        s->own_kv = s->own_against = NULL;
    }
    while (r->next_input < r->n_inputs && r->input[r->next_input].fed == r->input[r->next_input].in.n)
        r->next_input++;
    r->n_rows = 0;
}

static bool run_layer(struct run *r, struct block *b, struct err *e)
{
    const struct beside *o = &r->beside;
    if (!o->pair) return block_forward(b, e);
    const struct pair_pass pass = {.pair = o->pair, .view = b, .against = o->span, .row = o->row, .n_rows = o->n_rows,
                                   .few = o->few, .apart = o->apart, .memory = o->memory};
    return pair_forward(&pass, e);
}

enum step run_step(struct run *r, struct session *s, struct err *e)
{
    const struct arch *a = &view_model(r->view)->arch;
    if (r->n_rows == 0) {
        if (!begin_chunk(r, s, e)) return STEP_FAIL;
        if (r->n_rows == 0) return STEP_DONE;
    }
    struct block b = {.session = s, .view = r->view, .layer = r->layer, .span = r->span,
                      .n_spans = r->n_spans, .n_rows = r->n_rows, .x = r->x, .taps = r->taps};
    float *memory = session_scratch(s, block_rows_floats(a, r->n_rows), e);
    if (!memory) return STEP_FAIL;
    block_rows_place(a, r->n_rows, memory, &b.rows);
    if (!run_layer(r, &b, e)) return STEP_FAIL;
    r->done += r->n_rows;
    if (++r->layer == r->n_layers) end_chunk(r);
    return r->done == r->total ? STEP_DONE : STEP_MORE;
}

const float *run_final(const struct run *r, size_t input)
{
    assert(r->input[input].n_final == r->input[input].in.n_want);
    return r->input[input].final;
}

void run_progress(const struct run *r, size_t *done, size_t *total)
{
    *done = r->done;
    *total = r->total;
}
