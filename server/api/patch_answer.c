#include "patch_answer.h"

#include <math.h>

static void put_range(jout *o, const char *key, uint32_t n, uint32_t step)
{
    jout *list = jout_put_array(o, key);
    for (uint32_t i = 0; i < n; i++) jout_int(list, NULL, (int64_t)i * step);
}

static void put_axes(const struct patch_told *t, jout *root)
{
    jout *axes = jout_put_object(root, "axes");
    put_range(axes, "layer", t->grid->n_layers, 1);
    if (t->axes->head) put_range(axes, t->axes->word[0], t->grid->n_heads, t->block ? t->block : 1);
    if (t->axes->pos) put_range(axes, "pos", t->grid->n_pos, 1);
}

/* Numbers `stride` doubles apart, nested by the axes there are. */
static void put_grid(const struct patch_told *t, const double *at, size_t stride, jout *o, const char *key)
{
    const struct patch_grid *g = t->grid;
    jout *layers = jout_put_array(o, key);
    for (uint32_t l = 0; l < g->n_layers; l++) {
        jout *heads = t->axes->head || t->axes->pos ? jout_put_array(layers, NULL) : layers;
        for (uint32_t h = 0; h < g->n_heads; h++) {
            jout *row = t->axes->head && t->axes->pos ? jout_put_array(heads, NULL) : heads;
            for (uint32_t p = 0; p < g->n_pos; p++, at += stride) jout_f64(row, NULL, *at);
        }
    }
}

/* Positions whose cells of that pair were not run: before the runs first differ, and after the metric's. */
static void put_skipped(const struct patch_told *t, size_t pair, jout *o)
{
    jout *list = jout_put_array(jout_put_object(o, "skipped"), "pos");
    for (uint32_t i = 0; t->axes->pos && i < t->grid->n_pos; i++)
        if (i < t->grid->first_difference[pair] || i > t->pairs->asked[pair].metric->pos) jout_int(list, NULL, i);
}

static size_t cells_of(const struct patch_told *t)
{
    return (size_t)t->grid->n_layers * t->grid->n_heads * t->grid->n_pos;
}

static void put_checks(const struct patch_told *t, jout *root)
{
    jout *checks = jout_put_object(root, "checks");
    jout_f64(checks, "identity", t->grid->check_identity);
    jout_f64(checks, "full", t->grid->check_full);
    jout_f64(checks, "naive", t->grid->check_naive);
    jout_int(checks, "naive_cells", (int64_t)t->grid->n_naive);
}

/* ---- several ----------------------------------------------------------------------------------------- */

static void put_results(const struct patch_told *t, const struct look *l, jout *root)
{
    const size_t M = t->pairs->n_metrics;
    jout *results = jout_put_array(root, "results");
    for (size_t i = 0; i < t->pairs->n; i++)
        for (size_t m = 0; m < M; m++) {
            const struct patch_scores *s = &t->grid->scores[i * M + m];
            jout *one = jout_put_object(results, NULL);
            if (t->pairs->pair[i].id) jout_text(one, "pair", t->pairs->pair[i].id);
            else jout_int(one, "pair", (int64_t)i);
            jout_text(one, "metric", metric_word(t->pairs->asked[i].metric[m].kind));
            put_grid(t, s->values, 1, one, "values");
            if (t->drop) put_grid(t, t->drop + (i * M + m) * cells_of(t), 1, one, "grad_drop");
            pairs_echo(t->pairs, i, m, l, s, one);
            put_skipped(t, i, one);
        }
}

static void put_estimates(const struct patch_told *t, const struct estimate *of, jout *o)
{
    const size_t stride = sizeof *of / sizeof(double);
    _Static_assert(sizeof *of % sizeof(double) == 0, "estimates are laid out as doubles");
    put_grid(t, &of->value, stride, o, "mean");
    put_grid(t, &of->low, stride, o, "low");
    put_grid(t, &of->high, stride, o, "high");
}

static void put_means(const struct patch_told *t, const struct look *l, jout *root)
{
    jout *means = jout_put_array(root, "means"), *how = jout_put_object(root, "intervals");
    for (size_t m = 0; m < t->pairs->n_metrics; m++) {
        const struct estimate *mean = patch_stats_mean(t->stats, m), *ratio = patch_stats_ratio(t->stats, m);
        jout *one = jout_put_object(means, NULL);
        jout_text(one, "metric", metric_word(t->pairs->asked->metric[m].kind));
        jout_int(one, "n", (int64_t)mean->n);
        put_estimates(t, mean, one);
        if (ratio) put_estimates(t, ratio, jout_put_object(one, "ratio_of_means"));
    }
    jout_f64(how, "level", 0.95);
    jout_int(how, "groups", (int64_t)t->pairs->n_groups);
    jout_int(how, "draws", STATS_DRAWS);
    jout_int(how, "seed", l->seed);
}

/* ---- does the model do it at all? ---------------------------------------------------------------------- */

/* The first metric in logits of answer and foil; n_metrics where there is none. */
static size_t shown_by(const struct patch_told *t)
{
    size_t m = 0;
    while (m < t->pairs->n_metrics && isnan(t->grid->scores[m].ld_clean)) m++;
    return m;
}

static void put_shown(const struct patch_told *t, struct look *l, jout *root)
{
    const size_t m = shown_by(t), M = t->pairs->n_metrics, n = t->pairs->n;
    double right = 0, sum = 0;
    if (m == M) return;
    for (size_t i = 0; i < n; i++) {
        right += t->grid->scores[i * M + m].ld_clean > 0;
        sum += t->grid->scores[i * M + m].ld_clean;
    }
    const double accuracy = right / (double)n, difference = sum / (double)n;
    const bool shown = accuracy >= SHOWN_ACCURACY && difference >= SHOWN_DIFFERENCE;
    jout *o = jout_put_object(root, "behaviour"), *least;
    jout_bool(o, "exhibited", shown);
    jout_f64(o, "accuracy", accuracy);
    jout_f64(o, "logit_diff", difference);
    least = jout_put_object(o, "threshold");
    jout_f64(least, "accuracy", SHOWN_ACCURACY);
    jout_f64(least, "logit_diff", SHOWN_DIFFERENCE);
    if (!shown)
        look_warn(l, "not-exhibited", "of the clean prompts the answer is ahead in %.0f %%, by %.3g logits on average: the "
                  "model hardly does what is being looked for", 100 * accuracy, difference);
}

void patch_put_grid(const struct patch_told *t, const struct look *l, jout *o)
{
    put_axes(t, o);
    if (t->pairs->listed) {
        put_results(t, l, o);
        if (t->stats) put_means(t, l, o);
        return;
    }
    put_grid(t, t->grid->scores->values, 1, o, "values");
    if (t->drop) put_grid(t, t->drop, 1, o, "grad_drop");
    pairs_echo(t->pairs, 0, 0, l, t->grid->scores, o);
    put_skipped(t, 0, o);
}

void patch_put_behaviour(const struct patch_told *t, struct look *l, jout *root)
{
    put_shown(t, l, root);
    for (size_t i = 0; i < t->pairs->n; i++)
        if (t->grid->first_difference[i] == t->pairs->asked[i].n)
            look_warn(l, "same-prompts", "clean and corrupt of pair %zu are the same tokens: no cell can differ", i);
}

void patch_answer(const struct patch_told *t, struct look *l, jout *root)
{
    patch_put_grid(t, l, root);
    patch_put_behaviour(t, l, root);
    put_checks(t, root);
}
