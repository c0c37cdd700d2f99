#include "trace.h"

#include <assert.h>
#include <string.h>

#include "core/head.h"

enum { HEAD_ROWS = 64 }; /* positions unembedded in one step */

struct trace {
    struct view *view;
    const struct trace_input *in;
    size_t n_in;
    const struct trace_write *write;
    size_t n_read, n_write;
    struct taps taps;      /* writes, then reads, of the main run: a read sees what was written */
    struct taps source_taps; /* of the source run in hand */
    struct tap *source;    /* one READ tap per write; used where from is FROM_RUN */
    size_t *read_values;
    float **logits;
    size_t next_source;    /* writes whose source has been run */
    struct run *run;
    bool ran;              /* the main run has ended: its logits are read next */
    size_t next_logits, next_row;
    size_t done, total;    /* of finished runs; totals are estimated up front */
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

void trace_plan(const struct arch *a, const struct trace_input *in, size_t n_in, const struct trace_place *read,
                size_t n_read, const struct trace_write *write, size_t n_write, int threads, struct plan *p)
{
    enum { TEXT_BYTES = 64 }; /* of a value in the answer: twice in text that grows by doubling */
    struct run_size main_run = {0};
    bool heads = false;
    for (size_t i = 0; i < n_in; i++) {
        run_size_add(&main_run, a, 0, in[i].n, in[i].n_top, false);
        if (in[i].n_top) plan_add(p, NEED_LOGITS, mem_floats_bytes(plan_times(in[i].n_top, a->d_vocab)));
    }
    for (size_t i = 0; i < n_read; i++) {
        plan_add(p, NEED_CAPTURES, place_bytes(a, in, &read[i]));
        plan_add(p, NEED_ANSWER, plan_times(trace_place_values(a, in, &read[i]), TEXT_BYTES));
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

void trace_free(struct trace *t)
{
    if (!t) return;
    run_free(t->run);
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
    struct run_input in = {.ids = t->in[w->source.input].ids, .n = t->in[w->source.input].n,
                           .seq = w->source.input};
    t->source_taps = (struct taps){&t->source[t->next_source], 1};
    t->run = run_new(w->source_view ? w->source_view : t->view, &in, 1, &t->source_taps, e);
    return t->run != NULL;
}

static bool begin_main(struct trace *t, struct err *e)
{
    struct run_input *in = mem_take(t->n_in, sizeof *in, e);
    for (size_t i = 0; in && i < t->n_in; i++)
        in[i] = (struct run_input){.ids = t->in[i].ids, .n = t->in[i].n, .seq = (uint32_t)i,
                                   .want = t->in[i].top_pos, .n_want = t->in[i].n_top};
    t->run = in ? run_new(t->view, in, t->n_in, &t->taps, e) : NULL;
    mem_drop(in);
    return t->run != NULL;
}

static bool all_written(const struct trace *t, struct err *e)
{
    for (size_t i = 0; i < t->n_write; i++)
        if (t->taps.tap[i].elements == 0)
            return err_set(e, ERR_INVALID, "write %zu touches nothing", i);
    return true;
}

/* After the main run: the logits of one input's next few positions a step. */
static enum step read_logits(struct trace *t, struct session *s, struct err *e)
{
    const struct arch *a = &view_model(t->view)->arch;
    if (t->next_logits == t->n_in) return all_written(t, e) ? STEP_DONE : STEP_FAIL;
    size_t i = t->next_logits, left = t->in[i].n_top - t->next_row, n = left < HEAD_ROWS ? left : HEAD_ROWS;
    if (!t->logits[i] && !(t->logits[i] = mem_floats(t->in[i].n_top * a->d_vocab + 1, e))) return STEP_FAIL;
    const struct head_rows rows = {&t->taps, (uint32_t)i, t->in[i].top_pos + t->next_row};
    if (n && !unembed(s, t->view, run_final(t->run, i) + t->next_row * a->d_model, n, &rows,
                      t->logits[i] + t->next_row * a->d_vocab, e))
        return STEP_FAIL;
    t->next_row += n;
    if (t->next_row == t->in[i].n_top) {
        t->next_logits++;
        t->next_row = 0;
    }
    return STEP_MORE;
}

enum step trace_step(struct trace *t, struct session *s, struct err *e)
{
    while (t->next_source < t->n_write && t->write[t->next_source].from != FROM_RUN) t->next_source++;
    bool source = t->next_source < t->n_write;
    if (!t->run && !(source ? begin_source(t, e) : begin_main(t, e))) return STEP_FAIL;
    if (t->ran) return read_logits(t, s, e);
    enum step step = run_step(t->run, s, e);
    if (step != STEP_DONE) return step;
    t->ran = !source;
    if (!source) return STEP_MORE;
    size_t done, total;
    run_progress(t->run, &done, &total);
    t->done += done;
    run_free(t->run);
    t->run = NULL;
    t->next_source++;
    return STEP_MORE;
}

void trace_progress(const struct trace *t, size_t *done, size_t *total)
{
    size_t now = 0, all;
    if (t->run) run_progress(t->run, &now, &all);
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
