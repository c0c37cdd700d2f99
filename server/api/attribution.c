/* POST /v1/attribution, by method; and method atp: grids of estimates, all sites from the same pass back, and an audit of each. */
#include <stdio.h>
#include <string.h>

#include "attribution_int.h"
#include "dry_run.h"
#include "patch_answer.h"
#include "probes/attribution.h"
#include "probes/audit.h"
#include "server/clock.h"
#include "server/media.h"

struct sited {
    struct patch_request patch;
    struct patch_stats *stats;
    struct audit *audit;
    bool counted, audited; /* both are done */
};

struct attribution_work {
    struct look look;
    struct pairs pairs;
    const struct patch_axes *axes;
    uint32_t block;
    struct attribution_request request;
    struct attribution *attribution;
    double seconds;       /* of the estimates */
    bool estimated, many; /* many: sites came as a list */
    struct sited *site;
    uint32_t top, random;
    int64_t checks_us;
};

static struct attribution_work *of(struct work *w) { return (struct attribution_work *)w; }

static void attribution_work_free(struct work *w)
{
    struct attribution_work *p = of(w);
    for (size_t i = 0; p->site && i < p->request.n_sites; i++) {
        audit_free(p->site[i].audit);
        patch_stats_free(p->site[i].stats);
    }
    attribution_free(p->attribution);
    pairs_release(&p->pairs);
    look_release(&p->look);
    mem_drop(w);
}

/* ---- steps --------------------------------------------------------------------------------------- */

static enum step count(struct attribution_work *p, size_t i, struct err *e)
{
    struct sited *s = &p->site[i];
    const struct patch_stats_request q = {.patch = &s->patch, .grid = attribution_grid(p->attribution, i), .group = p->pairs.group,
                                          .n_groups = p->pairs.n_groups, .seed = (uint64_t)p->look.seed, .level = 0.95};
    if (!p->pairs.listed) return STEP_DONE;
    if (!s->stats) s->stats = patch_stats_new(&q, e);
    return s->stats ? patch_stats_step(s->stats, e) : STEP_FAIL;
}

static struct audit_request audit_of(const struct attribution_work *p, size_t i)
{
    struct audit_request q = {.patch = p->site[i].patch, .top = p->top, .random = p->random, .seed = (uint64_t)p->look.seed};
    if (!p->attribution) return q;
    q.grid = attribution_grid(p->attribution, i);
    q.rank = attribution_drop(p->attribution, i);
    return q;
}

static enum step audit(struct attribution_work *p, size_t i, struct session *s, struct err *e)
{
    struct sited *at = &p->site[i];
    const struct audit_request q = audit_of(p, i);
    const int64_t began = monotonic_us();
    enum step step = STEP_FAIL;
    if (p->top + p->random == 0) return STEP_DONE;
    if (!at->audit) at->audit = audit_new(&q, e);
    if (at->audit) step = audit_step(at->audit, s, e);
    p->checks_us += monotonic_us() - began;
    return step;
}

static enum step attribution_work_step(struct work *w, struct session *s, struct err *e)
{
    struct attribution_work *p = of(w);
    size_t done, total, i = 0;
    if (look_cached(&p->look)) return STEP_DONE;
    if (!p->estimated) {
        enum step step = attribution_step(p->attribution, s, e);
        attribution_progress(p->attribution, &done, &total);
        work_progress(w, done, total);
        p->estimated = step == STEP_DONE;
        p->seconds = (double)(monotonic_us() - w->started_us) / 1e6;
        return step == STEP_FAIL ? step : STEP_MORE;
    }
    while (i < p->request.n_sites && p->site[i].audited) i++;
    if (i == p->request.n_sites) return STEP_DONE;
    enum step step = p->site[i].counted ? audit(p, i, s, e) : count(p, i, e);
    if (step == STEP_DONE) *(p->site[i].counted ? &p->site[i].audited : &p->site[i].counted) = true;
    return step == STEP_FAIL ? step : STEP_MORE;
}

/* ---- the answer -------------------------------------------------------------------------------------- */

static void put_audit(const struct attribution_work *p, size_t i, jout *root)
{
    const struct patch_axes *axes = p->axes;
    if (!p->site[i].audit) return;
    const struct audit_found *f = audit_result(p->site[i].audit);
    jout *o = jout_put_object(root, "audit"), *cells = jout_put_array(o, "cells");
    for (size_t k = 0; k < f->n; k++) {
        const struct audit_cell *c = &f->cell[k];
        jout *one = jout_put_object(cells, NULL);
        jout_int(one, "layer", c->layer);
        if (axes->head) jout_int(one, "head", c->head);
        if (axes->pos) jout_int(one, "pos", c->pos);
        jout_f64(one, "estimate", c->estimate);
        jout_f64(one, "exact", c->exact);
        jout_text(one, "picked", c->random ? "random" : "top");
    }
    jout_text(o, "metric", metric_word(p->pairs.asked->metric->kind));
    jout_int(o, "seed", p->look.seed);
    jout_f64(o, "spearman", f->rho);
    jout_f64(o, "worst_under_estimate", f->worst);
    jout_f64(o, "top_share", f->share);
    jout *checks = jout_put_object(o, "checks");
    jout_f64(checks, "identity", f->exact ? f->exact->check_identity : 0);
    jout_f64(checks, "full", f->exact ? f->exact->check_full : 0);
}

static void put_site(struct attribution_work *p, size_t i, jout *o)
{
    const struct patch_told told = {&p->pairs, p->axes, p->block, attribution_grid(p->attribution, i), p->site[i].stats,
                                    attribution_drop(p->attribution, i)};
    jout_text(o, "site", hook_info(p->request.site[i])->spelling);
    if (node_kind(p->request.site[i], true) != NODE_LINEAR) jout_bool(o, "qk_fix", p->request.qk_fix);
    patch_put_grid(&told, &p->look, o);
    put_audit(p, i, o);
}

static void put_cost(const struct attribution_work *p, jout *root)
{
    const struct attribution_cost cost = attribution_cost(p->attribution);
    size_t cells = 0;
    for (size_t i = 0; i < p->request.n_sites; i++)
        if (p->site[i].audit && audit_result(p->site[i].audit)->exact) cells += audit_result(p->site[i].audit)->exact->cost.cells_run;
    jout *o = jout_put_object(root, "cost");
    jout_int(o, "forward", (int64_t)cost.forward);
    jout_int(o, "backward", (int64_t)cost.backward);
    jout_text(o, "unit", p->look.work.ops->unit);
    jout_int(o, "audited_cells", (int64_t)cells);
    jout_f64(o, "checks_seconds", (double)p->checks_us / 1e6);
    jout_f64(o, "seconds", (double)(monotonic_us() - p->look.work.started_us) / 1e6);
}

static void warn_of_joint_norm(struct attribution_work *p)
{
    for (size_t i = 0; i < p->request.n_sites; i++) {
        const enum hook h = p->request.site[i];
        if (p->request.qk_fix && look_model(&p->look)->arch.qk_norm == QK_NORM_ALL && (h == HOOK_Q || h == HOOK_K))
            look_warn(&p->look, "joint-norm", "this model norms the queries and keys of all heads together: the fix at %s takes "
                      "each head's after the norm, as if all heads were patched", hook_info(h)->spelling);
    }
}

static bool attribution_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct attribution_work *p = of(w);
    if (look_cached(&p->look)) return look_answer_cached(&p->look, o, e);
    const struct patch_told told = {&p->pairs, p->axes, p->block, attribution_grid(p->attribution, 0), NULL, NULL};
    jout *root = look_open(&p->look), *list = NULL;
    jout_text(root, "method", "atp");
    jout_text(root, "estimates", p->request.denoise ? "M(patched) - M(corrupt)" : "M(patched) - M(clean)");
    if (p->many) list = jout_put_array(root, "sites");
    for (size_t i = 0; i < p->request.n_sites; i++) put_site(p, i, list ? jout_put_object(list, NULL) : root);
    patch_put_behaviour(&told, &p->look, root);
    size_t rows;
    warn_of_joint_norm(p);
    rate_seen(daemon_rate(w->daemon), attribution_flops(&p->request, &rows), p->seconds);
    put_cost(p, root);
    return look_close(&p->look, root, o, e);
}

static const struct work_ops ops = {
    .kind = "attribution", .unit = "token-layers",
    .step = attribution_work_step, .finish = attribution_work_finish, .free = attribution_work_free,
};

/* ---- the request ------------------------------------------------------------------------------------- */

static bool choose_sites(struct attribution_work *p, const struct json *q, struct err *e)
{
    const struct json *site = json_get(q, "site"), *v;
    size_t n = 0;
    p->many = site->type == JSON_ARRAY;
    enum hook *at = arena_take(&p->look.arena, p->many ? site->len : 1, sizeof *at, e);
    p->site = at ? arena_take(&p->look.arena, p->many ? site->len : 1, sizeof *p->site, e) : NULL;
    if (!p->site) return false;
    for (v = p->many ? site->child : site; v; v = p->many ? v->next : NULL, n++) {
        if (!patch_site_read(v, &look_model(&p->look)->arch, &at[n], e) || !patch_axes_read(q, at[n], &p->axes, &p->block, e))
            return false;
        for (size_t i = 0; i < n; i++)
            if (at[i] == at[n]) return err_field(e, ERR_INVALID, "site", "%s is named twice", v->text);
    }
    if (p->block) return err_field(e, ERR_UNSUPPORTED, "axes", "an axis of neurons is not served here yet");
    p->request.site = at;
    p->request.n_sites = n;
    p->request.axis = p->axes->axis;
    return true;
}

bool attribution_gradients(const struct pairs *p, const struct json *q, struct err *e)
{
    for (size_t m = 0; m < p->n_metrics; m++) {
        char field[64] = "metric.kind";
        const enum metric_kind kind = p->asked->metric[m].kind;
        if (json_get(q, "metrics")) (void)snprintf(field, sizeof field, "metrics[%zu].kind", m);
        if (kind != METRIC_NORM_LOGIT_DIFF && !metric_has_gradient(kind))
            return err_field(e, ERR_INVALID, field, "%s has no gradient", metric_word(kind));
    }
    return true;
}

static void ask(struct attribution_work *p, const struct json *q)
{
    const struct json *checks = json_get(q, "audit");
    p->top = checks ? (uint32_t)json_get(checks, "top")->integer : 10;
    p->random = checks ? (uint32_t)json_get(checks, "random")->integer : 10;
    p->request.view = p->look.view.view;
    p->request.pair = p->pairs.asked;
    p->request.n_pairs = p->pairs.n;
    p->request.n_metrics = p->pairs.n_metrics;
    p->request.denoise = p->pairs.denoise;
    p->request.qk_fix = json_get(q, "qk_fix")->boolean;
    p->request.grad_drop = json_get(q, "grad_drop")->boolean;
    for (size_t i = 0; i < p->request.n_sites; i++) p->site[i].patch = attribution_patch(&p->request, i);
}

/* The grids, and what is said of each. */
static void plan_of(struct attribution_work *p, int threads, struct plan *plan)
{
    struct plan checks = {0};
    attribution_plan(&p->request, threads, plan);
    for (size_t i = 0; i < p->request.n_sites; i++) {
        const struct audit_request q = audit_of(p, i);
        if (p->pairs.listed) patch_stats_plan(&p->site[i].patch, p->pairs.n_groups, plan);
        if (p->top + p->random) audit_plan(&q, threads, &checks); /* they are held until the answer */
    }
    plan_with(plan, &checks);
}

static bool tell_cost(struct attribution_work *p, const struct plan *plan, struct err *e)
{
    struct forecast f = {0};
    f.flops = attribution_flops(&p->request, &f.rows);
    for (size_t i = 0; p->top + p->random && i < p->request.n_sites; i++) {
        const struct audit_request q = audit_of(p, i);
        struct patch_cost c;
        if (!audit_forecast(&q, &c, e)) return false;
        f.cells += c.cells, f.cells_run += c.cells_run, f.rows += c.rows, f.flops += c.all_flops;
    }
    dry_run(&p->look, &f, plan);
    return true;
}

static bool prepare(struct attribution_work *p, struct call *c, struct err *e)
{
    struct look *l = &p->look;
    static const struct attribution_field others[] = {{"input", "only ig begins at zero embeddings: clean and corrupt here"},
        {"steps", "of eap and ig"},
        {"rule", "of eap and ig"}, {"max_steps", "of ig"}, {"top_k", "of eap"}, {NULL, NULL}};
    if (!look_begin(l, c, &ops, e) || !attribution_refuses(l->request, others, e)) return false;
    if (!choose_sites(p, l->request, e) || !pairs_read(&p->pairs, l, c, e) || !attribution_gradients(&p->pairs, l->request, e)) return false;
    ask(p, l->request);
    l->seed = json_get(l->request, "seed")->integer;
    for (size_t i = 0; i < p->request.n_sites; i++)
        if (!patch_bounded(&p->pairs, &p->site[i].patch, e)) return false;
    const bool dry = dry_run_asked(l);
    struct plan plan = {0};
    if (!dry && !look_find(l, c, e)) return false;
    if (look_cached(l)) return true;
    plan_of(p, daemon_threads(c->daemon), &plan);
    if (dry) return tell_cost(p, &plan, e);
    p->attribution = look_lease(l, &plan, e) ? attribution_new(&p->request, e) : NULL;
    return p->attribution != NULL;
}

static struct work *of_nodes(struct call *c, struct err *e)
{
    struct attribution_work *p = mem_new(sizeof *p);
    if (prepare(p, c, e)) return &p->look.work;
    attribution_work_free(&p->look.work);
    return NULL;
}

bool attribution_refuses(const struct json *q, const struct attribution_field *f, struct err *e)
{
    for (; f->name; f++)
        if (json_get(q, f->name)) return err_field(e, ERR_INVALID, f->name, "%s", f->why);
    return true;
}

struct work *api_attribution(struct call *c, struct err *e)
{
    static const struct {
        const char *method;
        prepare_fn prepare;
    } methods[] = {{"atp", of_nodes}, {"eap", attribution_eap}, {"ig", attribution_ig}};
    const char *asked = json_get(c->body, "method")->text;
    size_t i = 0;
    while (strcmp(methods[i].method, asked) != 0) i++; /* the shape knows no other */
    if (media_of(c->accept) != MEDIA_JSON && methods[i].prepare != attribution_eap)
        return err_field(e, ERR_INVALID, "Accept", "bytes are of eap; %s answers in JSON", asked), NULL;
    return methods[i].prepare(c, e);
}
