/* POST /v1/probes/{probe}/apply: what a stored probe says of other texts. */
#include <stdio.h>
#include <string.h>

#include "handlers.h"
#include "inputs.h"
#include "probe.h"
#include "server/clock.h"

enum { MOST_SCORES = 1 << 21 };

struct apply_work {
    struct look look;
    struct inputs inputs;
    struct probe probe;
    bool mean;                   /* positions are averaged */
    struct trace_input *in;
    struct trace_place *read;    /* [inputs][members]: of a head that head alone */
    struct trace *trace;
};

static struct apply_work *of(struct work *w) { return (struct apply_work *)w; }

static void apply_work_free(struct work *w)
{
    struct apply_work *p = of(w);
    trace_free(p->trace);
    probe_release(&p->probe);
    inputs_release(&p->inputs);
    look_release(&p->look);
    mem_drop(w);
}

static enum step apply_work_step(struct work *w, struct session *s, struct err *e)
{
    struct apply_work *p = of(w);
    size_t done, total;
    if (look_cached(&p->look)) return STEP_DONE;
    enum step step = trace_step(p->trace, s, e);
    trace_progress(p->trace, &done, &total);
    work_progress(w, done, total);
    return step;
}

static void put_label(const struct probe *p, uint32_t class, jout *list)
{
    struct buf b = {0};
    const struct json *v = p->labels->child;
    while (class--) v = v->next;
    json_write(v, &b);
    if (b.data) jout_raw(list, NULL, b.data);
    buf_release(&b);
}

/* Rows of the member's features, averaged in place into the first where that is asked for. */
static size_t features(const struct apply_work *p, size_t input, size_t member, float *first, const float **x)
{
    size_t n, d = p->probe.at[member].readout->d, rows = p->inputs.at[input].top.n;
    *x = trace_values(p->trace, input * p->probe.n + member, &n);
    if (!p->mean) return rows;
    for (size_t k = 0; k < d; k++) {
        double sum = 0;
        for (size_t i = 0; i < rows; i++) sum += (double)(*x)[i * d + k];
        first[k] = (float)(sum / (double)rows);
    }
    *x = first;
    return 1;
}

static bool put_member(const struct apply_work *p, size_t input, size_t member, jout *o, struct err *e)
{
    const struct probe_member *m = &p->probe.at[member];
    const struct readout *r = m->readout;
    double score[READOUT_CLASSES], prob[READOUT_CLASSES];
    char site[64];
    const float *x;
    float *mean = mem_floats(r->d, e);
    if (!mean) return false;
    site_text(m->site, site);
    jout_text(o, "site", site);
    if (m->by_head) jout_int(o, "head", m->head);
    jout *scores = jout_put_array(o, "scores"), *labels = jout_put_array(o, "label");
    jout *probs = json_flag(p->probe.content, "likely", false) ? jout_put_array(o, "prob") : NULL;
    size_t rows = features(p, input, member, mean, &x);
    for (size_t i = 0; i < rows; i++) {
        readout_score(r, x + i * r->d, score);
        readout_prob(r, score, prob);
        jout_f64s(scores, NULL, score, r->outputs);
        put_label(&p->probe, readout_label(r, score), labels);
        if (probs) jout_f64s(probs, NULL, prob, r->classes);
    }
    mem_drop(mean);
    return true;
}

static bool put_input(const struct apply_work *p, size_t i, jout *o, struct err *e)
{
    const struct named_input *in = &p->inputs.at[i];
    jout_text(o, "id", in->id);
    input_echo(o, look_model(&p->look), &in->in);
    jout_u32s(o, "pos", in->top.at, in->top.n);
    jout *list = jout_put_array(o, "members");
    for (size_t m = 0; m < p->probe.n; m++)
        if (!put_member(p, i, m, jout_put_object(list, NULL), e)) return false;
    return true;
}

static bool apply_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct apply_work *p = of(w);
    if (look_cached(&p->look)) return look_answer_cached(&p->look, o, e);
    const struct json *view = json_get(p->probe.content, "view");
    struct buf labels = {0};
    jout *root = look_open(&p->look), *used = jout_put_object(root, "probe");
    jout_text(used, "id", p->probe.row.id);
    jout_text(used, "hash", p->probe.row.hash);
    json_write(p->probe.labels, &labels);
    if (labels.data) jout_raw(root, "labels", labels.data);
    buf_release(&labels);
    jout_bool(root, "mean", p->mean);
    jout *list = jout_put_array(root, "inputs");
    bool ok = true;
    for (size_t i = 0; ok && i < p->inputs.n; i++) ok = put_input(p, i, jout_put_object(list, NULL), e);
    if (!ok) {
        jout_free(root);
        return false;
    }
    if (!json_is(view, p->look.view.digest))
        look_warn(&p->look, "other-view", "the probe was fitted on the weights %.80s, these are others", view->text);
    jout *cost = jout_put_object(root, "cost");
    jout_int(cost, "forward", w->total);
    jout_f64(cost, "seconds", (double)(monotonic_us() - w->started_us) / 1e6);
    return look_close(&p->look, root, o, e);
}

static const struct work_ops ops = {
    .kind = "probe-apply", .unit = "token-layers", .brief = true,
    .step = apply_work_step, .finish = apply_work_finish, .free = apply_work_free,
};

static bool place_inputs(struct apply_work *p, struct err *e)
{
    static const struct json all = {.type = JSON_STRING, .text = "all", .len = 3};
    struct look *l = &p->look;
    const struct json *pos = json_get(l->request, "pos");
    if (!pos) pos = json_get(p->probe.content, "pos");
    p->mean = json_is(pos, "mean");
    if (!inputs_read(&p->inputs, l, NULL, "pos", e)) return false;
    for (size_t i = 0; i < p->inputs.n; i++)
        if (!place_pos_in(p->mean ? &all : pos, look_model(l), &p->inputs.at[i], "pos", &l->arena, &p->inputs.at[i].top, e)) return false;
    return true;
}

static bool place_reads(struct apply_work *p, size_t *scores, struct err *e)
{
    struct arena *a = &p->look.arena;
    const struct arch *arch = &look_model(&p->look)->arch;
    size_t n = p->inputs.n, k = 0;
    p->in = arena_take(a, n, sizeof *p->in, e);
    p->read = p->in ? arena_take(a, n * p->probe.n, sizeof *p->read, e) : NULL;
    if (!p->read) return false;
    for (size_t i = 0; i < n; i++) {
        const struct named_input *in = &p->inputs.at[i];
        p->in[i] = (struct trace_input){.ids = in->in.ids, .n = (uint32_t)in->in.n};
        for (size_t m = 0; m < p->probe.n; m++, k++) {
            const struct probe_member *at = &p->probe.at[m];
            p->read[k] = (struct trace_place){.input = (uint32_t)i, .site = at->site, .pos = in->top.at, .n_pos = in->top.n,
                                              .head = at->by_head ? &at->head : NULL, .n_head = at->by_head};
            if (trace_place_values(arch, p->in, &p->read[k]) != in->top.n * at->readout->d)
                return err_set(e, ERR_CORRUPT, "%s has another width than its site", p->probe.row.id);
            *scores += in->top.n * (2 * p->probe.classes + 1);
        }
    }
    return *scores <= MOST_SCORES || err_field(e, ERR_TOO_LARGE, "pos", "%zu numbers would be answered, %d at most", *scores, MOST_SCORES);
}

static bool prepare(struct apply_work *p, struct call *c, struct err *e)
{
    enum { TEXT_BYTES = 96 };
    struct look *l = &p->look;
    size_t scores = 0;
    if (!look_begin(l, c, &ops, e) || !probe_open(&p->probe, c->reader, l->work.served, c->param[0], "", &l->arena, e)) return false;
    look_uses(l, &p->probe.row);
    if (!place_inputs(p, e) || !place_reads(p, &scores, e) || !look_find(l, c, e)) return false;
    if (look_cached(l)) return true;
    struct plan plan = {0};
    trace_plan(&look_model(l)->arch, p->in, p->inputs.n, p->read, p->inputs.n * p->probe.n, NULL, 0, daemon_threads(c->daemon), &plan);
    plan_add(&plan, NEED_ANSWER, plan_times(scores, TEXT_BYTES));
    p->trace = look_lease(l, &plan, e) ? trace_new(l->view.view, p->in, p->inputs.n, p->read, p->inputs.n * p->probe.n, NULL, 0, e) : NULL;
    return p->trace != NULL;
}

struct work *api_probe_apply(struct call *c, struct err *e)
{
    struct apply_work *p = mem_new(sizeof *p);
    if (prepare(p, c, e)) return &p->look.work;
    apply_work_free(&p->look.work);
    return NULL;
}
