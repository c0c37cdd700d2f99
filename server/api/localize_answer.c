#include "localize_answer.h"

#include <math.h>

static bool of_heads(const struct localize_told *t) { return t->q->patch.axis == PATCH_LAYER_HEAD; }

static void put_unit(const struct localize_told *t, jout *o, const struct unit *u)
{
    jout_int(o, "layer", u->layer);
    if (of_heads(t)) jout_int(o, "head", u->head);
}

static void put_region(const struct localize_told *t, jout *o)
{
    const struct localize_result *r = t->r;
    jout *region = jout_put_object(o, "region");
    jout_text(region, "unit", of_heads(t) ? "head" : "layer");
    jout *members = jout_put_array(region, "members");
    for (uint32_t i = 0; i < r->k; i++) put_unit(t, jout_put_object(members, NULL), &r->ranking[i]);
    jout_f64(region, "effect", r->region_effect);
    answer_interval(region, r->effect.low, r->effect.high);
    if (isnan(r->faithfulness.value)) return;
    jout *faithful = jout_put_object(region, "faithfulness");
    jout_f64(faithful, "value", r->faithfulness.value);
    answer_interval(faithful, r->faithfulness.low, r->faithfulness.high);
}

static void put_control(const struct localize_told *t, jout *o)
{
    const struct localize_result *r = t->r;
    jout *control = jout_put_object(o, "control");
    static const char *const kinds[] = {[LOCALIZER_SOURCE] = "random sets of the same size, patched together",
                                        [LOCALIZER_ZERO] = "random sets of the same size, zeroed together",
                                        [LOCALIZER_SCALES] = "random sets of the same size, with their own scales"};
    jout_text(control, "kind", kinds[localizer_info(t->q->method)->writes]);
    answer_control(control, &r->control, r->n_control, (int64_t)t->q->seed);
}

static void put_half(jout *o, const char *name, const struct half *h)
{
    jout *half = jout_put_object(o, name);
    jout_int(half, "pairs", (int64_t)h->n); /* or rows of data */
    jout_int(half, "groups", (int64_t)h->n_groups);
    jout *rows = jout_put_array(half, "rows");
    for (size_t i = 0; i < h->n; i++) jout_int(rows, NULL, (int64_t)h->row[i]);
}

static void put_halves(const struct localize_told *t, jout *o)
{
    jout *halves = jout_put_object(o, "halves");
    jout_bool(halves, "split", t->q->split);
    put_half(halves, "rank", &t->r->half[0]);
    put_half(halves, "measure", &t->r->half[1]);
    if (t->q->split) jout_f64(halves, "spearman", t->r->split_half);
}

/* Of methods that learn: the params as they were, and the loss before each update on A. */
static void put_training(const struct localize_told *t, jout *o)
{
    if (!t->r->losses) return;
    jout *params = jout_put_object(o, "params");
    for (int i = 0; i < LOCALIZER_PARAMS; i++) {
        const struct localizer_param_info *row = localizer_param_info((enum localizer_param)i);
        if (row->method != t->q->method) continue;
        if (row->whole) jout_int(params, row->name, (int64_t)t->q->param[i]);
        else jout_f64(params, row->name, t->q->param[i]);
    }
    jout_f64s(o, "losses", t->r->losses, t->r->n_losses);
}

void localize_put(const struct localize_told *t, jout *o)
{
    const struct localize_result *r = t->r;
    put_region(t, o);
    jout *ranking = jout_put_array(o, "ranking");
    for (size_t i = 0; i < r->n_units; i++) {
        jout *one = jout_put_object(ranking, NULL);
        put_unit(t, one, &r->ranking[i]);
        jout_f64(one, "score", r->ranking[i].score);
        answer_interval(one, r->ranking[i].low, r->ranking[i].high);
    }
    put_control(t, o);
    put_training(t, o);
    if (t->listed) put_halves(t, o);
    if (!r->grid || t->q->method == LOCALIZER_ATTRIBUTION) return;
    jout *checks = jout_put_object(o, "checks");
    jout_f64(checks, "identity", r->grid->check_identity);
    jout_f64(checks, "full", r->grid->check_full);
}

/* ---- several methods ----------------------------------------------------------------------------------- */

/* Scores by number of the unit. */
static void spread(const struct localize_told *t, double *out)
{
    const uint32_t heads = of_heads(t) ? view_model(t->q->patch.view)->arch.n_heads : 1;
    for (size_t i = 0; i < t->r->n_units; i++)
        out[(size_t)t->r->ranking[i].layer * heads + t->r->ranking[i].head] = t->r->ranking[i].score;
}

static double overlap(const struct localize_result *a, const struct localize_result *b)
{
    const uint32_t k = a->k < b->k ? a->k : b->k;
    size_t both = 0;
    for (uint32_t i = 0; i < k; i++)
        for (uint32_t j = 0; j < k; j++)
            both += a->ranking[i].layer == b->ranking[j].layer && a->ranking[i].head == b->ranking[j].head;
    return k ? (double)both / k : (double)NAN;
}

bool localize_put_agreement(const struct localize_told *t, size_t n, jout *root, struct err *e)
{
    const size_t units = t->r->n_units;
    double *score = mem_take(2 * units, sizeof *score, e), rho;
    bool ok = score != NULL;
    jout *list = jout_put_array(root, "agreement");
    for (size_t i = 0; ok && i < n; i++)
        for (size_t k = i + 1; ok && k < n; k++) {
            spread(&t[i], score);
            spread(&t[k], score + units);
            ok = stats_spearman(score, score + units, units, &rho, e);
            jout *o = jout_put_object(list, NULL), *methods = jout_put_array(o, "methods");
            jout_text(methods, NULL, localizer_info(t[i].q->method)->word);
            jout_text(methods, NULL, localizer_info(t[k].q->method)->word);
            jout_f64(o, "spearman", ok ? rho : 0);
            jout_f64(o, "top_k", overlap(t[i].r, t[k].r));
        }
    mem_drop(score);
    return ok;
}
