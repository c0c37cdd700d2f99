#include "causal_stats.h"

#include <math.h>

#include "core/base/mem.h"

enum { CELLS_A_STEP = 32 };
#define LEVEL 0.95

const char *const causal_role_words[CAUSAL_ROLES] = {"first_subject", "middle_subject", "last_subject", "first_after", "further", "last"};

struct causal_stats {
    struct causal_request q;
    const struct causal *trace;
    uint32_t n_layers;
    uint32_t *cluster;       /* [n_facts] each fact is one */
    struct draws draws;
    double *x;               /* [n_facts] of the estimate in hand */
    struct estimate *effect; /* [n_kinds][CAUSAL_ROLES][L] */
    struct estimate total[CAUSAL_TOTALS];
    size_t next;             /* totals first */
};

enum causal_role causal_role_of(const struct causal_fact *f, uint32_t pos)
{
    if (pos + 1 == f->end) return ROLE_LAST_SUBJECT;
    if (pos < f->end) return pos == f->first ? ROLE_FIRST_SUBJECT : ROLE_MIDDLE_SUBJECT;
    if (pos + 1 == f->n) return ROLE_LAST;
    return pos == f->end ? ROLE_FIRST_AFTER : ROLE_FURTHER;
}

static size_t effects(const struct causal_request *q, uint32_t n_layers)
{
    return plan_times(plan_times(q->n_kinds, CAUSAL_ROLES), n_layers);
}

void causal_stats_plan(const struct causal_request *q, struct plan *p)
{
    plan_add(p, NEED_ANSWER, plan_times(effects(q, view_model(q->view)->arch.n_layers), sizeof(struct estimate)));
    plan_add(p, NEED_ANSWER, plan_times(q->n_facts, (STATS_DRAWS + 1) * sizeof(uint32_t) + 8 * sizeof(double)));
    plan_add(p, NEED_ANSWER, STATS_DRAWS * sizeof(double));
}

struct causal_stats *causal_stats_new(const struct causal_request *q, const struct causal *c, uint64_t seed, struct err *e)
{
    struct causal_stats *t = mem_new(sizeof *t);
    *t = (struct causal_stats){.q = *q, .trace = c, .n_layers = view_model(q->view)->arch.n_layers};
    t->cluster = mem_take(q->n_facts, sizeof *t->cluster, e);
    t->x = t->cluster ? mem_take(q->n_facts, sizeof *t->x, e) : NULL;
    t->effect = t->x ? mem_take(effects(q, t->n_layers), sizeof *t->effect, e) : NULL;
    for (size_t i = 0; t->effect && i < q->n_facts; i++) t->cluster[i] = (uint32_t)i;
    if (t->effect && draws_make(&t->draws, t->cluster, q->n_facts, q->n_facts, seed, e)) return t;
    causal_stats_free(t);
    return NULL;
}

void causal_stats_free(struct causal_stats *t)
{
    if (!t) return;
    mem_drop(t->draws.count);
    mem_drop(t->cluster);
    mem_drop(t->x);
    mem_drop(t->effect);
    mem_drop(t);
}

/* Mean indirect effect of one fact's tokens of that role; NaN where it has none or was dropped. */
static double effect_of(const struct causal_stats *t, size_t fact, size_t kind, enum causal_role r, uint32_t layer)
{
    const struct causal_fact *f = &t->q.fact[fact];
    const struct causal_scores *s = causal_result(t->trace, fact);
    double sum = 0, n = 0;
    for (uint32_t pos = f->first; !s->dropped && pos < f->n; pos++)
        if (causal_role_of(f, pos) == r) sum += s->score[kind][(size_t)layer * f->n + pos] - s->low, n++;
    return n > 0 ? sum / n : (double)NAN;
}

static double total_of(const struct causal_scores *s, enum causal_total which)
{
    if (s->dropped) return NAN;
    return which == TOTAL_HIGH ? s->high : which == TOTAL_LOW ? s->low : s->high - s->low;
}

static bool one(struct causal_stats *t, size_t i, struct err *e)
{
    const bool total = i < CAUSAL_TOTALS;
    const size_t cell = i - CAUSAL_TOTALS, layer = cell % t->n_layers, column = cell / t->n_layers;
    for (size_t f = 0; f < t->q.n_facts; f++)
        t->x[f] = total ? total_of(causal_result(t->trace, f), (enum causal_total)i)
                        : effect_of(t, f, column / CAUSAL_ROLES, (enum causal_role)(column % CAUSAL_ROLES), (uint32_t)layer);
    return stats_mean(&t->draws, t->x, 1, LEVEL, total ? &t->total[i] : &t->effect[cell], e);
}

enum step causal_stats_step(struct causal_stats *t, struct err *e)
{
    const size_t all = CAUSAL_TOTALS + effects(&t->q, t->n_layers);
    for (size_t n = 0; n < CELLS_A_STEP && t->next < all; n++, t->next++)
        if (!one(t, t->next, e)) return STEP_FAIL;
    return t->next < all ? STEP_MORE : STEP_DONE;
}

const struct estimate *causal_stats_effect(const struct causal_stats *t, size_t kind, enum causal_role r, uint32_t layer)
{
    return &t->effect[(kind * CAUSAL_ROLES + (size_t)r) * t->n_layers + layer];
}

const struct estimate *causal_stats_total(const struct causal_stats *t, enum causal_total which) { return &t->total[which]; }
