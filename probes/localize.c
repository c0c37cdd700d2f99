#include "localize.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/base/random.h"

/* Joint patches: each set of units is one sequence of a ragged run, whose z is overwritten by the
 * source's, captured in the same way. */
struct localize {
    struct localize_request q;
    struct patch *patch;
    struct run *run;         /* the source's, then (joint) the sets' */
    bool joint, summed;
    struct taps taps;
    float *source_z;         /* [L][H][n][e]: head-major, so that one head is one block */
    struct run_input *input; /* the source first, then region and random sets */
    uint32_t *heads;         /* per tap: its head */
    double *effect;          /* [1 + n_control] */
    struct localize_result result;
};

static const struct arch *arch_of(const struct localize *l) { return &view_model(l->q.patch.view)->arch; }

void localize_plan(const struct localize_request *q, int threads, struct plan *p)
{
    const struct arch *a = &view_model(q->patch.view)->arch;
    size_t n = q->patch.pair->metric->pos + (size_t)1, sets = 1 + (size_t)q->n_control, heads = (size_t)a->n_layers * a->n_heads,
           each = q->patch.axis == PATCH_LAYER ? a->n_heads : 1, units = heads / each, k = q->k < units ? q->k : units;
    struct plan joint = {0};
    struct run_size runs = {0};
    for (size_t i = 0; i < sets; i++) run_size_add(&runs, 0, n, 1, false);
    run_plan(&runs, a, threads, &joint);
    plan_add(&joint, NEED_CAPTURES, mem_floats_bytes(heads * n * a->d_head));
    plan_add(&joint, NEED_CAPTURES, plan_times(heads + plan_times(sets, k * each), sizeof(struct tap) + sizeof(uint32_t)));
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
    mem_drop(l->source_z);
    mem_drop(l->input);
    mem_drop(l->heads);
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
    r->n_units = g->cells;
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

static void set_tap(struct localize *l, uint32_t seq, const struct unit *u)
{
    const struct arch *a = arch_of(l);
    size_t n = l->q.patch.pair->metric->pos + 1u, width = (size_t)a->n_heads * a->d_head;
    bool whole = l->q.patch.axis == PATCH_LAYER;
    uint32_t heads = whole ? a->n_heads : 1;
    for (uint32_t h = 0; h < heads; h++) {
        uint32_t *head = &l->heads[l->taps.n];
        *head = whole ? h : u->head;
        l->taps.tap[l->taps.n++] = (struct tap){
            .site = {HOOK_Z, u->layer}, .op = TAP_SET, .seq = seq, .every_pos = true, .head = head,
            .n_head = 1, .weight = 1.0f, .n_src_pos = n,
            .src = l->source_z + u->layer * n * width + (size_t)*head * n * a->d_head};
    }
}

/* k distinct units outside the region. */
static void draw_set(struct localize *l, struct random *random, size_t *order, uint32_t seq)
{
    size_t rest = l->result.n_units - l->result.k;
    for (size_t i = 0; i < rest; i++) order[i] = l->result.k + i;
    random_shuffle(random, order, rest);
    for (uint32_t i = 0; i < l->result.k; i++) set_tap(l, seq, &l->result.ranking[order[i]]);
}

/* Taps that read each head of the source's z into [L][H][n][e]. */
static void capture_source(struct localize *l)
{
    const struct arch *a = arch_of(l);
    size_t n = l->q.patch.pair->metric->pos + 1u, width = (size_t)a->n_heads * a->d_head;
    for (uint32_t layer = 0; layer < a->n_layers; layer++)
        for (uint32_t h = 0; h < a->n_heads; h++) {
            uint32_t *head = &l->heads[l->taps.n];
            *head = h;
            l->taps.tap[l->taps.n++] = (struct tap){
                .site = {HOOK_Z, layer}, .op = TAP_READ, .seq = 0, .every_pos = true, .head = head,
                .n_head = 1, .dst = l->source_z + layer * n * width + (size_t)h * n * a->d_head};
        }
}

static bool plan_joint(struct localize *l, struct err *e)
{
    const struct arch *a = arch_of(l);
    const struct patch_request *p = &l->q.patch;
    size_t n = p->pair->metric->pos + 1u, width = (size_t)a->n_heads * a->d_head;
    size_t per_unit = p->axis == PATCH_LAYER ? a->n_heads : 1;
    bool enough = l->result.n_units - l->result.k >= l->result.k;
    l->result.n_control = enough ? l->q.n_control : 0;
    size_t taps = (size_t)a->n_layers * a->n_heads + n_sets(l) * l->result.k * per_unit;
    l->taps.tap = mem_take(taps, sizeof(struct tap), e);
    l->heads = mem_take(taps, sizeof *l->heads, e);
    l->source_z = mem_floats(a->n_layers * n * width, e);
    l->input = mem_take(n_sets(l) + 1, sizeof *l->input, e);
    l->effect = mem_take(n_sets(l), sizeof *l->effect, e);
    size_t *order = mem_take(l->result.n_units, sizeof *order, e);
    bool ok = l->taps.tap && l->heads && l->source_z && l->input && l->effect && order;
    if (ok) {
        struct random random;
        random_init(&random, l->q.seed);
        capture_source(l);
        for (uint32_t i = 0; i < l->result.k; i++) set_tap(l, 1, &l->result.ranking[i]);
        for (uint32_t s = 0; s < l->result.n_control; s++) draw_set(l, &random, order, s + 2);
        const uint32_t *base = p->denoise ? p->pair->corrupt : p->pair->clean, *source = p->denoise ? p->pair->clean : p->pair->corrupt;
        for (uint32_t s = 0; s <= n_sets(l); s++)
            l->input[s] = (struct run_input){.ids = s ? base : source, .n = (uint32_t)n, .seq = s,
                                             .want = &p->pair->metric->pos, .n_want = 1};
    }
    mem_drop(order);
    return ok;
}

/* The source goes alone, first: its z of every layer must be there before a set reads it. */
static bool begin_joint(struct localize *l, bool source, struct err *e)
{
    l->run = source ? run_new(l->q.patch.view, l->input, 1, &l->taps, e)
                    : run_new(l->q.patch.view, l->input + 1, n_sets(l), &l->taps, e);
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
        return rank(l, e) && plan_joint(l, e) && begin_joint(l, true, e) ? STEP_MORE : STEP_FAIL;
    }
    step = run_step(l->run, s, e);
    if (step != STEP_DONE) return step;
    if (!l->joint) {
        run_free(l->run);
        l->joint = true;
        return begin_joint(l, false, e) ? STEP_MORE : STEP_FAIL;
    }
    return end_joint(l, s, e) ? STEP_DONE : STEP_FAIL;
}

void localize_progress(const struct localize *l, size_t *done, size_t *total)
{
    patch_progress(l->patch, done, total);
    if (l->summed) *done = *total;
}

const struct localize_result *localize_result(const struct localize *l) { return &l->result; }
