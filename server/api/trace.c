/* POST /v1/trace: run inputs, reading and writing at hooks; and back again, for gradients. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "captures.h"
#include "handlers.h"
#include "inputs.h"
#include "steering.h"
#include "core/kernel/softmax.h"
#include "core/sample.h"
#include "probes/metric.h"
#include "server/clock.h"
#include "spans.h"

struct trace_work {
    struct look look;
    struct tapping taps;
    struct trace_input *in;
    struct trace *trace;
    bool traced;
    struct gradient *gradient[MOST_GRADIENTS]; /* made when their turn comes */
    size_t next_gradient;
    struct captured *captured;
    enum media media;
    uint32_t top_k;
};

static struct trace_work *of(struct work *w) { return (struct trace_work *)w; }

static size_t n_gradients(const struct trace_work *t) { return t->taps.gradients ? t->taps.gradients->n : 0; }

static void trace_work_free(struct work *w)
{
    struct trace_work *t = of(w);
    trace_free(t->trace);
    for (size_t i = 0; i < MOST_GRADIENTS; i++) gradient_free(t->gradient[i]);
    mem_drop(t->captured);
    tapping_release(&t->taps);
    look_release(&t->look);
    mem_drop(w);
}

/* Rows times layers of all gradients, and of those run so far. */
static struct gradient_cost gradients_cost(const struct trace_work *t, bool run)
{
    struct gradient_cost sum = {0, 0};
    for (size_t i = 0; i < n_gradients(t); i++) {
        struct gradient_cost one = {0, 0};
        if (!run) one = gradient_cost(&t->taps.gradients->request[i]);
        else if (t->gradient[i]) one = gradient_done(t->gradient[i]);
        sum.forward += one.forward;
        sum.backward += one.backward;
    }
    return sum;
}

static enum step step_gradients(struct trace_work *t, struct session *s, struct err *e)
{
    size_t i = t->next_gradient;
    if (i == n_gradients(t)) return STEP_DONE;
    if (!t->gradient[i]) t->gradient[i] = gradient_new(&t->taps.gradients->request[i], e);
    if (!t->gradient[i]) return STEP_FAIL;
    enum step step = gradient_step(t->gradient[i], s, e);
    if (step == STEP_DONE) t->next_gradient++;
    return step == STEP_DONE && t->next_gradient < n_gradients(t) ? STEP_MORE : step;
}

static enum step trace_work_step(struct work *w, struct session *s, struct err *e)
{
    struct trace_work *t = of(w);
    if (look_cached(&t->look)) return STEP_DONE;
    enum step made = steering_step(&t->taps, s, e);
    if (made != STEP_DONE) return made;
    enum step step = t->traced ? step_gradients(t, s, e) : trace_step(t->trace, s, e);
    if (step == STEP_DONE && !t->traced) {
        t->traced = true;
        if (n_gradients(t)) step = STEP_MORE;
    }
    size_t done, total;
    struct gradient_cost back = gradients_cost(t, true), all = gradients_cost(t, false);
    trace_progress(t->trace, &done, &total);
    w->done = (int64_t)(done + back.forward + back.backward);
    w->total = (int64_t)(total + all.forward + all.backward);
    return step;
}

/* ---- the answer -------------------------------------------------------------------------------- */

/* *ranked: false, and the list stays empty, where the logits have no sum of exponentials: what is no
 * number is not likelier than anything. */
static bool top_list(const struct trace_work *t, jout *list, const float *logits, bool *ranked, struct err *e)
{
    const struct model *m = look_model(&t->look);
    double total = log_sum_exp(logits, NULL, m->arch.d_vocab);
    *ranked = isfinite(total);
    if (!*ranked) return true;
    uint32_t V = m->arch.d_vocab, k = t->top_k < V ? t->top_k : V, *ids = mem_take(k + 1u, sizeof *ids, e);
    if (!ids) return false;
    bool ok = k == 0 || top_logits(logits, V, k, ids, e);
    for (uint32_t i = 0; ok && i < k; i++) {
        struct buf token = {0};
        jout *o = jout_put_object(list, NULL);
        tokenizer_show(m->tokenizer, ids[i], &token);
        jout_text(o, "token", token.data ? token.data : "");
        jout_int(o, "id", ids[i]);
        jout_f64(o, "prob", exp((double)logits[ids[i]] - total));
        jout_f32(o, "logit", logits[ids[i]]);
        buf_release(&token);
    }
    mem_drop(ids);
    return ok;
}

static bool write_top(struct trace_work *t, size_t i, jout *top, struct err *e)
{
    const struct named_input *in = &t->taps.input[i];
    uint32_t V = look_model(&t->look)->arch.d_vocab, first = 0;
    size_t broken = 0;
    for (size_t k = 0; k < in->top.n; k++) {
        bool ranked;
        if (!top_list(t, jout_put_array(top, NULL), trace_logits(t->trace, i) + k * V, &ranked, e)) return false;
        if (!ranked && broken++ == 0) first = in->top.at[k];
    }
    if (broken)
        look_warn(&t->look, "nonfinite", "input %.100s has logits that are not finite at position %u (the first of "
                  "%zu): there the top is empty", in->id, first, broken);
    return true;
}

static bool write_inputs(struct trace_work *t, jout *root, struct err *e)
{
    const struct model *m = look_model(&t->look);
    jout *list = jout_put_array(root, "inputs");
    for (size_t i = 0; i < t->taps.n_named; i++) {
        const struct named_input *in = &t->taps.input[i];
        jout *o = jout_put_object(list, NULL);
        jout_text(o, "id", in->id);
        input_echo(o, m, &in->in);
        jout_u32s(o, "top_pos", in->top.at, in->top.n);
        if (!write_top(t, i, jout_put_array(o, "top"), e)) return false;
    }
    return true;
}

static bool collect(struct trace_work *t, struct err *e)
{
    const struct tapping *taps = &t->taps;
    t->captured = mem_take(taps->n_captures, sizeof *t->captured, e);
    for (size_t i = 0; t->captured && i < taps->n_captures; i++) {
        const struct capture *c = &taps->capture[i];
        struct captured *out = &t->captured[i];
        out->values = c->gradient ? gradient_values(t->gradient[c->of], c->index, &out->n)
                                  : trace_values(t->trace, c->of, &out->n);
        out->metric = c->gradient ? gradient_value(t->gradient[c->of]) : 0;
    }
    return t->captured && captures_name(taps, &look_model(&t->look)->arch, t->captured, e);
}

static bool write_effects(const struct trace_work *t, jout *root, struct err *e)
{
    struct effect *effect = mem_take(t->taps.n_writes, sizeof *effect, e);
    for (size_t i = 0; effect && i < t->taps.n_writes; i++)
        trace_written(t->trace, i, &effect[i].elements, &effect[i].max_change);
    bool ok = effect && tapping_effects(&t->taps, effect, false, root, e);
    mem_drop(effect);
    return ok;
}

static void write_cost(const struct trace_work *t, jout *root)
{
    if (!n_gradients(t)) return;
    struct gradient_cost cost = gradients_cost(t, true);
    size_t done, total;
    trace_progress(t->trace, &done, &total);
    jout *o = jout_put_object(root, "cost");
    jout_int(o, "forward", (int64_t)(done + cost.forward));
    jout_int(o, "backward", (int64_t)cost.backward);
    jout_text(o, "unit", t->look.work.ops->unit);
    jout_f64(o, "seconds", (double)(monotonic_us() - t->look.work.started_us) / 1e6);
}

static bool pack(struct work *w, const struct buf *answer, struct buf *out, struct err *e)
{
    return captures_pack(of(w)->media, of(w)->captured, of(w)->taps.n_captures, answer, out, e);
}

static bool trace_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct trace_work *t = of(w);
    if (look_cached(&t->look)) return look_answer_cached(&t->look, o, e);
    jout *root = look_open(&t->look);
    if (!collect(t, e) || !write_inputs(t, root, e)) {
        jout_free(root);
        return false;
    }
    captures_warn(&t->taps, &t->look, t->captured);
    captures_write(&t->taps, &t->look, t->captured, t->media == MEDIA_JSON, root);
    if (!write_effects(t, root, e)) {
        jout_free(root);
        return false;
    }
    write_cost(t, root);
    if (t->media != MEDIA_JSON) {
        o->media = media_name(t->media);
        o->pack = pack;
    }
    return look_close(&t->look, root, o, e);
}

static const struct work_ops ops = {
    .kind = "trace", .unit = "token-layers", .brief = true,
    .step = trace_work_step, .finish = trace_work_finish, .free = trace_work_free,
};

/* ---- checks that need no forward pass ----------------------------------------------------------- */

static bool parse_inputs(struct trace_work *t, const struct json *top_pos, struct err *e)
{
    struct look *l = &t->look;
    struct inputs in = {0};
    bool ok = inputs_read(&in, l, top_pos, "top_pos", e);
    t->taps.input = in.at;
    t->taps.n_inputs = t->taps.n_named = in.n; /* for tapping_release, also when it failed */
    t->in = ok ? arena_take(&l->arena, in.n, sizeof *t->in, e) : NULL;
    for (size_t i = 0; t->in && i < in.n; i++)
        t->in[i] = (struct trace_input){in.at[i].in.ids, (uint32_t)in.at[i].in.n, in.at[i].top.at, in.at[i].top.n};
    return t->in != NULL;
}

static bool bounded(const struct trace_work *t, struct err *e)
{
    const struct arch *a = &look_model(&t->look)->arch;
    size_t n = t->taps.n_values;
    for (size_t i = 0; i < t->taps.n_inputs; i++) n += t->in[i].n_top * a->d_vocab;
    return n <= t->taps.most_values ||
           err_field(e, ERR_TOO_LARGE, "top_pos", "%zu values are asked for, %zu at most; narrow pos, head or top_pos",
                     n, t->taps.most_values);
}

/* What the chosen kind of bytes can hold. */
static bool fits_media(const struct trace_work *t, const struct call *c, struct err *e)
{
    size_t n = t->taps.n_captures;
    if (t->media != MEDIA_JSON && c->key.key[0])
        return err_field(e, ERR_INVALID, "Idempotency-Key", "bytes are not kept to be answered again: ask without a key, or for JSON");
    if (t->media == MEDIA_NPY && n != 1)
        return err_field(e, ERR_INVALID, "Accept", "%s holds one array and %zu are read; ask for %s", media_name(t->media),
                         n, media_name(MEDIA_NPZ));
    return true;
}

static bool no_writes_beside(const struct trace_work *t, const struct json *reads, struct err *e)
{
    size_t k = 0;
    if (!t->taps.gradients || !t->taps.n_writes) return true;
    for (const struct json *v = reads->child; v && !json_get(v, "grad_of"); v = v->next) k++;
    char field[64];
    (void)snprintf(field, sizeof field, "reads[%zu].grad_of", k);
    return err_field(e, ERR_INVALID, field, "gradients are those of the run without writes; ask for them in a request of its own");
}

/* A source or a reference on another view is part of what was asked: its name stays in the key, and a
 * branch may move under it, so such a trace is always run. Bytes are not in the log. */
static bool may_be_logged(const struct trace_work *t)
{
    return t->taps.n_views == 0 && t->media == MEDIA_JSON && !(t->taps.gradients && t->taps.gradients->n_views);
}

/* Everything the trace holds, from the runs to the answer. */
static bool lease(struct trace_work *t, const struct call *c, struct err *e)
{
    enum { TEXT_BYTES = 64 }; /* of a value in the answer: twice in text that grows by doubling */
    const struct tapping *taps = &t->taps;
    const struct arch *a = &look_model(&t->look)->arch;
    int threads = daemon_threads(c->daemon);
    struct plan plan = {0};
    size_t values = 0;
    trace_plan(a, t->in, taps->n_inputs, taps->read, taps->n_reads, taps->write, taps->n_writes, threads, &plan);
    if (taps->gradients) gradients_plan(taps->gradients, threads, &plan);
    steering_plan(taps, threads, &plan);
    for (size_t i = 0; i < taps->n_captures; i++) values += trace_place_values(a, t->in, tapping_place(taps, i));
    plan_add(&plan, NEED_ANSWER, plan_times(values, t->media == MEDIA_JSON ? TEXT_BYTES : sizeof(float)));
    return look_lease(&t->look, &plan, e);
}

static bool prepare(struct trace_work *t, struct call *c, struct err *e)
{
    struct look *l = &t->look;
    if (!look_begin(l, c, &ops, e)) return false;
    const struct json *q = l->request;
    t->top_k = (uint32_t)json_get(q, "top_k")->integer;
    t->media = media_of(c->accept);
    t->taps.most_values = t->media == MEDIA_JSON ? MOST_VALUES : MOST_BYTES_VALUES;
    if (!parse_inputs(t, json_get(q, "top_pos"), e) ||
        !tapping_reads(&t->taps, l, c, json_get(q, "reads"), e) ||
        !tapping_writes(&t->taps, l, c, json_get(q, "writes"), false, e) || !bounded(t, e) || !fits_media(t, c, e) ||
        !no_writes_beside(t, json_get(q, "reads"), e))
        return false;
    if (may_be_logged(t) && !look_find(l, c, e)) return false;
    if (look_cached(l)) return true;
    if (!lease(t, c, e)) return false;
    t->trace = trace_new(l->view.view, t->in, t->taps.n_inputs, t->taps.read, t->taps.n_reads, t->taps.write,
                         t->taps.n_writes, e);
    return t->trace != NULL;
}

struct work *api_trace(struct call *c, struct err *e)
{
    struct trace_work *t = mem_new(sizeof *t);
    if (prepare(t, c, e)) return &t->look.work;
    trace_work_free(&t->look.work);
    return NULL;
}
