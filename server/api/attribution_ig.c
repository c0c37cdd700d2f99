/* POST /v1/attribution, method ig: integrated gradients of each pair by each metric, one after the other. */
#include <stdio.h>

#include "attribution_int.h"
#include "dry_run.h"
#include "pairs.h"
#include "place.h"
#include "probes/integral.h"
#include "server/clock.h"

struct ig_result {
    struct integral *done; /* or in hand */
    struct integral_found found;
    double scale;          /* of norm_logit_diff 1 / its difference; else 1 */
};

struct ig_work {
    struct look look;
    struct pairs pairs;
    struct integral_request common;
    struct ig_result *result; /* [pairs][metrics] */
    size_t n, at;
    bool zero;                /* from zero embeddings */
};

static struct ig_work *of(struct work *w) { return (struct ig_work *)w; }

static void ig_work_free(struct work *w)
{
    struct ig_work *p = of(w);
    for (size_t i = 0; p->result && i < p->n; i++) integral_free(p->result[i].done);
    pairs_release(&p->pairs);
    look_release(&p->look);
    mem_drop(w);
}

static struct integral_request request_of(const struct ig_work *p, size_t i)
{
    const struct patch_pair *pair = &p->pairs.asked[i / p->pairs.n_metrics];
    struct integral_request q = p->common;
    q.to = p->pairs.denoise ? pair->clean : pair->corrupt;
    q.from = p->zero ? NULL : p->pairs.denoise ? pair->corrupt : pair->clean;
    q.n = pair->n;
    q.metric = &pair->metric[i % p->pairs.n_metrics];
    return q;
}

/* ---- steps --------------------------------------------------------------------------------------- */

/* norm_logit_diff goes from 0, the corrupt prompt, to 1, the clean one. */
static bool scale(struct ig_work *p, struct ig_result *r, const struct metric *m, struct err *e)
{
    const double to = r->found.at_to, from = r->found.at_from;
    r->scale = 1;
    if (m->kind != METRIC_NORM_LOGIT_DIFF) return true;
    r->scale = 1 / (p->pairs.denoise ? to - from : from - to);
    return patch_normalises(m, p->pairs.denoise ? to : from, p->pairs.denoise ? from : to, e);
}

static enum step ig_work_step(struct work *w, struct session *s, struct err *e)
{
    struct ig_work *p = of(w);
    if (look_cached(&p->look) || p->at == p->n) return STEP_DONE;
    struct ig_result *r = &p->result[p->at];
    const struct integral_request q = request_of(p, p->at);
    if (!r->done) r->done = integral_new(&q, e);
    enum step step = r->done ? integral_step(r->done, s, e) : STEP_FAIL;
    if (step != STEP_DONE) return step;
    r->found = integral_result(r->done);
    if (!scale(p, r, q.metric, e)) return STEP_FAIL;
    integral_rest(r->done);
    w->done = (int64_t)++p->at;
    w->total = (int64_t)p->n;
    return p->at < p->n ? STEP_MORE : STEP_DONE;
}

/* ---- the answer -------------------------------------------------------------------------------------- */

static struct patch_scores scores_of(const struct ig_work *p, const struct ig_result *r, const struct metric *m)
{
    const bool normed = m->kind == METRIC_NORM_LOGIT_DIFF, to_clean = p->pairs.denoise;
    return (struct patch_scores){.clean = normed ? 1 : to_clean ? r->found.at_to : r->found.at_from,
                                 .corrupt = normed ? 0 : to_clean ? r->found.at_from : r->found.at_to};
}

static void put_result(struct ig_work *p, size_t i, jout *o)
{
    const struct ig_result *r = &p->result[i];
    const size_t M = p->pairs.n_metrics;
    const struct patch_scores s = scores_of(p, r, &p->pairs.metric[i]);
    jout *values = jout_put_array(o, "values");
    for (uint32_t k = 0; k < p->pairs.asked[i / M].n; k++) jout_f64(values, NULL, r->scale * r->found.values[k]);
    jout_f64(o, "total", r->scale * r->found.total);
    jout_f64(o, "residual", r->scale * r->found.residual);
    jout_int(o, "steps", r->found.steps);
    jout_bool(o, "complete", r->found.complete);
    pairs_echo(&p->pairs, i / M, i % M, &p->look, &s, o);
    if (!r->found.complete)
        look_warn(&p->look, "incomplete", "after %u steps the values of result %zu miss the metric's change by %.3g", r->found.steps, i,
                  r->scale * r->found.residual);
}

static void put_results(struct ig_work *p, jout *root)
{
    jout *list = jout_put_array(root, "results");
    for (size_t i = 0; i < p->n; i++) {
        const size_t pair = i / p->pairs.n_metrics;
        jout *one = jout_put_object(list, NULL);
        if (p->pairs.pair[pair].id) jout_text(one, "pair", p->pairs.pair[pair].id);
        else jout_int(one, "pair", (int64_t)pair);
        jout_text(one, "metric", metric_word(p->pairs.metric[i].kind));
        put_result(p, i, one);
    }
}

static bool ig_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct ig_work *p = of(w);
    size_t rows = 0;
    if (look_cached(&p->look)) return look_answer_cached(&p->look, o, e);
    const double seconds = (double)(monotonic_us() - w->started_us) / 1e6;
    jout *root = look_open(&p->look);
    jout_text(root, "method", "ig");
    jout_text(root, "estimates", p->zero ? "M(input) - M(zero embeddings)" : p->pairs.denoise ? "M(clean) - M(corrupt)" : "M(corrupt) - M(clean)");
    jout_text(root, "rule", integral_rule_word(p->common.rule));
    if (p->pairs.listed) put_results(p, root);
    else put_result(p, 0, root);
    for (size_t i = 0; i < p->n; i++) rows += p->result[i].found.rows;
    jout *cost = jout_put_object(root, "cost");
    jout_int(cost, "rows", (int64_t)rows);
    jout_text(cost, "unit", "token-layers");
    jout_f64(cost, "seconds", seconds);
    const struct arch *a = &look_model(&p->look)->arch;
    rate_seen(daemon_rate(w->daemon), run_flops(a, (double)rows / a->n_layers), seconds);
    return look_close(&p->look, root, o, e);
}

static const struct work_ops ops = {
    .kind = "attribution", .unit = "integrals", .step = ig_work_step, .finish = ig_work_finish, .free = ig_work_free,
};

/* ---- the request ------------------------------------------------------------------------------------- */

static bool served(const struct ig_work *p, const struct json *q, struct err *e)
{
    static const struct attribution_field others[] = {{"audit", "of atp: ig checks itself by its residual"}, {"top_k", "of eap"}, {NULL, NULL}};
    if (!attribution_refuses(q, others, e) || !attribution_gradients(&p->pairs, q, e)) return false;
    if (json_get(q, "grad_drop")->boolean) return err_field(e, ERR_INVALID, "grad_drop", "of atp");
    if (p->zero && !p->pairs.denoise) return err_field(e, ERR_INVALID, "direction", "an input alone has none");
    for (size_t m = 0; m < p->pairs.n_metrics; m++) {
        char field[64];
        const enum metric_kind kind = p->pairs.metric[m].kind;
        const char *at = json_get(q, "metrics") ? (snprintf(field, sizeof field, "metrics[%zu].kind", m), field) : "metric.kind";
        if (kind == METRIC_KL) return err_field(e, ERR_INVALID, at, "along a path there is no run that kl could compare with");
        if (p->zero && kind == METRIC_NORM_LOGIT_DIFF)
            return err_field(e, ERR_INVALID, at, "norm_logit_diff is normalised by a corrupt prompt, and an input alone has none");
    }
    return true;
}

static void ask(struct ig_work *p, const struct json *q)
{
    const struct json *steps = json_get(q, "steps"), *most = json_get(q, "max_steps"), *rule = json_get(q, "rule");
    p->common.view = p->look.view.view;
    p->common.steps = steps ? (uint32_t)steps->integer : 20;
    p->common.max_steps = most ? (uint32_t)most->integer : 320;
    p->common.rule = rule ? integral_rule(rule->text) : RULE_MIDPOINT;
    p->n = p->pairs.n * p->pairs.n_metrics;
}

/* The largest of them, and all their values. At its dearest every one doubles its steps to the end. */
static void forecast(const struct ig_work *p, int threads, struct plan *plan, struct forecast *f)
{
    const uint32_t L = look_model(&p->look)->arch.n_layers;
    *f = (struct forecast){0};
    for (size_t i = 0; i < p->n; i++) {
        const struct integral_request q = request_of(p, i);
        struct plan one = {0};
        integral_plan(&q, threads, &one);
        plan_peak(plan, &one);
        f->rows += integral_rows(&q, L);
    }
    for (size_t i = 0; i < p->n; i++) plan_add(plan, NEED_ANSWER, plan_times(p->pairs.asked[i / p->pairs.n_metrics].n, sizeof(double) + 64));
    f->flops = run_flops(&look_model(&p->look)->arch, (double)f->rows / L);
}

static bool prepare(struct ig_work *p, struct call *c, struct err *e)
{
    struct look *l = &p->look;
    struct plan plan = {0};
    struct forecast f;
    if (!look_begin(l, c, &ops, e)) return false;
    p->zero = json_get(l->request, "input") != NULL;
    if (!pairs_read(&p->pairs, l, c, e) || !served(p, l->request, e)) return false;
    ask(p, l->request);
    l->seed = json_get(l->request, "seed")->integer;
    const bool dry = dry_run_asked(l);
    if (!dry && !look_find(l, c, e)) return false;
    if (look_cached(l)) return true;
    forecast(p, daemon_threads(c->daemon), &plan, &f);
    if (dry) return dry_run(l, &f, &plan), true;
    if (!look_lease(l, &plan, e)) return false;
    p->result = arena_take(&l->arena, p->n, sizeof *p->result, e);
    return p->result != NULL;
}

struct work *attribution_ig(struct call *c, struct err *e)
{
    struct ig_work *p = mem_new(sizeof *p);
    if (prepare(p, c, e)) return &p->look.work;
    ig_work_free(&p->look.work);
    return NULL;
}
