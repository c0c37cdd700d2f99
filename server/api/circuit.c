/* POST /v1/circuit: is a circuit faithful, complete and minimal? */
#include <math.h>
#include <string.h>

#include "circuit_members.h"
#include "dry_run.h"
#include "handlers.h"
#include "pairs.h"
#include "server/clock.h"

struct circuit_work {
    struct look look;
    struct pairs pairs;
    struct circuit_request request;
    struct circuit *circuit;
};

static struct circuit_work *of(struct work *w) { return (struct circuit_work *)w; }

static void circuit_work_free(struct work *w)
{
    circuit_free(of(w)->circuit);
    pairs_release(&of(w)->pairs);
    look_release(&of(w)->look);
    mem_drop(w);
}

static enum step circuit_work_step(struct work *w, struct session *s, struct err *e)
{
    struct circuit_work *p = of(w);
    size_t done, total;
    if (look_cached(&p->look)) return STEP_DONE;
    const enum step step = circuit_step(p->circuit, s, e);
    circuit_progress(p->circuit, &done, &total);
    work_progress(w, done, total);
    return step;
}

/* ---- what it costs ------------------------------------------------------------------------------- */

/* Rows of whole passes: each set on each pair up to the metric, and the pairs' own runs. */
static size_t rows(const struct circuit_work *p)
{
    size_t n = 0;
    for (size_t i = 0; i < p->pairs.n; i++) n += p->pairs.metric[i].pos + 1;
    return plan_times(circuit_sets(&p->request) + 2, n);
}

static double flops(const struct circuit_work *p) { return run_flops(&look_model(&p->look)->arch, (double)rows(p)); }
static size_t token_rows(const struct circuit_work *p) { return plan_times(rows(p), look_model(&p->look)->arch.n_layers); }

/* ---- the answer ---------------------------------------------------------------------------------- */

static uint32_t heads_of(const struct circuit_work *p)
{
    return look_model(&p->look)->arch.n_layers * look_model(&p->look)->arch.n_heads;
}

static void put_head(const struct circuit_work *p, jout *o, uint32_t unit)
{
    const uint32_t H = look_model(&p->look)->arch.n_heads;
    jout_int(o, "layer", unit / H);
    jout_int(o, "head", unit % H);
}

static void put_members(const struct circuit_work *p, jout *to, const char *key, const uint32_t *member, size_t n)
{
    const uint32_t heads = heads_of(p);
    jout *o = jout_put_object(to, key), *list = jout_put_array(o, "heads");
    size_t i = 0;
    for (; i < n && member[i] < heads; i++) put_head(p, jout_put_object(list, NULL), member[i]);
    if (!p->request.mlps) return;
    list = jout_put_array(o, "mlps");
    for (; i < n; i++) jout_int(list, NULL, member[i] - heads);
}

static void put_faithfulness(const struct circuit_result *r, jout *root)
{
    jout *metric = jout_put_object(root, "metric"), *faithful = jout_put_object(root, "faithfulness");
    jout_f64(metric, "full", r->full);
    jout_f64(metric, "none", r->none);
    jout_f64(metric, "circuit", r->circuit);
    jout_f64(faithful, "value", r->faithfulness.value);
    answer_interval(faithful, r->faithfulness.low, r->faithfulness.high);
}

static void put_completeness(const struct circuit_work *p, const struct circuit_result *r, jout *root)
{
    jout *o = jout_put_object(root, "completeness");
    jout_int(o, "n", (int64_t)r->n_samples);
    jout_f64(o, "mean", r->completeness_mean);
    jout_f64(o, "max", r->completeness_max);
    if (!r->n_samples) return;
    const struct circuit_sample *worst = &r->sample[r->worst];
    put_members(p, o, "worst", worst->member, worst->n);
    jout_f64(o, "circuit", worst->circuit);
    jout_f64(o, "model", worst->model);
}

static void put_minimality(const struct circuit_work *p, const struct circuit_result *r, jout *root)
{
    jout *list = jout_put_array(root, "minimality");
    for (size_t i = 0; i < p->request.n; i++) {
        const uint32_t unit = p->request.member[i], heads = heads_of(p);
        jout *o = jout_put_object(list, NULL);
        if (unit < heads) put_head(p, o, unit);
        else {
            jout_int(o, "layer", unit - heads);
            jout_bool(o, "mlp", true);
        }
        jout_f64(o, "value", r->minimality[i]);
    }
}

static void put_cost(const struct circuit_work *p, jout *root)
{
    const double seconds = (double)(monotonic_us() - p->look.work.started_us) / US_PER_S;
    jout *cost = jout_put_object(root, "cost");
    jout_int(cost, "sets", (int64_t)circuit_sets(&p->request));
    jout_int(cost, "rows", (int64_t)token_rows(p));
    jout_f64(cost, "flops", flops(p));
    jout_f64(cost, "seconds", seconds);
    rate_seen(daemon_rate(p->look.work.daemon), flops(p), seconds);
}

static bool circuit_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct circuit_work *p = of(w);
    if (look_cached(&p->look)) return look_answer_cached(&p->look, o, e);
    const struct circuit_result *r = circuit_result(p->circuit);
    jout *root = look_open(&p->look), *universe;
    put_members(p, root, "members", p->request.member, p->request.n);
    universe = jout_put_object(root, "of");
    jout_int(universe, "heads", heads_of(p));
    jout_int(universe, "mlps", (int64_t)circuit_units(&p->request) - heads_of(p));
    jout_int(root, "pairs", (int64_t)p->pairs.n);
    jout_int(root, "groups", (int64_t)p->pairs.n_groups);
    put_faithfulness(r, root);
    put_completeness(p, r, root);
    put_minimality(p, r, root);
    answer_control(jout_put_object(root, "control"), &r->control, p->request.n_control, p->look.seed);
    if (p->pairs.n == 1) pairs_echo(&p->pairs, 0, 0, &p->look, circuit_baseline(p->circuit), root);
    jout_f64(jout_put_object(root, "checks"), "unablated", r->check_none_ablated);
    put_cost(p, root);
    return look_close(&p->look, root, o, e);
}

static const struct work_ops ops = {
    .kind = "circuit", .unit = "sets",
    .step = circuit_work_step, .finish = circuit_work_finish, .free = circuit_work_free,
};

/* ---- the request --------------------------------------------------------------------------------- */

static bool ask(struct circuit_work *p, struct call *c, struct err *e)
{
    enum { MOST_RUNS = 300000 };
    struct look *l = &p->look;
    struct circuit_request *q = &p->request;
    pairs_ask(&p->pairs, l, &q->patch);
    q->patch.site = HOOK_Z;
    q->patch.axis = PATCH_LAYER_HEAD;
    q->zero = strcmp(json_get(l->request, "ablate")->text, "zero") == 0;
    q->samples = (uint32_t)json_get(l->request, "samples")->integer;
    q->n_control = (uint32_t)json_get(l->request, "n_control")->integer;
    q->group = p->pairs.group;
    q->n_groups = p->pairs.n_groups;
    q->seed = (uint64_t)l->seed;
    if (q->zero && q->patch.denoise) return err_field(e, ERR_INVALID, "direction", "zero is put into the clean run: noise");
    if (!circuit_members_read(l, c, q, e)) return false;
    return plan_times(circuit_sets(q), p->pairs.n) <= MOST_RUNS ||
           err_field(e, ERR_INVALID, "n_control", "%zu sets on %zu pairs are too many; sets times pairs are at most %d", circuit_sets(q),
                     p->pairs.n, MOST_RUNS);
}

static bool prepare(struct circuit_work *p, struct call *c, struct err *e)
{
    struct look *l = &p->look;
    struct plan plan = {0};
    if (!look_begin(l, c, &ops, e)) return false;
    l->seed = json_get(l->request, "seed")->integer;
    if (!pairs_read(&p->pairs, l, c, e) || !ask(p, c, e)) return false;
    const bool dry = dry_run_asked(l);
    if (!dry && !look_find(l, c, e)) return false;
    if (look_cached(l)) return true;
    circuit_plan(&p->request, daemon_threads(c->daemon), &plan);
    if (dry) {
        const size_t cells = plan_times(circuit_sets(&p->request), p->pairs.n);
        dry_run(l, &(struct forecast){.cells = cells, .cells_run = cells, .rows = token_rows(p), .flops = flops(p)}, &plan);
        return true;
    }
    p->circuit = look_lease(l, &plan, e) ? circuit_new(&p->request, e) : NULL;
    return p->circuit != NULL;
}

struct work *api_circuit(struct call *c, struct err *e)
{
    struct circuit_work *p = mem_new(sizeof *p);
    if (prepare(p, c, e)) return &p->look.work;
    circuit_work_free(&p->look.work);
    return NULL;
}
