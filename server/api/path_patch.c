/* POST /v1/path-patch: of every sender the effect along its direct paths to the receivers. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "dry_run.h"
#include "handlers.h"
#include "patch_answer.h"
#include "path_place.h"
#include "place.h"
#include "server/clock.h"

struct path_work {
    struct look look;
    struct pairs pairs;
    struct patch_request asked; /* pairs and metrics, as the statistics take them */
    struct path_request request;
    struct path_patch *path;
    struct patch_stats *stats;
    int64_t checks_us;
};

static struct path_work *of(struct work *w) { return (struct path_work *)w; }

static void path_work_free(struct work *w)
{
    patch_stats_free(of(w)->stats);
    path_free(of(w)->path);
    pairs_release(&of(w)->pairs);
    look_release(&of(w)->look);
    mem_drop(w);
}

/* ---- steps --------------------------------------------------------------------------------------- */

static struct patch_stats *begin_stats(const struct path_work *p, struct err *e)
{
    const struct patch_stats_request q = {.patch = &p->asked, .grid = path_result(p->path), .group = p->pairs.group,
                                          .n_groups = p->pairs.n_groups, .seed = (uint64_t)p->look.seed, .level = 0.95};
    return patch_stats_new(&q, e);
}

static enum step path_work_step(struct work *w, struct session *s, struct err *e)
{
    struct path_work *p = of(w);
    size_t done, total;
    if (look_cached(&p->look)) return STEP_DONE;
    if (p->stats) return patch_stats_step(p->stats, e);
    const bool checking = path_checking(p->path);
    const int64_t start = monotonic_us();
    enum step step = path_step(p->path, s, e);
    if (checking) p->checks_us += monotonic_us() - start;
    path_progress(p->path, &done, &total);
    work_progress(w, done, total);
    if (step != STEP_DONE || !p->pairs.listed) return step;
    p->stats = begin_stats(p, e);
    return p->stats ? STEP_MORE : STEP_FAIL;
}

/* ---- the answer ---------------------------------------------------------------------------------- */

/* The number of a sender, n_senders where it was not asked for. */
static size_t number(const struct path_work *p, struct path_sender s)
{
    const struct path_request *q = &p->request;
    size_t lo = 0, hi = q->n_senders;
    while (lo < hi) {
        const size_t mid = (lo + hi) / 2;
        if (path_before(&q->sender[mid], &s) < 0) lo = mid + 1;
        else hi = mid;
    }
    return lo < q->n_senders && path_before(&q->sender[lo], &s) == 0 ? lo : q->n_senders;
}

static double value(const struct path_work *p, const double *at, size_t stride, struct path_sender s)
{
    const size_t i = number(p, s);
    return i < p->request.n_senders ? at[i * stride] : (double)NAN;
}

/* Of every head, MLP and the embedding; null where none was asked for. */
static void put_senders(const struct path_work *p, const double *at, size_t stride, jout *to, const char *key)
{
    const struct arch *a = &look_model(&p->look)->arch;
    jout *o = jout_put_object(to, key), *heads = jout_put_array(o, "heads"), *mlps = jout_put_array(o, "mlps");
    for (uint32_t l = 0; l < a->n_layers; l++) {
        jout *row = jout_put_array(heads, NULL);
        for (uint32_t h = 0; h < a->n_heads; h++)
            jout_f64(row, NULL, value(p, at, stride, (struct path_sender){PATH_HEAD, l, h}));
        jout_f64(mlps, NULL, value(p, at, stride, (struct path_sender){PATH_MLP, l, 0}));
    }
    jout_f64(o, "embed", value(p, at, stride, (struct path_sender){.from = PATH_EMBED}));
}

static void put_results(const struct path_work *p, const struct patch_grid *g, jout *root)
{
    const size_t M = p->pairs.n_metrics;
    jout *results = jout_put_array(root, "results");
    for (size_t i = 0; i < p->pairs.n; i++)
        for (size_t m = 0; m < M; m++) {
            jout *one = jout_put_object(results, NULL);
            if (p->pairs.pair[i].id) jout_text(one, "pair", p->pairs.pair[i].id);
            else jout_int(one, "pair", (int64_t)i);
            jout_text(one, "metric", metric_word(p->pairs.asked[i].metric[m].kind));
            put_senders(p, g->scores[i * M + m].values, 1, one, "values");
            pairs_echo(&p->pairs, i, m, &p->look, &g->scores[i * M + m], one);
        }
}

static void put_estimates(const struct path_work *p, const struct estimate *of, jout *o)
{
    const size_t stride = sizeof *of / sizeof(double);
    put_senders(p, &of->value, stride, o, "mean");
    put_senders(p, &of->low, stride, o, "low");
    put_senders(p, &of->high, stride, o, "high");
}

static void put_means(const struct path_work *p, jout *root)
{
    jout *means = jout_put_array(root, "means"), *how = jout_put_object(root, "intervals");
    for (size_t m = 0; m < p->pairs.n_metrics; m++) {
        const struct estimate *mean = patch_stats_mean(p->stats, m), *ratio = patch_stats_ratio(p->stats, m);
        jout *one = jout_put_object(means, NULL);
        jout_text(one, "metric", metric_word(p->pairs.asked->metric[m].kind));
        jout_int(one, "n", (int64_t)mean->n);
        put_estimates(p, mean, one);
        if (ratio) put_estimates(p, ratio, jout_put_object(one, "ratio_of_means"));
    }
    jout_f64(how, "level", 0.95);
    jout_int(how, "groups", (int64_t)p->pairs.n_groups);
    jout_int(how, "draws", STATS_DRAWS);
    jout_int(how, "seed", p->look.seed);
}

static void put_cost(const struct path_work *p, jout *root)
{
    const struct path_cost c = path_forecast(&p->request);
    jout *o = jout_put_object(root, "cost");
    jout_int(o, "senders", (int64_t)c.senders);
    jout_int(o, "senders_run", (int64_t)c.senders_run);
    jout_int(o, "rows", (int64_t)c.rows);
    jout_f64(o, "flops", c.flops);
    jout_f64(o, "seconds", (double)(monotonic_us() - p->look.work.started_us) / US_PER_S);
    jout_f64(o, "checks_seconds", (double)p->checks_us / US_PER_S);
}

static bool path_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct path_work *p = of(w);
    if (look_cached(&p->look)) return look_answer_cached(&p->look, o, e);
    const struct patch_grid *g = path_result(p->path);
    const struct patch_told told = {.pairs = &p->pairs, .grid = g, .stats = p->stats};
    rate_seen(daemon_rate(w->daemon), path_forecast(&p->request).flops, (double)(monotonic_us() - w->started_us) / US_PER_S);
    jout *root = look_open(&p->look);
    if (p->pairs.listed) {
        put_results(p, g, root);
        put_means(p, root);
    } else {
        put_senders(p, g->scores->values, 1, root, "values");
        pairs_echo(&p->pairs, 0, 0, &p->look, g->scores, root);
    }
    patch_put_behaviour(&told, &p->look, root);
    jout *checks = jout_put_object(root, "checks");
    jout_f64(checks, "naive", g->check_naive);
    jout_int(checks, "naive_senders", (int64_t)g->n_naive);
    put_cost(p, root);
    return look_close(&p->look, root, o, e);
}

static const struct work_ops ops = {
    .kind = "path-patch", .unit = "senders",
    .step = path_work_step, .finish = path_work_finish, .free = path_work_free,
};

/* ---- the request --------------------------------------------------------------------------------- */

static bool ask(struct path_work *p, struct err *e)
{
    struct look *l = &p->look;
    struct path_request *q = &p->request;
    *q = (struct path_request){
        .view = l->view.view, .pair = p->pairs.asked, .n_pairs = p->pairs.n, .n_metrics = p->pairs.n_metrics, .denoise = p->pairs.denoise,
        .freeze_mlps = strcmp(json_get(l->request, "frozen")->text, "all") == 0,
        .freeze_norm = strcmp(json_get(l->request, "ln")->text, "frozen") == 0,
        .n_naive = (uint32_t)json_get(l->request, "check_senders")->integer, .seed = (uint64_t)l->seed};
    if (!path_senders_read(l, q, e) || !path_receivers_read(l, q, e)) return false;
    const char *why = path_norm_absent(q);
    if (why) return err_field(e, ERR_INVALID, "ln", "there is no norm before attention to freeze: %s", why);
    enum { MOST_VALUES = 8388608 };
    const size_t values = plan_times(plan_times(q->n_senders, q->n_metrics), q->n_pairs + (p->pairs.listed ? 6 : 0));
    return values <= MOST_VALUES || err_field(e, ERR_TOO_LARGE, "pairs", "%zu values would be answered, at most %d", values, MOST_VALUES);
}

static bool prepare(struct path_work *p, struct call *c, struct err *e)
{
    struct look *l = &p->look;
    struct plan plan = {0};
    if (!look_begin(l, c, &ops, e)) return false;
    l->seed = json_get(l->request, "seed")->integer;
    if (!pairs_read(&p->pairs, l, c, e) || !ask(p, e)) return false;
    const bool dry = dry_run_asked(l);
    if (!dry && !look_find(l, c, e)) return false;
    if (look_cached(l)) return true;
    pairs_ask(&p->pairs, l, &p->asked);
    path_plan(&p->request, daemon_threads(c->daemon), &plan);
    if (p->pairs.listed) patch_stats_plan_cells(&p->asked, p->request.n_senders, p->pairs.n_groups, &plan);
    if (dry) {
        const struct path_cost f = path_forecast(&p->request);
        dry_run(l, &(struct forecast){.cells = f.senders, .cells_run = f.senders_run, .rows = f.rows, .flops = f.flops}, &plan);
        return true;
    }
    p->path = look_lease(l, &plan, e) ? path_new(&p->request, e) : NULL;
    return p->path != NULL;
}

struct work *api_path_patch(struct call *c, struct err *e)
{
    struct path_work *p = mem_new(sizeof *p);
    if (prepare(p, c, e)) return &p->look.work;
    path_work_free(&p->look.work);
    return NULL;
}
