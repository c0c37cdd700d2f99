#include "gradient.h"

#include <assert.h>
#include <string.h>

#include "core/head.h"
#include "core/train.h"

enum stage { STAGE_REFERENCE, STAGE_BELOW, STAGE_FORWARD, STAGE_HEAD, STAGE_BACKWARD, STAGE_DONE };

struct gradient {
    struct gradient_request q;
    const struct trace_input *in; /* the one */
    struct taps taps;        /* one READ tap a place */
    size_t *n_values;
    enum stage stage;
    uint32_t from;           /* the lowest layer whose gradients are asked for */
    bool back;               /* is any asked for below the final norm? */
    struct run *run;         /* of the reference, or of the layers below */
    struct tap below;        /* what leaves them */
    struct taps below_taps;
    double *reference;       /* [n_pos][V] log-probabilities */
    struct tape_seq seq;
    struct tape *tape;
    float *slope;            /* [V] */
    double value;
    uint32_t next;           /* target of loss */
    struct gradient_cost done;
};

static const struct arch *arch_of(const struct gradient *g) { return &view_model(g->q.view)->arch; }

/* ---- what is asked ------------------------------------------------------------------------------- */

const char *gradient_absent(enum hook h)
{
    return h == HOOK_TOKENS ? "token ids are no numbers to move: see hook_embed" : NULL;
}

/* The lowest layer with a site; the last where only the final norm and the unembedding have any. */
static uint32_t lowest_layer(const struct gradient_request *q, bool *back)
{
    uint32_t from = view_model(q->view)->arch.n_layers - 1;
    *back = false;
    for (size_t i = 0; i < q->n_at; i++) {
        struct site s = q->at[i].site;
        if (head_hook(s.hook)) continue;
        *back = true;
        if (s.layer < from) from = s.layer; /* 0 for the embeddings */
    }
    return from;
}

static size_t reference_rows(const struct gradient_request *q)
{
    return q->metric.kind == METRIC_KL ? q->in[q->reference.input].n : 0;
}

struct gradient_cost gradient_cost(const struct gradient_request *q)
{
    bool back;
    size_t L = view_model(q->view)->arch.n_layers, n = q->in[q->at[0].input].n, from = lowest_layer(q, &back);
    return (struct gradient_cost){L * (n + reference_rows(q)), back ? (L - from) * n : 0};
}

/* What is made on the side for those who listen: rows of the head, a head's copies of the stream. */
static size_t listeners(const struct gradient_request *q)
{
    const struct arch *a = &view_model(q->view)->arch;
    size_t n = q->in[q->at[0].input].n, d = a->d_model, rows = q->n_pos < TAPE_HEAD_ROWS ? q->n_pos : TAPE_HEAD_ROWS, bytes = 0;
    bool head = false;
    for (size_t i = 0; i < q->n_at; i++) head = head || head_hook(q->at[i].site.hook);
    if (head) bytes = mem_floats_bytes(2 * rows * d + 2 * rows);
    return plan_sum(bytes, mem_floats_bytes(2 * n * d + d * a->d_head));
}

void gradient_plan(const struct gradient_request *q, int threads, struct plan *running, struct plan *kept)
{
    bool back;
    const struct arch *a = &view_model(q->view)->arch;
    const struct trace_input *in = &q->in[q->at[0].input];
    struct run_size below = {0}, reference = {0};
    struct plan before = {0}, all = {0};
    for (size_t i = 0; i < q->n_at; i++)
        plan_add(kept, NEED_CAPTURES, mem_floats_bytes(trace_place_values(a, q->in, &q->at[i]) + 1));
    plan_add(kept, NEED_LOGITS, mem_floats_bytes(a->d_vocab));
    tape_plan(a, in->n, in->n, q->n_pos, lowest_layer(q, &back), threads, &all);
    run_size_add(&below, 0, in->n, 0, false);
    run_plan(&below, a, threads, &all);
    plan_add(&all, NEED_SCRATCH, listeners(q));
    if (q->metric.kind == METRIC_KL) {
        size_t numbers = plan_times(q->n_pos, a->d_vocab);
        plan_add(kept, NEED_LOGITS, plan_times(numbers, sizeof(double)));
        run_size_add(&reference, 0, q->in[q->reference.input].n, q->n_pos, false);
        run_plan(&reference, a, threads, &before);
        plan_add(&before, NEED_LOGITS, mem_floats_bytes(a->d_vocab));
    }
    plan_peak(&before, &all);
    plan_with(running, &before);
}

static bool place_taps(struct gradient *g, struct err *e)
{
    g->taps.tap = mem_take(g->q.n_at, sizeof *g->taps.tap, e);
    g->n_values = mem_take(g->q.n_at, sizeof *g->n_values, e);
    for (size_t i = 0; g->taps.tap && g->n_values && i < g->q.n_at; i++) {
        const struct trace_place *p = &g->q.at[i];
        assert(p->input == g->q.at[0].input && !gradient_absent(p->site.hook));
        g->n_values[i] = trace_place_values(arch_of(g), g->q.in, p);
        float *dst = mem_floats(g->n_values[i] + 1, e);
        if (!dst) return false;
        memset(dst, 0, g->n_values[i] * sizeof *dst);
        g->taps.tap[g->taps.n++] = (struct tap){.site = p->site, .op = TAP_READ, .pos = p->pos, .n_pos = p->n_pos,
                                                .head = p->head, .n_head = p->n_head, .n_source = g->in->n, .dst = dst};
    }
    return g->taps.tap && g->n_values;
}

struct gradient *gradient_new(const struct gradient_request *q, struct err *e)
{
    struct gradient *g = mem_new(sizeof *g);
    assert(q->n_at && q->n_pos && metric_has_gradient(q->metric.kind));
    g->q = *q;
    g->q.view = view_retain(q->view);
    g->q.reference.view = q->reference.view ? view_retain(q->reference.view) : NULL;
    g->in = &q->in[q->at[0].input];
    g->from = lowest_layer(q, &g->back);
    g->seq = (struct tape_seq){.n = g->in->n, .scored = q->pos, .n_scored = q->n_pos};
    g->stage = q->metric.kind == METRIC_KL ? STAGE_REFERENCE : STAGE_BELOW;
    g->slope = mem_floats(arch_of(g)->d_vocab, e);
    if (g->slope && place_taps(g, e)) return g;
    gradient_free(g);
    return NULL;
}

void gradient_free(struct gradient *g)
{
    if (!g) return;
    run_free(g->run);
    tape_free(g->tape);
    for (size_t i = 0; i < g->taps.n; i++) mem_drop(g->taps.tap[i].dst);
    mem_drop(g->taps.tap);
    mem_drop(g->n_values);
    mem_drop(g->reference);
    mem_drop(g->slope);
    view_drop(g->q.reference.view);
    view_drop(g->q.view);
    mem_drop(g);
}

/* ---- the reference and the layers below ---------------------------------------------------------- */

static bool keep_reference(struct gradient *g, struct session *s, struct err *e)
{
    const size_t V = arch_of(g)->d_vocab, n = g->q.n_pos, d = arch_of(g)->d_model;
    float *logits = mem_floats(V, e);
    g->reference = logits ? mem_take(n * V, sizeof *g->reference, e) : NULL;
    bool ok = g->reference != NULL;
    for (size_t i = 0; ok && i < n; i++) {
        ok = unembed(s, g->q.reference.view ? g->q.reference.view : g->q.view, run_final(g->run, 0) + i * d, 1, NULL,
                     logits, e);
        if (ok) log_softmax(logits, (uint32_t)V, g->reference + i * V);
    }
    mem_drop(logits);
    return ok;
}

/* A step of the run in hand: STEP_DONE at its end, its rows counted. */
static enum step go_on(struct gradient *g, struct session *s, size_t before, struct err *e)
{
    size_t done, total;
    enum step step = run_step(g->run, s, e);
    run_progress(g->run, &done, &total);
    g->done.forward = before + done;
    return step;
}

static enum step step_reference(struct gradient *g, struct session *s, struct err *e)
{
    const struct trace_input *in = &g->q.in[g->q.reference.input];
    const struct run_input input = {.ids = in->ids, .n = in->n, .want = g->q.reference.pos, .n_want = g->q.n_pos};
    if (!g->run) g->run = run_new(g->q.reference.view ? g->q.reference.view : g->q.view, &input, 1, NULL, e);
    if (!g->run) return STEP_FAIL;
    enum step step = go_on(g, s, 0, e);
    if (step != STEP_DONE) return step;
    if (!keep_reference(g, s, e)) return STEP_FAIL;
    run_free(g->run);
    g->run = NULL;
    return STEP_DONE;
}

/* The tape, its input to be filled. */
static bool begin_tape(struct gradient *g, struct err *e)
{
    if (!g->tape) g->tape = tape_new(arch_of(g), &g->seq, 1, g->from, false, e);
    return g->tape != NULL;
}

static enum step step_below(struct gradient *g, struct session *s, struct err *e)
{
    size_t before = arch_of(g)->n_layers * reference_rows(&g->q);
    if (!begin_tape(g, e)) return STEP_FAIL;
    if (g->from == 0)
        return embed(s, g->q.view, g->in->ids, g->in->n, 0, NULL, 0, tape_input(g->tape), e) ? STEP_DONE : STEP_FAIL;
    if (!g->run) {
        const struct run_input input = {.ids = g->in->ids, .n = g->in->n};
        g->below = (struct tap){.site = {HOOK_RESID_POST, g->from - 1}, .every_pos = true, .dst = tape_input(g->tape)};
        g->below_taps = (struct taps){&g->below, 1};
        g->run = run_new(g->q.view, &input, 1, &g->below_taps, e);
        if (!g->run) return STEP_FAIL;
        run_stop_before(g->run, g->from);
    }
    return go_on(g, s, before, e);
}

/* ---- the metric ---------------------------------------------------------------------------------- */

/* One position's share of the mean, its gradient in place of the logits. */
static void slope_of(void *ctx, size_t seq, size_t k, float *logits)
{
    struct gradient *g = ctx;
    struct metric m = g->q.metric;
    const uint32_t V = arch_of(g)->d_vocab;
    const double n = (double)g->q.n_pos;
    (void)seq;
    if (m.kind == METRIC_LOSS) {
        g->next = g->in->ids[g->q.pos[k] + 1];
        m.answer = &g->next;
        m.n_answer = 1;
    }
    g->value += metric_gradient(&m, logits, V, g->reference ? g->reference + k * V : NULL, g->slope) / n;
    for (uint32_t i = 0; i < V; i++) logits[i] = (float)((double)g->slope[i] / n);
}

/* ---- steps --------------------------------------------------------------------------------------- */

static enum step step_forward(struct gradient *g, struct session *s, struct err *e)
{
    enum step step = tape_forward(g->tape, g->q.view, s, e);
    g->done.forward += g->in->n;
    return step;
}

static enum step step_head(struct gradient *g, struct session *s, struct err *e)
{
    return tape_head(g->tape, g->q.view, s, &g->taps, slope_of, g, e);
}

static enum step step_backward(struct gradient *g, struct session *s, struct err *e)
{
    if (!g->back) return STEP_DONE;
    enum step step = tape_backward(g->tape, g->q.view, s, NULL, &g->taps, e);
    g->done.backward += g->in->n;
    return step;
}

enum step gradient_step(struct gradient *g, struct session *s, struct err *e)
{
    static enum step (*const stages[])(struct gradient *, struct session *, struct err *) = {
        [STAGE_REFERENCE] = step_reference, [STAGE_BELOW] = step_below,       [STAGE_FORWARD] = step_forward,
        [STAGE_HEAD] = step_head,           [STAGE_BACKWARD] = step_backward,
    };
    if (g->stage == STAGE_DONE) return STEP_DONE;
    enum step step = stages[g->stage](g, s, e);
    if (step != STEP_DONE) return step;
    if (++g->stage < STAGE_DONE) return STEP_MORE;
    tape_free(g->tape); /* large, and others may wait to be made */
    g->tape = NULL;
    return STEP_DONE;
}

struct gradient_cost gradient_done(const struct gradient *g) { return g->done; }
double gradient_value(const struct gradient *g) { return g->value; }

const float *gradient_values(const struct gradient *g, size_t at, size_t *n)
{
    *n = g->n_values[at];
    return g->taps.tap[at].dst;
}
