/* POST /v1/edits: facts in, one commit out.
 *
 *   pin the branch's head ─► score it ─► train on what it does not know yet ─► rebuild the view with
 *   the delta ─► score that ─► gates ─► commit, or keep the report as a run
 *
 * Everything happens on private memory; readers of the branch see the new view only after the
 * revision is durable (published). What is scored and hashed is the rebuilt view, never the
 * optimiser's buffer.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "handlers.h"
#include "server/clock.h"
#include "edit_report.h"
#include "edits/editor.h"
#include "look.h"
#include "place.h"

struct edit_work;
struct phase { /* a row of the plan: begin once, step to the end */
    bool (*begin)(struct edit_work *w, struct err *e);
    enum step (*step)(struct edit_work *w, struct session *s, struct err *e);
};

struct edit_work {
    struct look look;         /* request, pinned view (at the first step), warnings */
    const struct method *method;
    struct edit_params params;
    struct facts facts;
    struct gates gates;
    bool apply;
    size_t phase;
    bool begun;
    struct measure *before, *after;
    struct measure *base, *from_base; /* only when the parent is not the base: its scores, and `after` against them */
    struct resolved base_view;
    bool *null_edit;
    size_t n_null;
    struct example *train;    /* examples of the facts that are no null edits */
    struct editor *editor;
    struct view *candidate;
    char digest[DIGEST_TEXT];
    struct buf delta;
    struct buf summary;
    int64_t steps_us;         /* training time */
};

static struct edit_work *of(struct work *w) { return (struct edit_work *)w; }

static void edit_free(struct work *work)
{
    struct edit_work *w = of(work);
    measure_free(w->from_base);
    measure_free(w->base);
    measure_free(w->after);
    measure_free(w->before);
    if (w->editor) w->method->free(w->editor);
    view_drop(w->candidate);
    resolved_release(&w->base_view);
    facts_release(&w->facts);
    mem_drop(w->null_edit);
    mem_drop(w->train);
    buf_release(&w->delta);
    buf_release(&w->summary);
    look_release(&w->look);
    mem_drop(w);
}

/* ---- phases ------------------------------------------------------------------------------------ */

/* The head is pinned when the edit starts, not when it was queued. */
static bool begin_before(struct edit_work *w, struct err *e)
{
    struct look *l = &w->look;
    resolved_release(&l->view);
    if (!served_view(l->work.served, NULL, json_get(l->request, "view")->text, &l->view, e) ||
        !served_view(l->work.served, NULL, "base", &w->base_view, e) ||
        !look_head_expected(l, &l->view, e))
        return false;
    w->before = measure_new(l->view.view, w->facts.fact, w->facts.n, NULL, e);
    return w->before != NULL;
}

static enum step step_before(struct edit_work *w, struct session *s, struct err *e)
{
    return measure_step(w->before, s, e);
}

static bool all_null(const struct edit_work *w) { return w->n_null == w->facts.n; }

/* Facts the parent already answers are left out of training. */
static bool begin_train(struct edit_work *w, struct err *e)
{
    const struct facts *f = &w->facts;
    w->null_edit = mem_take(f->n, sizeof *w->null_edit, e);
    w->train = mem_take(f->n_examples, sizeof *w->train, e);
    if (!w->null_edit || !w->train) return false;
    size_t n = 0;
    for (size_t i = 0; i < f->n; i++) {
        w->null_edit[i] = measure_score(w->before, i)->match;
        w->n_null += w->null_edit[i];
        if (w->null_edit[i])
            look_warn(&w->look, "null-edit", "fact %s is already so at the parent", f->id[i]);
        for (size_t k = f->first_example[i]; !w->null_edit[i] && k < f->first_example[i + 1]; k++)
            w->train[n++] = f->example[k];
    }
    if (all_null(w)) return true;
    struct edit_request q = {.parent = w->look.view.view, .example = w->train, .n = n, .params = w->params,
                             .seed = (uint64_t)w->look.seed};
    w->editor = w->method->new(&q, e);
    w->steps_us = monotonic_us();
    return w->editor != NULL;
}

static enum step step_train(struct edit_work *w, struct session *s, struct err *e)
{
    if (!w->editor) return STEP_DONE;
    enum step step = w->method->step(w->editor, s, e);
    size_t done, total;
    w->method->progress(w->editor, &done, &total);
    work_progress(&w->look.work, done, total);
    return step;
}

static bool begin_rebuild(struct edit_work *w, struct err *e)
{
    w->steps_us = w->editor ? monotonic_us() - w->steps_us : 0;
    if (!w->editor) {
        w->candidate = view_retain(w->look.view.view);
        return true;
    }
    const struct edit_outcome *o = w->method->outcome(w->editor);
    w->candidate = view_with_delta(w->look.view.view, o->delta, e);
    return w->candidate && delta_write(o->delta, look_model(&w->look), &w->delta, e);
}

static enum step step_rebuild(struct edit_work *w, struct session *s, struct err *e)
{
    (void)s, (void)e;
    digest_view(w->candidate, &w->look.work.served->digests, w->digest);
    return STEP_DONE;
}

static bool begin_after(struct edit_work *w, struct err *e)
{
    w->after = measure_new(w->candidate, w->facts.fact, w->facts.n, w->before, e);
    return w->after != NULL;
}

static enum step step_after(struct edit_work *w, struct session *s, struct err *e)
{
    return measure_step(w->after, s, e);
}

static bool parent_is_base(const struct edit_work *w)
{
    return strcmp(w->look.view.digest, w->base_view.digest) == 0;
}

static bool begin_base(struct edit_work *w, struct err *e)
{
    if (parent_is_base(w)) return true;
    w->base = measure_new(w->base_view.view, w->facts.fact, w->facts.n, NULL, e);
    return w->base != NULL;
}

static enum step step_base(struct edit_work *w, struct session *s, struct err *e)
{
    return w->base ? measure_step(w->base, s, e) : STEP_DONE;
}

/* What all edits since the base have moved, not this one alone. */
static bool begin_from_base(struct edit_work *w, struct err *e)
{
    if (!w->base) return true;
    w->from_base = measure_against(w->after, w->base, e);
    return w->from_base != NULL;
}

static enum step step_from_base(struct edit_work *w, struct session *s, struct err *e)
{
    return w->from_base ? measure_step(w->from_base, s, e) : STEP_DONE;
}

static const struct phase phases[] = {
    {begin_before, step_before}, {begin_train, step_train}, {begin_rebuild, step_rebuild},
    {begin_after, step_after},   {begin_base, step_base},   {begin_from_base, step_from_base},
};
enum { N_PHASES = sizeof phases / sizeof *phases };

static enum step edit_step(struct work *work, struct session *s, struct err *e)
{
    struct edit_work *w = of(work);
    const struct phase *p = &phases[w->phase];
    if (!w->begun && !p->begin(w, e)) return STEP_FAIL;
    w->begun = true;
    enum step step = p->step(w, s, e);
    if (step != STEP_DONE) return step;
    w->begun = false;
    return ++w->phase < N_PHASES ? STEP_MORE : STEP_DONE;
}

/* ---- the report -------------------------------------------------------------------------------- */

static void put_params(const struct edit_work *w, jout *o)
{
    const struct edit_params *p = w->editor ? &w->method->outcome(w->editor)->resolved : &w->params;
    jout *params = jout_put_object(o, "params");
    for (size_t i = 0; i < w->method->n_params; i++) {
        const struct param *row = &w->method->params[i];
        if (isnan(p->value[i])) jout_null(params, row->name);
        else if (row->kind == PARAM_BOOL) jout_bool(params, row->name, p->value[i] != 0);
        else if (row->kind == PARAM_INT) jout_int(params, row->name, (int64_t)p->value[i]);
        else jout_f64(params, row->name, p->value[i]);
    }
    jout_int(params, "seed", w->look.seed);
}

static void put_cost(const struct edit_work *w, jout *o)
{
    jout *cost = jout_put_object(o, "cost");
    jout_f64(cost, "seconds", (double)(monotonic_us() - w->look.work.started_us) / 1e6);
    jout_f64(cost, "train_seconds", (double)w->steps_us / 1e6);
    if (!w->editor) {
        jout_int(cost, "steps", 0);
        return;
    }
    const struct edit_outcome *out = w->method->outcome(w->editor);
    jout_int(cost, "steps", (int64_t)out->updates);
    jout_int(cost, "epochs", out->epochs);
    jout_f64(cost, "final_loss", out->final_loss);
}

/* full: where the delta is and how large. */
static void put_parts(const struct edit_work *w, jout *o)
{
    if (!w->editor || strcmp(json_get(w->look.request, "report")->text, "full") != 0) return;
    const struct delta *d = w->method->outcome(w->editor)->delta;
    const struct model *m = look_model(&w->look);
    jout *list = jout_put_array(o, "delta_parts");
    for (size_t i = 0; i < d->n_parts; i++) {
        const struct tensor *t = &m->tensors[d->parts[i].tensor];
        jout *one = jout_put_object(list, NULL);
        double norm = delta_norm(&d->parts[i], t->rows, t->cols);
        double was = view_tensor_norm(w->look.view.view, d->parts[i].tensor);
        jout_text(one, "tensor", t->name);
        jout_text(one, "kind", delta_kind_word(d->parts[i].kind));
        jout_f64(one, "norm", norm);
        jout_f64(one, "relative_norm", norm / was);
    }
}

/* The answer's members in the contract's order; ids that only a commit knows come from rev. */
static jout *build(struct edit_work *w, const char *status, const struct revision *rev)
{
    jout *o = jout_object();
    jout_text(o, "edit", w->look.run);
    jout_text(o, "status", status);
    jout_text(o, "method", w->method->name);
    jout_text(o, "delta", rev && rev->delta[0] ? rev->delta : NULL);
    if (rev) {
        jout_text(o, "revision", rev->id);
        jout_int(o, "seq", rev->seq);
    } else if (all_null(w) && w->apply) { /* nothing to commit: the head stands */
        jout_text(o, "revision", w->look.view.revision);
        jout_int(o, "seq", w->look.view.seq);
    }
    answer_view(o, "parent", &w->look.view);
    jout *digest = jout_put_object(o, "digest");
    jout_text(digest, "before", w->look.view.digest);
    jout_text(digest, "after", w->digest);
    report_facts(o, &w->facts, w->before, w->after, w->null_edit);
    report_summary(jout_put_object(o, "summary"), &w->facts, w->before, w->after);
    report_summary(jout_put_object(o, "vs_base"), &w->facts, w->base ? w->base : w->before,
                   w->from_base ? w->from_base : w->after);
    (void)gates_report(&w->gates, &w->facts, w->after, o);
    put_params(w, o);
    put_parts(w, o);
    jout_add(o, "warnings", w->look.warnings ? w->look.warnings : jout_array());
    w->look.warnings = NULL;
    put_cost(w, o);
    return o;
}

/* Inside the transaction: the revision has its id now. */
static void answer(void *ctx, const struct revision *rev, struct buf *out)
{
    struct edit_work *w = ctx;
    struct err e = {0};
    jout *o = build(w, "committed", rev);
    if (!jout_print(o, out, &e)) out->failed = true;
    jout_free(o);
}

/* The revision keeps the summary itself, so that a history page needs nothing else. */
static bool summary_text(struct edit_work *w, struct err *e)
{
    jout *o = jout_object();
    report_summary(o, &w->facts, w->before, w->after);
    bool ok = jout_print(o, &w->summary, e);
    jout_free(o);
    return ok;
}

static bool finish_commit(struct edit_work *w, struct outcome *o, struct err *e)
{
    if (!summary_text(w, e)) return false;
    const struct look *l = &w->look;
    o->status = 201;
    o->record = RECORD_COMMIT;
    o->commit = (struct commit){
        .kind = REV_EDIT, .model = l->view.model_id, .branch = l->view.name, .expected_head = l->view.revision,
        .message = json_get(l->request, "message")->text, .digest = w->digest, .after = w->candidate,
        .before = l->view.view, .base = &l->work.served->digests, .method = w->method->name,
        .delta_bytes = w->delta.data, .delta_len = w->delta.len, .request = l->text.data,
        .summary = w->summary.data, .edit_id = w->look.run, .answer = answer, .ctx = w};
    look_provenance(l, &o->commit.by);
    return true;
}

static bool finish_run(struct edit_work *w, const char *status, struct outcome *o, struct err *e)
{
    jout *body = build(w, status, NULL);
    bool ok = jout_print(body, &o->body, e);
    jout_free(body);
    look_record(&w->look, o);
    return ok;
}

static bool edit_finish(struct work *work, struct outcome *o, struct err *e)
{
    struct edit_work *w = of(work);
    jout *scratch = jout_object();
    bool passed = gates_report(&w->gates, &w->facts, w->after, scratch);
    jout_free(scratch);
    if (!w->apply) return finish_run(w, "dry_run", o, e);
    if (all_null(w)) return finish_run(w, "committed", o, e);
    return passed ? finish_commit(w, o, e) : finish_run(w, "rejected", o, e);
}

static void edit_published(struct work *work, const struct revision *rev)
{
    served_publish(work->served, rev, of(work)->candidate);
}

static const struct work_ops ops = {
    .kind = "edit", .unit = "facts trained",
    .step = edit_step, .finish = edit_finish, .published = edit_published, .free = edit_free,
};

/* ---- checks ------------------------------------------------------------------------------------ */

static bool read_params(struct edit_work *w, const struct json *q, struct err *e)
{
    w->params = method_defaults(w->method);
    w->look.seed = 0;
    for (const struct json *v = json_get(q, "params")->child; v; v = v->next) {
        char field[128];
        place_field(field, "params", v->key);
        bool seed = strcmp(v->key, "seed") == 0;
        size_t k = method_param(w->method, v->key);
        if (!seed && k == w->method->n_params)
            return err_field(e, ERR_INVALID, field, "%s has no such parameter; /v1/methods lists them", w->method->name);
        if (v->type == JSON_NULL || json_is(v, "auto")) continue;
        const struct param *row = seed ? &method_seed : &w->method->params[k];
        double value = v->type == JSON_BOOL ? v->boolean : v->number;
        bool fits = row->kind == PARAM_BOOL ? v->type == JSON_BOOL
                    : row->kind == PARAM_INT ? v->type == JSON_NUMBER && v->is_int : v->type == JSON_NUMBER;
        if (!fits || value < row->least || value > row->most)
            return err_field(e, ERR_INVALID, field, row->kind == PARAM_BOOL ? "true or false" : "a%s number from %g to %g",
                             row->kind == PARAM_INT ? " whole" : "", row->least, row->most);
        if (seed) w->look.seed = v->integer;
        else w->params.value[k] = value;
    }
    size_t layer = method_param(w->method, "layer");
    uint32_t L = look_model(&w->look)->arch.n_layers;
    if (layer < w->method->n_params && w->params.value[layer] >= L)
        return err_field(e, ERR_INVALID, "params.layer", "layer %g is outside 0..%u", w->params.value[layer], L - 1);
    return true;
}

static bool check_gates(struct edit_work *w, struct err *e)
{
    enum summary_kind k;
    if (!gates_measured(&w->gates, &w->facts, &k, e)) return false;
    if (k != SUMMARY_COUNT)
        look_warn(&w->look, "not-measured", "no fact has prompts for the gate %s; it was not judged", summary_word(k));
    return true;
}

static bool warn_of_targets(struct edit_work *w, struct err *e)
{
    for (size_t i = 0; i < w->facts.n; i++) {
        bool can;
        if (!measure_can_match(&w->facts.fact[i], &can, e)) return false;
        if (!can)
            look_warn(&w->look, "no-match", "no generation matches the target of fact %s: it would end inside, at a new "
                      "line or the first full stop", w->facts.id[i]);
    }
    return true;
}

static bool append_eos(const struct edit_work *w)
{
    size_t k = method_param(w->method, "append_eos");
    return k < w->method->n_params && w->params.value[k] != 0;
}

/* Phase after phase: the scores before; training; the rebuilt view scored beside its delta, twice (as
 * parts and as bytes); and the commit, which reads that delta again and rebuilds once more. */
static bool lease(struct edit_work *w, struct err *e)
{
    struct look *l = &w->look;
    const struct arch *a = &look_model(l)->arch;
    int threads = daemon_threads(l->work.daemon);
    struct edit_request q = {.parent = l->view.view, .example = w->facts.example, .n = w->facts.n_examples,
                             .params = w->params};
    struct plan measure = {0}, train = {0}, after = {0}, commit = {0};
    size_t changed = 0;
    measure_plan(a, w->facts.fact, w->facts.n, threads, &measure);
    if (!w->method->plan(&q, threads, &train, &changed, e)) return false;
    after = measure;
    plan_add(&after, NEED_DELTAS, plan_times(3, changed));
    plan_add(&commit, NEED_DELTAS, plan_times(5, changed));
    plan_peak(&after, &train);
    plan_peak(&after, &commit);
    return look_lease(l, &after, e);
}

static bool prepare(struct edit_work *w, struct call *c, struct err *e)
{
    struct look *l = &w->look;
    if (!look_begin(l, c, &ops, e)) return false;
    const struct json *q = l->request;
    char head[ID_TEXT];
    int64_t seq;
    const char *branch = json_get(q, "view")->text;
    if (!served_head(l->work.served, branch, head, &seq))
        return err_field(e, ERR_INVALID, "view", "\"%s\" is no branch; only a branch can be edited", branch);
    w->method = method_find(json_get(q, "method")->text);
    if (!w->method) return err_field(e, ERR_UNSUPPORTED, "method", "not served");
    w->apply = strcmp(json_get(q, "mode")->text, "apply") == 0;
    look_author(l, c);
    ledger_new_id("edit", l->run); /* an edit that is not committed is a run of that id */
    return read_params(w, q, e) && gates_read(json_get(q, "gates"), &w->gates, e) &&
           facts_read(&w->facts, look_model(l), json_get(q, "facts"), append_eos(w), &l->arena, e) &&
           check_gates(w, e) && warn_of_targets(w, e) && lease(w, e);
}

struct work *api_edits(struct call *c, struct err *e)
{
    struct edit_work *w = mem_new(sizeof *w);
    if (prepare(w, c, e)) return &w->look.work;
    edit_free(&w->look.work);
    return NULL;
}
