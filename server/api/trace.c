/* POST /v1/trace: run inputs, reading and writing at hooks. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "handlers.h"
#include "core/sample.h"
#include "probes/metric.h"
#include "writes.h"

struct trace_work {
    struct look look;
    struct tapping taps;
    struct trace_input *in;
    struct trace *trace;
    uint32_t top_k;
};

static struct trace_work *of(struct work *w) { return (struct trace_work *)w; }

static void trace_work_free(struct work *w)
{
    trace_free(of(w)->trace);
    tapping_release(&of(w)->taps);
    look_release(&of(w)->look);
    mem_drop(w);
}

static enum step trace_work_step(struct work *w, struct session *s, struct err *e)
{
    struct trace_work *t = of(w);
    if (look_cached(&t->look)) return STEP_DONE;
    enum step step = trace_step(t->trace, s, e);
    size_t done, total;
    trace_progress(t->trace, &done, &total);
    w->done = (int64_t)done;
    w->total = (int64_t)total;
    return step;
}

/* ---- the answer -------------------------------------------------------------------------------- */

static bool top_list(const struct trace_work *t, jout *list, const float *logits, struct err *e)
{
    const struct model *m = look_model(&t->look);
    uint32_t V = m->arch.d_vocab, k = t->top_k < V ? t->top_k : V, *ids = mem_take(k + 1u, sizeof *ids, e);
    if (!ids) return false;
    bool ok = k == 0 || top_logits(logits, V, k, ids, e);
    double total = log_sum_exp(logits, V);
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

static bool write_inputs(const struct trace_work *t, jout *root, struct err *e)
{
    const struct model *m = look_model(&t->look);
    jout *list = jout_put_array(root, "inputs");
    for (size_t i = 0; i < t->taps.n_named; i++) {
        const struct named_input *in = &t->taps.input[i];
        jout *o = jout_put_object(list, NULL);
        jout_text(o, "id", in->id);
        input_echo(o, m, &in->in);
        jout_u32s(o, "top_pos", in->top.at, in->top.n);
        jout *top = jout_put_array(o, "top");
        for (size_t k = 0; k < in->top.n; k++)
            if (!top_list(t, jout_put_array(top, NULL), trace_logits(t->trace, i) + k * m->arch.d_vocab, e))
                return false;
    }
    return true;
}

static void write_capture(const struct trace_work *t, jout *list, size_t i)
{
    const struct trace_place *p = &t->taps.read[i];
    const struct arch *a = &look_model(&t->look)->arch;
    const struct hook_info *info = hook_info(p->site.hook);
    uint32_t n_heads = hook_heads(a, p->site.hook), width = hook_width(a, p->site.hook);
    char site[64];
    size_t n;
    const float *values = trace_values(t->trace, i, &n);
    jout *o = jout_put_object(list, NULL);
    site_text(p->site, site);
    jout_text(o, "input", t->taps.input[p->input].id);
    jout_text(o, "site", site);
    jout_u32s(o, "pos", p->pos, p->n_pos);
    size_t heads = p->head ? p->n_head : n_heads;
    if (info->axis == AXIS_PLAIN) {
        jout_null(o, "head");
    } else {
        jout *h = jout_put_array(o, "head");
        for (size_t k = 0; k < heads; k++) jout_int(h, NULL, p->head ? p->head[k] : (int64_t)k);
    }
    jout *shape = jout_put_array(o, "shape");
    bool source = info->axis == AXIS_SOURCE; /* [head][pos][source], as the field writes patterns */
    if (source) jout_int(shape, NULL, (int64_t)heads);
    jout_int(shape, NULL, (int64_t)p->n_pos);
    if (!source && info->axis != AXIS_PLAIN) jout_int(shape, NULL, (int64_t)heads);
    jout_int(shape, NULL, source ? (int64_t)t->taps.input[p->input].in.n : (int64_t)width);
    jout_f32s(o, "values", values, n);
}

/* A member of "writes" may have been written into several inputs: one entry each member. */
static void write_effects(const struct trace_work *t, jout *root)
{
    jout *list = jout_put_array(root, "writes");
    for (size_t i = 0; i < t->taps.n_writes;) {
        size_t k = t->taps.write_of[i], elements = 0;
        float top = 0;
        for (; i < t->taps.n_writes && t->taps.write_of[i] == k; i++) {
            size_t n;
            float change;
            trace_written(t->trace, i, &n, &change);
            elements += n;
            if (!(change <= top)) top = change;
        }
        jout *o = jout_put_object(list, NULL);
        jout_int(o, "elements", (int64_t)elements);
        jout_f32(o, "max_change", top);
    }
}

static bool trace_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct trace_work *t = of(w);
    if (look_cached(&t->look)) return look_answer_cached(&t->look, o, e);
    jout *root = look_open(&t->look);
    if (!write_inputs(t, root, e)) {
        jout_free(root);
        return false;
    }
    jout *captures = jout_put_array(root, "captures");
    for (size_t i = 0; i < t->taps.n_reads; i++) write_capture(t, captures, i);
    write_effects(t, root);
    return look_close(&t->look, root, o, e);
}

static const struct work_ops ops = {
    .kind = "trace", .unit = "token-layers", .brief = true,
    .step = trace_work_step, .finish = trace_work_finish, .free = trace_work_free,
};

/* ---- checks that need no forward pass ----------------------------------------------------------- */

static bool parse_inputs(struct trace_work *t, const struct json *inputs, const struct json *top_pos, struct err *e)
{
    struct look *l = &t->look;
    struct tapping *taps = &t->taps;
    taps->input = arena_take(&l->arena, inputs->len, sizeof *taps->input, e);
    t->in = arena_take(&l->arena, inputs->len, sizeof *t->in, e);
    if (!taps->input || !t->in) return false;
    for (const struct json *v = inputs->child; v; v = v->next) {
        size_t i = taps->n_inputs;
        char field[64], number[16];
        struct named_input *in = &taps->input[i];
        (void)snprintf(field, sizeof field, "inputs[%zu]", i);
        (void)snprintf(number, sizeof number, "%zu", i);
        const struct json *id = json_get(v, "id");
        in->id = id ? id->text : arena_text(&l->arena, number, strlen(number), e);
        for (size_t k = 0; k < i; k++)
            if (strcmp(taps->input[k].id, in->id) == 0)
                return err_field(e, ERR_INVALID, field, "two inputs have the id \"%.64s\"", in->id);
        if (!input_resolve(look_model(l), v, field, &in->in, e)) return false;
        taps->n_inputs++;
        if (!place_pos(top_pos, (uint32_t)in->in.n, "top_pos", &l->arena, &in->top, e)) return false;
        t->in[i] = (struct trace_input){in->in.ids, (uint32_t)in->in.n, in->top.at, in->top.n};
    }
    taps->n_named = taps->n_inputs;
    return true;
}

static bool bounded(const struct trace_work *t, struct err *e)
{
    const struct arch *a = &look_model(&t->look)->arch;
    size_t n = t->taps.n_values;
    for (size_t i = 0; i < t->taps.n_inputs; i++) n += t->in[i].n_top * a->d_vocab;
    return n <= MOST_VALUES ||
           err_field(e, ERR_TOO_LARGE, "top_pos", "%zu values are asked for, %d at most; narrow pos, head or top_pos",
                     n, MOST_VALUES);
}

static bool prepare(struct trace_work *t, struct call *c, struct err *e)
{
    struct look *l = &t->look;
    if (!look_begin(l, c, &ops, e)) return false;
    const struct json *q = l->request;
    t->top_k = (uint32_t)json_get(q, "top_k")->integer;
    if (!parse_inputs(t, json_get(q, "inputs"), json_get(q, "top_pos"), e) ||
        !tapping_reads(&t->taps, l, json_get(q, "reads"), e) ||
        !tapping_writes(&t->taps, l, c, json_get(q, "writes"), false, e) || !bounded(t, e))
        return false;
    /* A source on another view is part of what was asked: its name stays in the key, and a branch
     * may move under it, so such a trace is always run. */
    if (t->taps.n_views == 0 && !look_find(l, c, e)) return false;
    if (look_cached(l)) return true;
    struct plan plan = {0};
    trace_plan(&look_model(l)->arch, t->in, t->taps.n_inputs, t->taps.read, t->taps.n_reads, t->taps.write,
               t->taps.n_writes, daemon_threads(c->daemon), &plan);
    if (!look_lease(l, &plan, e)) return false;
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
