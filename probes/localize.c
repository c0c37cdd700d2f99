#include "localize.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/base/random.h"

/* Joint patches: each set of units is one sequence of a ragged run, whose z is overwritten by the
 * source's, which the grid has kept. */
struct localize {
    struct localize_request q;
    struct patch *patch;
    struct run *run;         /* of the sets, together */
    bool summed;
    struct taps taps;
    struct run_input *input; /* region and random sets */
    double *effect;          /* [1 + n_control] */
    struct localize_result result;
};

static const struct arch *arch_of(const struct localize *l) { return &view_model(l->q.patch.view)->arch; }

void localize_plan(const struct localize_request *q, int threads, struct plan *p)
{
    const struct arch *a = &view_model(q->patch.view)->arch;
    size_t n = q->patch.pair->metric->pos + (size_t)1, sets = 1 + (size_t)q->n_control,
           units = (size_t)a->n_layers * (q->patch.axis == PATCH_LAYER ? 1 : a->n_heads), k = q->k < units ? q->k : units;
    struct plan joint = {0};
    struct run_size runs = {0};
    for (size_t i = 0; i < sets; i++) run_size_add(&runs, 0, n, 1, false);
    run_plan(&runs, a, threads, &joint);
    plan_add(&joint, NEED_CAPTURES, plan_times(plan_times(sets, k), sizeof(struct tap)));
    plan_add(&joint, NEED_STREAM, mem_floats_bytes(sets * a->d_model));
    patch_plan(&q->patch, threads, p);
    joint.bytes[NEED_SCRATCH] = joint.bytes[NEED_SCRATCH] > p->bytes[NEED_SCRATCH]
                                    ? joint.bytes[NEED_SCRATCH] - p->bytes[NEED_SCRATCH] : 0; /* one session */
    plan_with(p, &joint);
}

struct localize *localize_new(const struct localize_request *q, struct err *e)
{
    struct localize *l = mem_new(sizeof *l);
    l->q = *q;
    l->patch = patch_new(&q->patch, e);
    if (l->patch) return l;
    localize_free(l);
    return NULL;
}

void localize_free(struct localize *l)
{
    if (!l) return;
    patch_free(l->patch);
    run_free(l->run);
    mem_drop(l->taps.tap);
    mem_drop(l->input);
    mem_drop(l->effect);
    mem_drop(l->result.ranking);
    mem_drop(l);
}

static int by_score(const void *x, const void *y)
{
    const struct unit *a = x, *b = y;
    if (a->score != b->score) return a->score < b->score ? 1 : -1;
    if (a->layer != b->layer) return a->layer < b->layer ? -1 : 1;
    return (a->head > b->head) - (a->head < b->head);
}

static double base_metric(const struct localize *l)
{
    const struct patch_scores *s = patch_result(l->patch)->scores;
    return l->q.patch.denoise ? s->corrupt : s->clean;
}

/* Moving towards the source counts as positive, whichever way that is. */
static double towards_source(const struct localize *l, double value)
{
    const struct patch_scores *s = patch_result(l->patch)->scores;
    double source = l->q.patch.denoise ? s->clean : s->corrupt, base = base_metric(l);
    return (value - base) * (source >= base ? 1 : -1);
}

static bool rank(struct localize *l, struct err *e)
{
    const struct patch_grid *g = patch_result(l->patch);
    struct localize_result *r = &l->result;
    r->grid = g;
    r->n_units = g->cost.cells;
    r->k = l->q.k < r->n_units ? l->q.k : (uint32_t)r->n_units;
    r->ranking = mem_take(r->n_units, sizeof *r->ranking, e);
    if (!r->ranking) return false;
    for (size_t i = 0; i < r->n_units; i++)
        r->ranking[i] = (struct unit){(uint32_t)(i / g->n_heads), (uint32_t)(i % g->n_heads),
                                      towards_source(l, g->scores->values[i])};
    qsort(r->ranking, r->n_units, sizeof *r->ranking, by_score);
    return true;
}

/* ---- the joint run ----------------------------------------------------------------------------- */

static size_t n_sets(const struct localize *l) { return 1 + (size_t)l->result.n_control; }

/* The unit is one of the ranking's. */
static void set_tap(struct localize *l, uint32_t seq, const struct unit *u)
{
    bool whole = l->q.patch.axis == PATCH_LAYER;
    l->taps.tap[l->taps.n++] = (struct tap){
        .site = {HOOK_Z, u->layer}, .op = TAP_SET, .seq = seq, .every_pos = true, .head = whole ? NULL : &u->head,
        .n_head = whole ? 0 : 1, .weight = 1.0f, .n_src_pos = l->q.patch.pair->metric->pos + 1u, .src_whole = true,
        .src = patch_source(l->patch, u->layer)};
}

/* k distinct units outside the region. */
static void draw_set(struct localize *l, struct random *random, size_t *order, uint32_t seq)
{
    size_t rest = l->result.n_units - l->result.k;
    for (size_t i = 0; i < rest; i++) order[i] = l->result.k + i;
    random_shuffle(random, order, rest);
    for (uint32_t i = 0; i < l->result.k; i++) set_tap(l, seq, &l->result.ranking[order[i]]);
}

static bool begin_joint(struct localize *l, struct err *e)
{
    const struct patch_request *p = &l->q.patch;
    bool enough = l->result.n_units - l->result.k >= l->result.k;
    l->result.n_control = enough ? l->q.n_control : 0;
    l->taps.tap = mem_take(n_sets(l) * l->result.k, sizeof(struct tap), e);
    l->input = mem_take(n_sets(l), sizeof *l->input, e);
    l->effect = mem_take(n_sets(l), sizeof *l->effect, e);
    size_t *order = mem_take(l->result.n_units, sizeof *order, e);
    if (l->taps.tap && l->input && l->effect && order) {
        struct random random;
        random_init(&random, l->q.seed);
        for (uint32_t i = 0; i < l->result.k; i++) set_tap(l, 0, &l->result.ranking[i]);
        for (uint32_t s = 1; s <= l->result.n_control; s++) draw_set(l, &random, order, s);
        for (uint32_t s = 0; s < n_sets(l); s++)
            l->input[s] = (struct run_input){.ids = p->denoise ? p->pair->corrupt : p->pair->clean,
                                             .n = p->pair->metric->pos + 1u, .seq = s, .want = &p->pair->metric->pos,
                                             .n_want = 1};
        l->run = run_new(p->view, l->input, n_sets(l), &l->taps, e);
    }
    mem_drop(order);
    return l->run != NULL;
}

static void summarise(struct localize *l)
{
    struct localize_result *r = &l->result;
    double sum = 0, squares = 0, below = 0;
    r->region_effect = l->effect[0];
    for (size_t i = 1; i < n_sets(l); i++) {
        sum += l->effect[i];
        below += l->effect[i] < l->effect[0];
    }
    r->control_mean = r->control_sd = r->percentile = NAN; /* unless sets were drawn */
    if (!r->n_control) return;
    r->control_mean = sum / r->n_control;
    for (size_t i = 1; i < n_sets(l); i++) squares += pow(l->effect[i] - r->control_mean, 2);
    r->control_sd = r->n_control > 1 ? sqrt(squares / (r->n_control - 1)) : 0;
    r->percentile = 100 * below / r->n_control;
}

static bool end_joint(struct localize *l, struct session *s, struct err *e)
{
    size_t n = n_sets(l), d = arch_of(l)->d_model;
    float *x = mem_floats(n * d, e);
    bool ok = x != NULL;
    for (size_t i = 0; ok && i < n; i++) memcpy(x + i * d, run_final(l->run, i), d * sizeof *x);
    ok = ok && patch_metric(l->patch, s, x, n, l->effect, e);
    for (size_t i = 0; ok && i < n; i++) l->effect[i] = towards_source(l, l->effect[i]);
    mem_drop(x);
    if (ok) summarise(l);
    l->summed = ok;
    return ok;
}

enum step localize_step(struct localize *l, struct session *s, struct err *e)
{
    enum step step;
    if (!l->run) {
        step = patch_step(l->patch, s, e);
        if (step != STEP_DONE) return step;
        return rank(l, e) && begin_joint(l, e) ? STEP_MORE : STEP_FAIL;
    }
    step = run_step(l->run, s, e);
    if (step != STEP_DONE) return step;
    return end_joint(l, s, e) ? STEP_DONE : STEP_FAIL;
}

void localize_progress(const struct localize *l, size_t *done, size_t *total)
{
    patch_progress(l->patch, done, total);
    if (l->summed) *done = *total;
}

const struct localize_result *localize_result(const struct localize *l) { return &l->result; }
