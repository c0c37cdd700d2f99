#include "patch_stats.h"

#include "core/base/mem.h"

enum { CELLS_A_STEP = 64 };

struct patch_stats {
    struct patch_stats_request q;
    struct draws draws;
    size_t cells, next;      /* of a pair; the next of all metrics' */
    struct estimate *mean, *ratio; /* [n_metrics][cells] */
    double *gain, *span;     /* [n_pairs] of the cell in hand */
};

static size_t cells_of(const struct patch_request *q)
{
    uint32_t heads, pos;
    patch_columns(q, &heads, &pos);
    return plan_times(plan_times(heads, pos), view_model(q->view)->arch.n_layers);
}

void patch_stats_plan_cells(const struct patch_request *q, size_t each, size_t n_groups, struct plan *p)
{
    size_t cells = plan_times(each, q->n_metrics);
    plan_add(p, NEED_ANSWER, plan_times(cells, 2 * sizeof(struct estimate)));
    plan_add(p, NEED_ANSWER, plan_times(n_groups, STATS_DRAWS * sizeof(uint32_t) + 4 * sizeof(double)));
    plan_add(p, NEED_ANSWER, plan_times(q->n_pairs, 2 * sizeof(double)) + STATS_DRAWS * sizeof(double));
}

void patch_stats_plan(const struct patch_request *q, size_t n_groups, struct plan *p)
{
    patch_stats_plan_cells(q, cells_of(q), n_groups, p);
}

struct patch_stats *patch_stats_new(const struct patch_stats_request *q, struct err *e)
{
    struct patch_stats *t = mem_new(sizeof *t);
    t->q = *q;
    t->cells = (size_t)q->grid->n_layers * q->grid->n_heads * q->grid->n_pos;
    size_t all = plan_times(t->cells, q->patch->n_metrics);
    t->mean = mem_take(all, sizeof *t->mean, e);
    t->ratio = t->mean ? mem_take(all, sizeof *t->ratio, e) : NULL;
    t->gain = t->ratio ? mem_take(q->patch->n_pairs, sizeof *t->gain, e) : NULL;
    t->span = t->gain ? mem_take(q->patch->n_pairs, sizeof *t->span, e) : NULL;
    if (t->span && draws_make(&t->draws, q->group, q->patch->n_pairs, q->n_groups, q->seed, e)) return t;
    patch_stats_free(t);
    return NULL;
}

void patch_stats_free(struct patch_stats *t)
{
    if (!t) return;
    mem_drop(t->draws.count);
    mem_drop(t->mean);
    mem_drop(t->ratio);
    mem_drop(t->gain);
    mem_drop(t->span);
    mem_drop(t);
}

static bool is_ratio(const struct patch_stats *t, size_t metric)
{
    return t->q.patch->pair->metric[metric].kind == METRIC_NORM_LOGIT_DIFF;
}

static bool one_cell(struct patch_stats *t, size_t metric, size_t cell, struct err *e)
{
    const size_t M = t->q.patch->n_metrics, at = metric * t->cells + cell;
    const struct patch_scores *scores = t->q.grid->scores + metric;
    if (!stats_mean(&t->draws, scores->values + cell, M * t->cells, t->q.level, &t->mean[at], e)) return false;
    if (!is_ratio(t, metric)) return true;
    for (size_t i = 0; i < t->q.patch->n_pairs; i++) {
        t->span[i] = scores[i * M].ld_clean - scores[i * M].ld_corrupt;
        t->gain[i] = scores[i * M].values[cell] * t->span[i];
    }
    return stats_ratio(&t->draws, t->gain, t->span, 1, t->q.level, &t->ratio[at], e);
}

enum step patch_stats_step(struct patch_stats *t, struct err *e)
{
    const size_t all = t->cells * t->q.patch->n_metrics;
    for (size_t n = 0; n < CELLS_A_STEP && t->next < all; n++, t->next++)
        if (!one_cell(t, t->next / t->cells, t->next % t->cells, e)) return STEP_FAIL;
    return t->next < all ? STEP_MORE : STEP_DONE;
}

const struct estimate *patch_stats_mean(const struct patch_stats *t, size_t metric) { return t->mean + metric * t->cells; }

const struct estimate *patch_stats_ratio(const struct patch_stats *t, size_t metric)
{
    return is_ratio(t, metric) ? t->ratio + metric * t->cells : NULL;
}
