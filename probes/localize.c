#include "localize.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/base/random.h"
#include "joint.h"
#include "scales.h"

enum { UNITS_A_STEP = 16 };
enum stage { STAGE_RANK, STAGE_INTERVALS, STAGE_AGAIN, STAGE_JOINT, STAGE_END };

struct localize {
    struct localize_request q;
    const struct localizer *method;
    enum stage stage;
    struct patch_pair *pair[2]; /* of both halves */
    struct fit_example *example[2];
    void *state[2];
    double *score[2];           /* [n_units] */
    double *each;               /* [n pairs of A] of the unit in hand */
    struct draws draws[2];
    size_t at;                  /* unit in hand */
    uint32_t *unit;             /* [1 + n_control][k] region and random sets */
    struct joint *joint;        /* or, of data: */
    struct scales *scales;
    struct joint_set *set;      /* [1 + n_control] the same, for pairs */
    double *mean;               /* [1 + n_control] over B */
    struct localize_result result;
};

static struct localizer_ask ask_of(const struct localize_request *q)
{
    struct localizer_ask ask = {.patch = q->patch, .example = q->example, .n_data = q->n_data, .couples = q->couples, .seed = q->seed};
    memcpy(ask.param, q->param, sizeof ask.param);
    return ask;
}

static enum localizer_writes writes_of(const struct localize_request *q) { return localizer_info(q->method)->writes; }

static struct localizer_ask ask_half(const struct localize *l, int half)
{
    struct localizer_ask ask = ask_of(&l->q);
    ask.patch.pair = l->pair[half];
    ask.example = l->example[half];
    *(ask.n_data ? &ask.n_data : &ask.patch.n_pairs) = l->result.half[half].n;
    return ask;
}

/* Units of the region, at most. */
static size_t region_of(const struct localize_request *q)
{
    const struct localizer_ask ask = ask_of(q);
    size_t units = localizer_units(&ask);
    return q->k < units && !(localizer_info(q->method)->run->threshold > 0) ? q->k : units;
}

/* ---- memory ------------------------------------------------------------------------------------------ */

static void with_one_session(struct plan *p, const struct plan *q)
{
    struct plan rest = *q;
    rest.bytes[NEED_SCRATCH] = q->bytes[NEED_SCRATCH] > p->bytes[NEED_SCRATCH] ? q->bytes[NEED_SCRATCH] - p->bytes[NEED_SCRATCH] : 0;
    plan_with(p, &rest);
}

/* The method on A is kept; on B it is gone before the joint runs begin. Of either half all rows are counted. */
void localize_plan(const struct localize_request *q, int threads, struct plan *p)
{
    const struct localizer_ask ask = ask_of(q);
    const struct localizer *method = localizer_info(q->method)->run;
    const size_t units = localizer_units(&ask), sets = 1 + (size_t)q->n_control, n = localizer_n(&ask);
    const struct joint_request j = {.ask = ask, .n_sets = sets, .k = region_of(q), .zero = writes_of(q) == LOCALIZER_ZERO};
    const struct scales_request x = {.ask = ask, .n_sets = sets, .k = region_of(q)};
    struct plan joint = {0}, again = {0}, running = {0}, all;
    method->plan(&ask, threads, &running);
    all = running;
    if (method->brief) all.bytes[NEED_TAPE] = 0;
    if (q->n_data) scales_plan(&x, threads, &joint);
    else joint_plan(&j, threads, &joint);
    if (q->split) method->plan(&ask, threads, &again);
    plan_peak(&joint, &again);
    with_one_session(&all, &joint);
    plan_peak(&all, &running);
    plan_with(p, &all);
    plan_add(p, NEED_ANSWER, halves_bytes(n, n) + plan_times(2 * n, sizeof(struct patch_pair) + 2 * sizeof(struct fit_example) + sizeof(double)));
    plan_add(p, NEED_ANSWER, plan_times(units, sizeof(struct unit) + 2 * sizeof(double) + sizeof(size_t)));
    plan_add(p, NEED_ANSWER, plan_times(sets, sizeof(double) + sizeof(struct joint_set) + plan_times(region_of(q) + 1, sizeof(uint32_t))));
    if (n > 1) plan_add(p, NEED_ANSWER, plan_times(n + 1, 2 * STATS_DRAWS * sizeof(uint32_t)) + STATS_DRAWS * sizeof(double));
}

/* The rows of a half. */
static bool pick(struct localize *l, int half, struct err *e)
{
    const struct half *h = &l->result.half[half];
    const size_t each = l->q.couples ? 2 : 1;
    if (l->q.n_data) {
        l->example[half] = mem_take(h->n * each, sizeof *l->example[half], e);
        for (size_t i = 0; l->example[half] && i < h->n; i++)
            memcpy(l->example[half] + i * each, l->q.example + h->row[i] * each, each * sizeof *l->q.example);
        return l->example[half] != NULL;
    }
    l->pair[half] = mem_take(h->n, sizeof *l->pair[half], e);
    for (size_t i = 0; l->pair[half] && i < h->n; i++) l->pair[half][i] = l->q.patch.pair[h->row[i]];
    return l->pair[half] != NULL;
}

static bool take(struct localize *l, struct err *e)
{
    struct localize_result *r = &l->result;
    const struct localizer_ask ask = ask_of(&l->q);
    r->n_units = localizer_units(&ask);
    if (!halves_make(r->half, l->q.group, localizer_n(&ask), l->q.n_groups, l->q.split, l->q.seed, e)) return false;
    for (int h = 0; h < 2; h++) {
        l->score[h] = pick(l, h, e) ? mem_take(r->n_units, sizeof *l->score[h], e) : NULL;
        if (!l->score[h]) return false;
        if (r->half[h].n_groups > 1 &&
            !draws_make(&l->draws[h], r->half[h].group, r->half[h].n, r->half[h].n_groups, l->q.seed, e))
            return false;
    }
    l->each = mem_take(r->half[0].n, sizeof *l->each, e);
    r->ranking = l->each ? mem_take(r->n_units, sizeof *r->ranking, e) : NULL;
    return r->ranking != NULL;
}

struct localize *localize_new(const struct localize_request *q, struct err *e)
{
    struct localize *l = mem_new(sizeof *l);
    assert(q->n_data || q->patch.n_metrics == 1);
    l->q = *q;
    l->method = localizer_info(q->method)->run;
    l->result.split_half = NAN;
    if (take(l, e)) {
        const struct localizer_ask ask = ask_half(l, 0);
        l->state[0] = l->method->open(&ask, e);
    }
    if (l->state[0]) return l;
    localize_free(l);
    return NULL;
}

void localize_free(struct localize *l)
{
    if (!l) return;
    joint_free(l->joint);
    scales_free(l->scales);
    for (int h = 0; h < 2; h++) {
        if (l->state[h]) l->method->close(l->state[h]);
        mem_drop(l->pair[h]);
        mem_drop(l->example[h]);
        mem_drop(l->score[h]);
        mem_drop(l->draws[h].count);
    }
    halves_release(l->result.half);
    mem_drop(l->each);
    mem_drop(l->unit);
    mem_drop(l->set);
    mem_drop(l->mean);
    mem_drop(l->result.ranking);
    mem_drop(l);
}

/* ---- the ranking ------------------------------------------------------------------------------------- */

static int by_score(const void *x, const void *y)
{
    const struct unit *a = x, *b = y;
    if (a->score != b->score) return a->score < b->score ? 1 : -1;
    if (a->layer != b->layer) return a->layer < b->layer ? -1 : 1;
    return (a->head > b->head) - (a->head < b->head);
}

static void score(struct localize *l, int half)
{
    const size_t n = l->method->flat ? 1 : l->result.half[half].n;
    for (size_t u = 0; u < l->result.n_units; u++) {
        double sum = 0;
        for (size_t i = 0; i < n; i++) sum += l->method->value(l->state[half], i, u);
        l->score[half][u] = sum / (double)n;
    }
}

static void rank(struct localize *l)
{
    struct localize_result *r = &l->result;
    const struct localizer_ask ask = ask_of(&l->q);
    const uint32_t heads = localizer_heads(&ask);
    score(l, 0);
    r->grid = l->method->grid ? l->method->grid(l->state[0]) : NULL;
    if (l->method->losses) r->losses = l->method->losses(l->state[0], &r->n_losses);
    r->k = (uint32_t)region_of(&l->q);
    for (size_t u = 0; u < r->n_units; u++)
        r->ranking[u] = (struct unit){(uint32_t)(u / heads), (uint32_t)(u % heads), l->score[0][u], NAN, NAN};
    qsort(r->ranking, r->n_units, sizeof *r->ranking, by_score);
    while (l->method->threshold > 0 && r->k && !(r->ranking[r->k - 1].score > l->method->threshold)) r->k--;
}

static size_t number_of(const struct localize *l, const struct unit *u)
{
    const struct localizer_ask ask = ask_of(&l->q);
    return (size_t)u->layer * localizer_heads(&ask) + u->head;
}

/* Of the next few units, in the ranking's order. */
static bool some_intervals(struct localize *l, struct err *e)
{
    struct localize_result *r = &l->result;
    const struct half *a = &r->half[0];
    for (size_t k = 0; k < UNITS_A_STEP && l->at < r->n_units; k++, l->at++) {
        struct unit *u = &r->ranking[l->at];
        struct estimate of;
        for (size_t i = 0; i < a->n; i++) l->each[i] = l->method->value(l->state[0], i, number_of(l, u));
        if (!stats_mean(&l->draws[0], l->each, 1, 0.95, &of, e)) return false;
        u->low = of.low;
        u->high = of.high;
    }
    return true;
}

static enum step step_intervals(struct localize *l, struct err *e)
{
    if (!l->draws[0].count || l->method->flat) return STEP_DONE;
    if (!some_intervals(l, e)) return STEP_FAIL;
    return l->at < l->result.n_units ? STEP_MORE : STEP_DONE;
}

static enum step step_again(struct localize *l, struct session *s, struct err *e)
{
    if (!l->q.split) return STEP_DONE;
    if (!l->state[1]) {
        const struct localizer_ask ask = ask_half(l, 1);
        if (!(l->state[1] = l->method->open(&ask, e))) return STEP_FAIL;
    }
    enum step step = l->method->step(l->state[1], s, e);
    if (step != STEP_DONE) return step;
    score(l, 1);
    l->method->close(l->state[1]);
    l->state[1] = NULL;
    return stats_spearman(l->score[0], l->score[1], l->result.n_units, &l->result.split_half, e) ? STEP_DONE : STEP_FAIL;
}

/* ---- the region and random sets, written together ------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The units of the ranking at those places. */
static void put_set(struct localize *l, size_t set, const size_t *place)
{
    const size_t k = l->result.k;
    uint32_t *out = l->unit + set * k;
    for (size_t i = 0; i < k; i++) out[i] = (uint32_t)number_of(l, &l->result.ranking[place ? place[i] : i]);
    qsort(out, k, sizeof *out, by_number);
    l->set[set] = (struct joint_set){out, k};
}

/* k distinct units outside the region. */
static void draw_set(struct localize *l, struct random *random, size_t *order, size_t set)
{
    size_t rest = l->result.n_units - l->result.k;
    for (size_t i = 0; i < rest; i++) order[i] = l->result.k + i;
    random_shuffle(random, order, rest);
    put_set(l, set, order);
}

static size_t n_sets(const struct localize *l) { return 1 + (size_t)l->result.n_control; }

static bool draw_sets(struct localize *l, struct err *e)
{
    const bool enough = l->result.k > 0 && l->result.n_units - l->result.k >= l->result.k;
    l->result.n_control = enough ? l->q.n_control : 0;
    size_t *order = mem_take(l->result.n_units, sizeof *order, e);
    l->unit = order ? mem_take(n_sets(l), ((size_t)l->result.k + 1) * sizeof *l->unit, e) : NULL;
    l->set = l->unit ? mem_take(n_sets(l), sizeof *l->set, e) : NULL;
    l->mean = l->set ? mem_take(n_sets(l), sizeof *l->mean, e) : NULL;
    if (l->mean) {
        struct random random;
        random_init(&random, l->q.seed);
        put_set(l, 0, NULL);
        for (size_t s = 1; s < n_sets(l); s++) draw_set(l, &random, order, s);
    }
    mem_drop(order);
    return l->mean != NULL;
}

static bool begin_joint(struct localize *l, struct err *e)
{
    if (!draw_sets(l, e)) return false;
    const struct joint_request q = {.ask = ask_half(l, 1), .zero = writes_of(&l->q) == LOCALIZER_ZERO, .set = l->set,
                                    .n_sets = n_sets(l), .k = l->result.k};
    if (!l->q.n_data) return (l->joint = joint_new(&q, e)) != NULL;
    const struct scales_request x = {.ask = ask_half(l, 1), .trained = l->method->scales(l->state[0]), .unit = l->unit,
                                     .n_sets = n_sets(l), .k = l->result.k};
    return (l->scales = scales_new(&x, e)) != NULL;
}

/* Of the region's effect over all there is to bring back. */
static bool faithful(struct localize *l, const double *effect, struct err *e)
{
    struct localize_result *r = &l->result;
    const double *span = joint_span(l->joint);
    double all = 0, sum = 0;
    for (size_t i = 0; i < r->half[1].n; i++) all += span[i], sum += effect[i];
    if (!(all > 0)) return true;
    r->faithfulness = (struct estimate){sum / all, NAN, NAN, r->half[1].n};
    return !l->draws[1].count || stats_ratio(&l->draws[1], effect, span, 1, 0.95, &r->faithfulness, e);
}

static bool summarise(struct localize *l, struct err *e)
{
    struct localize_result *r = &l->result;
    const double *effect = l->joint ? joint_effect(l->joint) : scales_effect(l->scales);
    const size_t n = r->half[1].n;
    for (size_t s = 0; s < n_sets(l); s++) {
        for (size_t i = 0; i < n; i++) l->mean[s] += effect[s * n + i];
        l->mean[s] /= (double)n;
    }
    r->region_effect = l->mean[0];
    if (l->joint) r->baseline = *joint_baseline(l->joint);
    r->effect = (struct estimate){r->region_effect, NAN, NAN, n};
    r->faithfulness = (struct estimate){NAN, NAN, NAN, 0};
    r->control = stats_control(l->mean + 1, r->n_control, l->mean[0]); /* sorts them */
    if (writes_of(&l->q) == LOCALIZER_SOURCE && !faithful(l, effect, e)) return false;
    return !l->draws[1].count || stats_mean(&l->draws[1], effect, 1, 0.95, &r->effect, e);
}

static enum step step_joint(struct localize *l, struct session *s, struct err *e)
{
    if (!l->joint && !l->scales && !begin_joint(l, e)) return STEP_FAIL;
    enum step step = l->joint ? joint_step(l->joint, s, e) : scales_step(l->scales, s, e);
    if (step != STEP_DONE) return step;
    return summarise(l, e) ? STEP_DONE : STEP_FAIL;
}

/* ---- steps -------------------------------------------------------------------------------------------- */

static enum step stage_step(struct localize *l, struct session *s, struct err *e)
{
    enum step step;
    switch (l->stage) {
    case STAGE_RANK:
        step = l->method->step(l->state[0], s, e);
        if (step == STEP_DONE) rank(l);
        return step;
    case STAGE_INTERVALS: return step_intervals(l, e);
    case STAGE_AGAIN: return step_again(l, s, e);
    case STAGE_JOINT: return step_joint(l, s, e);
    case STAGE_END: break;
    }
    return STEP_DONE;
}

enum step localize_step(struct localize *l, struct session *s, struct err *e)
{
    enum step step = stage_step(l, s, e);
    if (step == STEP_DONE && l->stage < STAGE_END) l->stage++;
    return step == STEP_FAIL ? step : l->stage == STAGE_END ? STEP_DONE : STEP_MORE;
}

/* A half of the method's work is as much as the other; the joint runs are counted as they are. */
void localize_progress(const struct localize *l, size_t *done, size_t *total)
{
    size_t joint = (1 + (size_t)l->q.n_control) * l->result.half[1].n, d = 0, t = 0;
    l->method->progress(l->state[0], done, total);
    if (l->stage > STAGE_RANK) *done = *total;
    if (l->q.split) {
        if (l->state[1]) l->method->progress(l->state[1], &d, &t);
        *done += l->stage > STAGE_AGAIN ? *total : d < *total ? d : *total;
        *total *= 2;
    }
    d = 0;
    if (l->joint) joint_progress(l->joint, &d, &t);
    if (l->scales) scales_progress(l->scales, &d, &t);
    *done += l->stage == STAGE_END ? joint : d;
    *total += joint;
}

const struct localize_result *localize_result(const struct localize *l) { return &l->result; }
