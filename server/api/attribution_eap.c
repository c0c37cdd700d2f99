/* POST /v1/attribution, method eap: every edge of the graph of heads and MLPs, the largest told, all of them as bytes. */
#include <stdio.h>
#include <string.h>

#include "attribution_int.h"
#include "captures.h"
#include "dry_run.h"
#include "pairs.h"
#include "place.h"
#include "probes/edge.h"
#include "probes/stats.h"
#include "server/clock.h"

struct eap_work {
    struct look look;
    struct pairs pairs;
    struct edge_request request;
    struct edges *edges;
    bool scored;
    size_t *top, n_top, most; /* [most] edges */
    double *of_pairs;         /* [n_pairs] one edge */
    struct draws draws;
    struct estimate *mean;    /* [most] of the top edges, over pairs */
    size_t counted;
    double seconds;
    enum media media;
    struct captured scores;
};

static struct eap_work *of(struct work *w) { return (struct eap_work *)w; }
static const struct arch *arch_of(const struct eap_work *p) { return &look_model(&p->look)->arch; }

static void eap_work_free(struct work *w)
{
    struct eap_work *p = of(w);
    edges_free(p->edges);
    mem_drop(p->draws.count), mem_drop(p->top), mem_drop(p->of_pairs), mem_drop(p->mean);
    pairs_release(&p->pairs);
    look_release(&p->look);
    mem_drop(w);
}

/* ---- steps --------------------------------------------------------------------------------------- */

static bool rank(struct eap_work *p, struct err *e)
{
    p->n_top = edges_top(p->edges, p->top, p->most);
    return !p->pairs.listed || draws_make(&p->draws, p->pairs.group, p->pairs.n, p->pairs.n_groups, (uint64_t)p->look.seed, e);
}

/* The next few of the top edges: their means' intervals. */
static enum step count(struct eap_work *p, struct err *e)
{
    enum { AT_ONCE = 8 };
    const size_t end = p->counted + AT_ONCE < p->n_top ? p->counted + AT_ONCE : p->n_top;
    for (; p->pairs.listed && p->counted < end; p->counted++) {
        for (size_t i = 0; i < p->pairs.n; i++) p->of_pairs[i] = (double)edges_of(p->edges, i)[p->top[p->counted]];
        if (!stats_mean(&p->draws, p->of_pairs, 1, 0.95, &p->mean[p->counted], e)) return STEP_FAIL;
    }
    return p->pairs.listed && p->counted < p->n_top ? STEP_MORE : STEP_DONE;
}

static enum step eap_work_step(struct work *w, struct session *s, struct err *e)
{
    struct eap_work *p = of(w);
    size_t done, total;
    if (look_cached(&p->look)) return STEP_DONE;
    if (p->scored) return count(p, e);
    enum step step = edges_step(p->edges, s, e);
    edges_progress(p->edges, &done, &total);
    work_progress(w, done, total);
    if (step != STEP_DONE) return step;
    p->scored = true;
    p->seconds = (double)(monotonic_us() - w->started_us) / 1e6;
    return rank(p, e) ? STEP_MORE : STEP_FAIL;
}

/* ---- the answer -------------------------------------------------------------------------------------- */

static void put_axes(const struct eap_work *p, jout *root)
{
    char text[EDGE_TEXT];
    jout *axes = jout_put_object(root, "axes"), *writers = jout_put_array(axes, "writers"), *readers = jout_put_array(axes, "readers");
    for (size_t u = 0; u < edge_writers(arch_of(p)); u++) jout_text(writers, NULL, edge_text(edge_writer(arch_of(p), u), text));
    for (size_t v = 0; v < edge_readers(arch_of(p)); v++) jout_text(readers, NULL, edge_text(edge_reader(arch_of(p), v), text));
}

static void put_edges(const struct eap_work *p, jout *root)
{
    const size_t R = edge_readers(arch_of(p));
    char text[EDGE_TEXT];
    jout *list = jout_put_array(root, "edges");
    for (size_t i = 0; i < p->n_top; i++) {
        jout *o = jout_put_object(list, NULL);
        jout_text(o, "from", edge_text(edge_writer(arch_of(p), p->top[i] / R), text));
        jout_text(o, "to", edge_text(edge_reader(arch_of(p), p->top[i] % R), text));
        jout_f64(o, "score", (double)edges_mean(p->edges)[p->top[i]]);
        if (!p->pairs.listed) continue;
        jout_f64(o, "low", p->mean[i].low);
        jout_f64(o, "high", p->mean[i].high);
    }
}

static void put_sums(const struct eap_work *p, jout *root)
{
    const size_t R = edge_readers(arch_of(p));
    jout *list = jout_put_array(root, "sums");
    for (size_t u = 0; u < edge_writers(arch_of(p)); u++) {
        double sum = 0;
        for (size_t v = 0; v < R; v++) sum += (double)edges_mean(p->edges)[u * R + v];
        jout_f64(list, NULL, sum);
    }
}

static void put_pairs(struct eap_work *p, jout *root)
{
    jout *list = p->pairs.listed ? jout_put_array(root, "results") : NULL;
    for (size_t i = 0; i < p->pairs.n; i++) {
        jout *o = list ? jout_put_object(list, NULL) : root;
        struct patch_scores s;
        if (list && p->pairs.pair[i].id) jout_text(o, "pair", p->pairs.pair[i].id);
        else if (list) jout_int(o, "pair", (int64_t)i);
        if (list) jout_text(o, "metric", metric_word(p->pairs.metric[i].kind));
        edges_baseline(p->edges, i, &s);
        pairs_echo(&p->pairs, i, 0, &p->look, &s, o);
        if (edges_difference(p->edges, i) >= p->pairs.asked[i].n)
            look_warn(&p->look, "same-prompts", "clean and corrupt of pair %zu are the same tokens: no edge can differ", i);
    }
    if (!list) return;
    jout *how = jout_put_object(root, "intervals");
    jout_f64(how, "level", 0.95);
    jout_int(how, "groups", (int64_t)p->pairs.n_groups);
    jout_int(how, "draws", STATS_DRAWS);
    jout_int(how, "seed", p->look.seed);
}

static void put_cost(struct eap_work *p, jout *root)
{
    size_t rows;
    const double flops = edges_flops(&p->request, &rows);
    jout *cost = jout_put_object(root, "cost");
    jout_int(cost, "rows", (int64_t)rows);
    jout_text(cost, "unit", "token-layers");
    jout_f64(cost, "seconds", (double)(monotonic_us() - p->look.work.started_us) / 1e6);
    rate_seen(daemon_rate(p->look.work.daemon), flops, p->seconds);
}

static bool pack(struct work *w, const struct buf *answer, struct buf *out, struct err *e)
{
    return captures_pack(of(w)->media, &of(w)->scores, 1, answer, out, e);
}

static void give_bytes(struct eap_work *p, jout *root, struct outcome *o)
{
    const size_t W = edge_writers(arch_of(p)), R = edge_readers(arch_of(p));
    if (p->media == MEDIA_JSON) return;
    p->scores = (struct captured){.values = edges_mean(p->edges), .n = W * R, .n_dims = 2, .shape = {W, R}, .name = "scores"};
    jout_text(root, "name", p->scores.name);
    o->media = media_name(p->media);
    o->pack = pack;
}

static bool eap_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct eap_work *p = of(w);
    if (look_cached(&p->look)) return look_answer_cached(&p->look, o, e);
    jout *root = look_open(&p->look);
    jout_text(root, "method", "eap");
    jout_text(root, "estimates", p->pairs.denoise ? "M(patched) - M(corrupt)" : "M(patched) - M(clean)");
    jout_int(root, "steps", p->request.steps);
    if (p->request.steps > 1) jout_text(root, "rule", integral_rule_word(p->request.rule));
    put_axes(p, root);
    put_edges(p, root);
    put_sums(p, root);
    put_pairs(p, root);
    if (arch_of(p)->post_norm)
        look_warn(&p->look, "post-norm", "this model norms what branches add: writers are taken behind that norm, and a head's part is "
                  "over its own run's scale");
    put_cost(p, root);
    give_bytes(p, root, o);
    return look_close(&p->look, root, o, e);
}

static const struct work_ops ops = {
    .kind = "attribution", .unit = "layers", .step = eap_work_step, .finish = eap_work_finish, .free = eap_work_free,
};

/* ---- the request ------------------------------------------------------------------------------------- */

static bool served(const struct eap_work *p, const struct call *c, struct err *e)
{
    static const struct attribution_field others[] = {{"audit", "of atp"}, {"max_steps", "of ig"},
        {"input", "only ig begins at zero embeddings: clean and corrupt here"}, {NULL, NULL}};
    const struct json *q = p->look.request;
    const size_t scores = plan_times(edge_writers(arch_of(p)), edge_readers(arch_of(p)));
    if (!attribution_refuses(q, others, e)) return false;
    if (json_get(q, "grad_drop")->boolean) return err_field(e, ERR_INVALID, "grad_drop", "of atp");
    if (p->media == MEDIA_JSON) return true;
    if (c->key.key[0])
        return err_field(e, ERR_INVALID, "Idempotency-Key", "bytes are not kept to be answered again: ask without a key, or for JSON");
    return scores <= MOST_BYTES_VALUES || err_field(e, ERR_TOO_LARGE, "Accept", "there are %zu edges, %d at most fit bytes; ask for JSON", scores,
                                                    (int)MOST_BYTES_VALUES);
}

static void ask(struct eap_work *p)
{
    const struct json *q = p->look.request, *steps = json_get(q, "steps"), *rule = json_get(q, "rule"), *top = json_get(q, "top_k");
    p->request = (struct edge_request){.view = p->look.view.view, .pair = p->pairs.asked, .n_pairs = p->pairs.n, .denoise = p->pairs.denoise,
                                       .steps = steps ? (uint32_t)steps->integer : 1, .rule = rule ? integral_rule(rule->text) : RULE_MIDPOINT};
    p->most = top ? (size_t)top->integer : 200;
}

static void plan_of(const struct eap_work *p, int threads, struct plan *plan)
{
    enum { NAME_BYTES = 64, EDGE_BYTES = 256 };
    const size_t W = edge_writers(arch_of(p)), R = edge_readers(arch_of(p));
    edges_plan(&p->request, threads, plan);
    plan_add(plan, NEED_ANSWER, plan_times(p->most, sizeof(size_t) + sizeof(struct estimate) + EDGE_BYTES));
    plan_add(plan, NEED_ANSWER, plan_times(2 * W + R, NAME_BYTES));
    plan_add(plan, NEED_ANSWER, plan_times(p->pairs.n, sizeof(double)));
    if (p->pairs.listed) plan_add(plan, NEED_ANSWER, plan_times(plan_times(STATS_DRAWS, p->pairs.n_groups + 2), sizeof(uint32_t)));
    if (p->media != MEDIA_JSON) plan_add(plan, NEED_ANSWER, mem_floats_bytes(plan_times(W, R)));
}

static bool tell_cost(struct eap_work *p, const struct plan *plan)
{
    struct forecast f = {0};
    f.flops = edges_flops(&p->request, &f.rows);
    dry_run(&p->look, &f, plan);
    return true;
}

static bool begin(struct eap_work *p, const struct plan *plan, struct err *e)
{
    if (!look_lease(&p->look, plan, e)) return false;
    p->top = mem_take(p->most, sizeof *p->top, e);
    p->mean = p->top ? mem_take(p->most, sizeof *p->mean, e) : NULL;
    p->of_pairs = p->mean ? mem_take(p->pairs.n, sizeof *p->of_pairs, e) : NULL;
    p->edges = p->of_pairs ? edges_new(&p->request, e) : NULL;
    return p->edges != NULL;
}

static bool prepare(struct eap_work *p, struct call *c, struct err *e)
{
    struct look *l = &p->look;
    struct plan plan = {0};
    if (!look_begin(l, c, &ops, e)) return false;
    p->media = media_of(c->accept);
    if (!served(p, c, e) || !pairs_read(&p->pairs, l, c, e) || !attribution_gradients(&p->pairs, l->request, e)) return false;
    if (p->pairs.n_metrics > 1) return err_field(e, ERR_INVALID, "metrics", "edges are scored by one metric, not %zu", p->pairs.n_metrics);
    ask(p);
    l->seed = json_get(l->request, "seed")->integer;
    const bool dry = dry_run_asked(l);
    if (!dry && p->media == MEDIA_JSON && !look_find(l, c, e)) return false;
    if (look_cached(l)) return true;
    plan_of(p, daemon_threads(c->daemon), &plan);
    return dry ? tell_cost(p, &plan) : begin(p, &plan, e);
}

struct work *attribution_eap(struct call *c, struct err *e)
{
    struct eap_work *p = mem_new(sizeof *p);
    if (prepare(p, c, e)) return &p->look.work;
    eap_work_free(&p->look.work);
    return NULL;
}
