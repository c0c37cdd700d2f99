#include "trace.h"

#include <assert.h>
#include <string.h>

#include "core/head.h"

enum { HEAD_ROWS = 64 }; /* positions unembedded in one step */

struct rows { /* positions of one input, ascending */
    uint32_t *pos;
    size_t n;
};

struct pass { /* some neighbouring inputs through the layers, then their rows through the unembedding */
    struct view *view;
    struct taps taps;
    uint32_t first;        /* of the inputs */
    size_t n;
    bool top;              /* are the logits wanted that the inputs ask for? */
    struct run *run;
    struct rows *want;     /* [n] rows to unembed */
    bool ran;
    size_t next, at;       /* the next of them: input and row */
};

struct trace {
    struct view *view;
    const struct trace_input *in;
    size_t n_in;
    const struct trace_write *write;
    size_t n_read, n_write;
    struct taps taps;      /* writes, then reads, of the main pass: a read sees what was written */
    struct tap *source;    /* one READ tap per write; used where from is FROM_RUN */
    size_t *read_values;
    float **logits;
    size_t next_source;    /* writes whose source has been run */
    struct pass pass;      /* in hand: a source's, in the end the main one */
    size_t done, total;    /* of finished passes; totals are estimated up front */
};

size_t trace_place_values(const struct arch *a, const struct trace_input *in, const struct trace_place *p)
{
    uint32_t width = hook_width(a, p->site.hook);
    size_t heads = p->head ? p->n_head : hook_heads(a, p->site.hook);
    return p->n_pos * heads * (width ? width : in[p->input].n);
}

static struct tap tap_at(const struct trace_input *in, const struct trace_place *p)
{
    return (struct tap){.site = p->site, .seq = p->input, .pos = p->pos, .n_pos = p->n_pos,
                        .head = p->head, .n_head = p->n_head, .n_source = in[p->input].n};
}

struct tap trace_write_tap(const struct trace_input *in, const struct trace_write *w)
{
    struct tap tap = tap_at(in, &w->at);
    tap.op = w->op;
    tap.weight = w->weight;
    tap.map = w->map;
    tap.src = w->from == FROM_VALUES ? w->values : NULL;
    tap.n_src_pos = w->from == FROM_VALUES ? w->n_value_pos : w->from == FROM_RUN ? w->source.n_pos : 1;
    return tap;
}

static bool read_tap(struct trace *t, const struct trace_place *p, struct tap *out, struct err *e)
{
    size_t n = trace_place_values(&view_model(t->view)->arch, t->in, p);
    *out = tap_at(t->in, p);
    out->op = TAP_READ;
    out->dst = mem_floats(n + 1, e);
    return out->dst != NULL;
}

static bool place_writes(struct trace *t, struct err *e)
{
    for (size_t i = 0; i < t->n_write; i++) {
        const struct trace_write *w = &t->write[i];
        t->taps.tap[i] = trace_write_tap(t->in, w);
        if (w->from != FROM_RUN) continue;
        if (!read_tap(t, &w->source, &t->source[i], e)) return false;
        t->taps.tap[i].src = t->source[i].dst;
    }
    return true;
}

static size_t run_cost(const struct trace *t, uint32_t input)
{
    return (size_t)t->in[input].n * view_model(t->view)->arch.n_layers;
}

/* A read at one of these makes a copy of the stream for a head. */
static bool by_head(enum hook h)
{
    return h == HOOK_ATTN_IN || h == HOOK_Q_INPUT || h == HOOK_K_INPUT || h == HOOK_V_INPUT || h == HOOK_RESULT;
}

static size_t head_copies(const struct arch *a, size_t rows)
{
    if (rows > RUN_ROWS) rows = RUN_ROWS;
    return mem_floats_bytes(2 * rows * a->d_model + (size_t)a->d_model * a->d_head);
}

static size_t place_bytes(const struct arch *a, const struct trace_input *in, const struct trace_place *p)
{
    return mem_floats_bytes(trace_place_values(a, in, p) + 1);
}

/* Rows of an input that come to the unembedding: no more than these. */
static size_t most_rows(const struct trace_input *in, uint32_t input, const struct trace_place *read, size_t n_read,
                        const struct trace_write *write, size_t n_write)
{
    size_t n = in[input].n_top;
    for (size_t i = 0; i < n_read; i++)
        if (read[i].input == input && head_hook(read[i].site.hook)) n += read[i].n_pos;
    for (size_t i = 0; i < n_write; i++)
        if (write[i].at.input == input && head_hook(write[i].at.site.hook)) n += write[i].at.n_pos;
    return n < in[input].n ? n : in[input].n;
}

void trace_plan(const struct arch *a, const struct trace_input *in, size_t n_in, const struct trace_place *read,
                size_t n_read, const struct trace_write *write, size_t n_write, int threads, struct plan *p)
{
    struct run_size main_run = {0};
    bool heads = false;
    size_t at_once = 1;
    for (size_t i = 0; i < n_in; i++) {
        size_t rows = most_rows(in, (uint32_t)i, read, n_read, write, n_write);
        if (rows > at_once) at_once = rows < HEAD_ROWS ? rows : HEAD_ROWS;
        run_size_add(&main_run, 0, in[i].n, rows, false);
        if (in[i].n_top) plan_add(p, NEED_LOGITS, mem_floats_bytes(plan_times(in[i].n_top, a->d_vocab)));
    }
    plan_add(p, NEED_LOGITS, mem_floats_bytes(at_once * a->d_vocab));
    for (size_t i = 0; i < n_read; i++) {
        plan_add(p, NEED_CAPTURES, place_bytes(a, in, &read[i]));
        heads = heads || by_head(read[i].site.hook);
    }
    for (size_t i = 0; i < n_write; i++) {
        if (write[i].from == FROM_RUN) plan_add(p, NEED_CAPTURES, place_bytes(a, in, &write[i].source));
        heads = heads || by_head(write[i].at.site.hook) || (write[i].from == FROM_RUN && by_head(write[i].source.site.hook));
    }
    if (heads) plan_add(p, NEED_SCRATCH, head_copies(a, main_run.rows));
    run_plan(&main_run, a, threads, p); /* a source's run is one of its inputs alone, before it */
}

struct trace *trace_new(struct view *v, const struct trace_input *in, size_t n_in,
                        const struct trace_place *read, size_t n_read,
                        const struct trace_write *write, size_t n_write, struct err *e)
{
    struct trace *t = mem_new(sizeof *t);
    t->view = view_retain(v);
    t->in = in;
    t->n_in = n_in;
    t->write = write;
    t->n_read = n_read;
    t->n_write = n_write;
    t->taps.tap = mem_take(n_read + n_write, sizeof(struct tap), e);
    t->taps.n = n_read + n_write;
    t->source = mem_take(n_write, sizeof *t->source, e);
    t->read_values = mem_take(n_read, sizeof *t->read_values, e);
    t->logits = mem_take(n_in, sizeof *t->logits, e);
    bool ok = t->taps.tap && t->source && t->read_values && t->logits;
    for (size_t i = 0; ok && i < n_read; i++) {
        ok = read_tap(t, &read[i], &t->taps.tap[n_write + i], e);
        t->read_values[i] = trace_place_values(&view_model(v)->arch, in, &read[i]);
    }
    ok = ok && place_writes(t, e);
    for (size_t i = 0; ok && i < n_in; i++) t->total += run_cost(t, (uint32_t)i);
    for (size_t i = 0; ok && i < n_write; i++)
        if (write[i].from == FROM_RUN) t->total += run_cost(t, write[i].source.input);
    if (ok) return t;
    trace_free(t);
    return NULL;
}

/* ---- a pass -------------------------------------------------------------------------------------- */

static void pass_end(struct pass *p)
{
    run_free(p->run);
    for (size_t i = 0; p->want && i < p->n; i++) mem_drop(p->want[i].pos);
    mem_drop(p->want);
    *p = (struct pass){0};
}

/* The rows of an input that are unembedded. */
static bool find_rows(const struct pass *p, const struct trace_input *in, uint32_t seq, struct rows *out, struct err *e)
{
    bool *mark = mem_take(in->n, sizeof *mark, e);
    out->pos = mark ? mem_take(in->n, sizeof *out->pos, e) : NULL;
    for (size_t i = 0; out->pos && p->top && i < in->n_top; i++) mark[in->top_pos[i]] = true;
    for (size_t t = 0; out->pos && t < p->taps.n; t++) {
        const struct tap *tap = &p->taps.tap[t];
        if (tap->seq != seq || !head_hook(tap->site.hook)) continue;
        for (size_t i = 0; i < tap->n_pos; i++) mark[tap->pos[i]] = true;
    }
    for (uint32_t i = 0; out->pos && i < in->n; i++)
        if (mark[i]) out->pos[out->n++] = i;
    mem_drop(mark);
    return out->pos != NULL;
}

/* p says which inputs on which view, with which taps. */
static bool pass_begin(struct trace *t, struct pass *p, struct err *e)
{
    struct run_input *in = mem_take(p->n, sizeof *in, e);
    p->want = in ? mem_take(p->n, sizeof *p->want, e) : NULL;
    bool ok = p->want != NULL;
    for (size_t i = 0; ok && i < p->n; i++) {
        const struct trace_input *of = &t->in[p->first + i];
        ok = find_rows(p, of, p->first + (uint32_t)i, &p->want[i], e);
        in[i] = (struct run_input){.ids = of->ids, .n = of->n, .seq = p->first + (uint32_t)i, .want = p->want[i].pos,
                                   .n_want = p->want[i].n};
    }
    p->run = ok ? run_new(p->view, in, p->n, &p->taps, e) : NULL;
    mem_drop(in);
    return p->run != NULL;
}

/* Logits of the rows that the input asked for, of those just made. */
static void keep_logits(struct trace *t, uint32_t input, const uint32_t *pos, size_t n, const float *logits)
{
    const struct trace_input *in = &t->in[input];
    const size_t V = view_model(t->view)->arch.d_vocab;
    for (size_t i = 0, k = 0; i < n; i++) {
        while (k < in->n_top && in->top_pos[k] < pos[i]) k++;
        if (k < in->n_top && in->top_pos[k] == pos[i])
            memcpy(t->logits[input] + k * V, logits + i * V, V * sizeof *logits);
    }
}

/* The next few rows of one input. */
static enum step unembed_rows(struct trace *t, struct pass *p, struct session *s, struct err *e)
{
    const struct arch *a = &view_model(p->view)->arch;
    while (p->next < p->n && p->at == p->want[p->next].n) {
        p->next++;
        p->at = 0;
    }
    if (p->next == p->n) return STEP_DONE;
    const struct rows *want = &p->want[p->next];
    size_t left = want->n - p->at, n = left < HEAD_ROWS ? left : HEAD_ROWS;
    uint32_t input = p->first + (uint32_t)p->next;
    const struct head_rows rows = {&p->taps, input, want->pos + p->at};
    float *logits = mem_floats(n * a->d_vocab, e);
    bool ok = logits && unembed(s, p->view, run_final(p->run, p->next) + p->at * a->d_model, n, &rows, logits, e);
    if (ok && p->top) keep_logits(t, input, want->pos + p->at, n, logits);
    mem_drop(logits);
    p->at += n;
    return ok ? STEP_MORE : STEP_FAIL;
}

static enum step pass_step(struct trace *t, struct pass *p, struct session *s, struct err *e)
{
    if (p->ran) return unembed_rows(t, p, s, e);
    enum step step = run_step(p->run, s, e);
    if (step != STEP_DONE) return step;
    p->ran = true;
    return STEP_MORE;
}

/* ---- the trace ----------------------------------------------------------------------------------- */

void trace_free(struct trace *t)
{
    if (!t) return;
    pass_end(&t->pass);
    for (size_t i = 0; t->taps.tap && i < t->n_read; i++) mem_drop(t->taps.tap[t->n_write + i].dst);
    for (size_t i = 0; t->source && i < t->n_write; i++) mem_drop(t->source[i].dst);
    for (size_t i = 0; t->logits && i < t->n_in; i++) mem_drop(t->logits[i]);
    mem_drop(t->taps.tap);
    mem_drop(t->source);
    mem_drop(t->read_values);
    mem_drop(t->logits);
    view_drop(t->view);
    mem_drop(t);
}

/* The next write's source: its prompt on its view, without writes. */
static bool begin_source(struct trace *t, struct err *e)
{
    const struct trace_write *w = &t->write[t->next_source];
    t->pass = (struct pass){.view = w->source_view ? w->source_view : t->view,
                            .taps = {&t->source[t->next_source], 1}, .first = w->source.input, .n = 1};
    return pass_begin(t, &t->pass, e);
}

static bool begin_main(struct trace *t, struct err *e)
{
    const size_t V = view_model(t->view)->arch.d_vocab;
    for (size_t i = 0; i < t->n_in; i++)
        if (!(t->logits[i] = mem_floats(t->in[i].n_top * V + 1, e))) return false;
    t->pass = (struct pass){.view = t->view, .taps = t->taps, .n = t->n_in, .top = true};
    return pass_begin(t, &t->pass, e);
}

static bool all_written(const struct trace *t, struct err *e)
{
    for (size_t i = 0; i < t->n_write; i++)
        if (t->taps.tap[i].elements == 0)
            return err_set(e, ERR_INVALID, "write %zu touches nothing", i);
    return true;
}

enum step trace_step(struct trace *t, struct session *s, struct err *e)
{
    while (t->next_source < t->n_write && t->write[t->next_source].from != FROM_RUN) t->next_source++;
    bool source = t->next_source < t->n_write;
    if (!t->pass.run && !(source ? begin_source(t, e) : begin_main(t, e))) return STEP_FAIL;
    enum step step = pass_step(t, &t->pass, s, e);
    if (step != STEP_DONE) return step;
    if (!source) return all_written(t, e) ? STEP_DONE : STEP_FAIL;
    size_t done, total;
    run_progress(t->pass.run, &done, &total);
    t->done += done;
    pass_end(&t->pass);
    t->next_source++;
    return STEP_MORE;
}

void trace_progress(const struct trace *t, size_t *done, size_t *total)
{
    size_t now = 0, all;
    if (t->pass.run) run_progress(t->pass.run, &now, &all);
    *done = t->done + now;
    *total = t->total;
}

const float *trace_logits(const struct trace *t, size_t input) { return t->logits[input]; }

const float *trace_values(const struct trace *t, size_t read, size_t *n)
{
    *n = t->read_values[read];
    return t->taps.tap[t->n_write + read].dst;
}

void trace_written(const struct trace *t, size_t write, size_t *elements, float *max_change)
{
    *elements = t->taps.tap[write].elements;
    *max_change = t->taps.tap[write].max_change;
}
