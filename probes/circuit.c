#include "circuit.h"

#include <math.h>

/* Sets of ablated units, in this order. */
enum { SET_NOTHING, SET_ALL, SET_OUTSIDE, SET_MEMBERS }; /* then of each member, of samples two each, of controls */

struct circuit {
    struct circuit_request q;
    struct joint *joint;
    bool *in;               /* [units] marks of one set at a time */
    size_t *order;          /* [units] */
    uint32_t *unit;         /* all sets, one after the other */
    struct joint_set *set;
    size_t n_sets, n_unit;
    struct circuit_sample *sample;
    double *minimality, *control, *mean; /* mean [n_sets] over pairs */
    struct circuit_result result;
};

static const struct arch *arch_of(const struct circuit_request *q) { return &view_model(q->patch.view)->arch; }
static size_t heads_of(const struct circuit_request *q) { return (size_t)arch_of(q)->n_layers * arch_of(q)->n_heads; }

size_t circuit_units(const struct circuit_request *q) { return heads_of(q) + (q->mlps ? arch_of(q)->n_layers : 0); }
size_t circuit_sets(const struct circuit_request *q) { return SET_MEMBERS + q->n + 2 * (size_t)q->samples + q->n_control; }

static struct joint_request joint_of(const struct circuit *c, const struct circuit_request *q)
{
    return (struct joint_request){.ask = {.patch = q->patch, .seed = q->seed}, .zero = q->zero, .mlps = q->mlps,
                                  .set = c ? c->set : NULL, .n_sets = circuit_sets(q), .k = circuit_units(q)};
}

/* ---- memory ------------------------------------------------------------------------------------------ */

void circuit_plan(const struct circuit_request *q, int threads, struct plan *p)
{
    const struct joint_request j = joint_of(NULL, q);
    const size_t sets = circuit_sets(q), units = circuit_units(q), n = q->patch.n_pairs;
    joint_plan(&j, threads, p);
    plan_add(p, NEED_ANSWER, plan_times(plan_times(sets, units + 1), sizeof(uint32_t)));
    plan_add(p, NEED_ANSWER, plan_times(sets, sizeof(struct joint_set) + 2 * sizeof(double) + sizeof(struct circuit_sample)));
    plan_add(p, NEED_ANSWER, plan_times(units + 1, sizeof(bool) + sizeof(size_t) + sizeof(double)));
    plan_add(p, NEED_ANSWER, plan_times(2 * n, sizeof(double)));
    plan_add(p, NEED_ANSWER, plan_times(q->n_groups + 1, STATS_DRAWS * sizeof(uint32_t)) + STATS_DRAWS * sizeof(double));
}

static bool take(struct circuit *c, struct err *e)
{
    const size_t units = circuit_units(&c->q), sets = circuit_sets(&c->q);
    c->in = mem_take(units, sizeof *c->in, e);
    c->order = c->in ? mem_take(units, sizeof *c->order, e) : NULL;
    c->unit = c->order ? mem_take(sets, (units + 1) * sizeof *c->unit, e) : NULL;
    c->set = c->unit ? mem_take(sets, sizeof *c->set, e) : NULL;
    c->sample = c->set ? mem_take((size_t)c->q.samples + 1, sizeof *c->sample, e) : NULL;
    c->minimality = c->sample ? mem_take(c->q.n + 1, sizeof *c->minimality, e) : NULL;
    c->control = c->minimality ? mem_take((size_t)c->q.n_control + 1, sizeof *c->control, e) : NULL;
    c->mean = c->control ? mem_take(sets, sizeof *c->mean, e) : NULL;
    return c->mean != NULL;
}

void circuit_free(struct circuit *c)
{
    if (!c) return;
    joint_free(c->joint);
    mem_drop(c->in);
    mem_drop(c->order);
    mem_drop(c->unit);
    mem_drop(c->set);
    mem_drop(c->sample);
    mem_drop(c->minimality);
    mem_drop(c->control);
    mem_drop(c->mean);
    mem_drop(c);
}

/* ---- sets -------------------------------------------------------------------------------------------- */

/* Ablate all units that are marked. */
static void put_set(struct circuit *c)
{
    struct joint_set *s = &c->set[c->n_sets++];
    uint32_t *out = c->unit + c->n_unit;
    *s = (struct joint_set){out, 0};
    for (size_t u = 0; u < circuit_units(&c->q); u++)
        if (c->in[u]) out[s->n++] = (uint32_t)u;
    c->n_unit += s->n;
}

static void mark_all(struct circuit *c, bool what)
{
    for (size_t u = 0; u < circuit_units(&c->q); u++) c->in[u] = what;
}

static void mark(struct circuit *c, const uint32_t *member, size_t n, bool what)
{
    for (size_t i = 0; i < n; i++) c->in[member[i]] = what;
}

static void mark_outside(struct circuit *c)
{
    mark_all(c, true);
    mark(c, c->q.member, c->q.n, false);
}

/* K, marked: first alone, then with all outside of C. */
static void draw_sample(struct circuit *c, struct random *random, struct circuit_sample *out)
{
    size_t n = 0;
    while (n == 0) {
        mark_all(c, false);
        for (size_t i = 0; i < c->q.n; i++) n += c->in[c->q.member[i]] = random_below(random, 2);
    }
    put_set(c);
    const struct joint_set k = c->set[c->n_sets - 1];
    *out = (struct circuit_sample){.member = k.unit, .n = k.n};
    mark_outside(c);
    mark(c, k.unit, k.n, true);
    put_set(c);
}

/* So many of the units [from, to) not ablated. */
static void draw_units(struct circuit *c, struct random *random, size_t from, size_t to, size_t n)
{
    for (size_t i = 0; i < to - from; i++) c->order[i] = from + i;
    random_shuffle(random, c->order, to - from);
    for (size_t i = 0; i < n; i++) c->in[c->order[i]] = false;
}

static void draw_control(struct circuit *c, struct random *random)
{
    const size_t heads = heads_of(&c->q);
    size_t of_heads = 0;
    while (of_heads < c->q.n && c->q.member[of_heads] < heads) of_heads++;
    mark_all(c, true);
    draw_units(c, random, 0, heads, of_heads);
    draw_units(c, random, heads, circuit_units(&c->q), c->q.n - of_heads);
    put_set(c);
}

static void put_sets(struct circuit *c)
{
    struct random random;
    random_init(&random, c->q.seed);
    mark_all(c, false);
    put_set(c);
    mark_all(c, true);
    put_set(c);
    mark_outside(c);
    put_set(c);
    for (size_t i = 0; i < c->q.n; i++) {
        mark_outside(c);
        c->in[c->q.member[i]] = true;
        put_set(c);
    }
    for (size_t i = 0; i < c->q.samples; i++) draw_sample(c, &random, &c->sample[i]);
    for (size_t i = 0; i < c->q.n_control; i++) draw_control(c, &random);
}

struct circuit *circuit_new(const struct circuit_request *q, struct err *e)
{
    struct circuit *c = mem_new(sizeof *c);
    c->q = *q;
    if (take(c, e)) {
        put_sets(c);
        const struct joint_request j = joint_of(c, &c->q);
        if ((c->joint = joint_new(&j, e))) return c;
    }
    circuit_free(c);
    return NULL;
}

/* ---- what they say ----------------------------------------------------------------------------------- */

static double mean_of(const double *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += x[i];
    return sum / (double)n;
}

/* F of the units left by the set. */
static double share(const struct circuit *c, size_t set)
{
    return (c->mean[set] - c->result.none) / (c->result.full - c->result.none);
}

static bool faithful(struct circuit *c, struct err *e)
{
    const size_t n = c->q.patch.n_pairs;
    const double *value = joint_value(c->joint), *base = joint_base(c->joint);
    struct draws draws = {0};
    double *part = mem_take(2 * n, sizeof *part, e);
    for (size_t i = 0; part && i < n; i++) {
        part[i] = value[SET_OUTSIDE * n + i] - value[SET_ALL * n + i];
        part[n + i] = base[i] - value[SET_ALL * n + i];
    }
    const bool ok = part && draws_make(&draws, c->q.group, n, c->q.n_groups, c->q.seed, e) &&
                    stats_ratio(&draws, part, part + n, 1, 0.95, &c->result.faithfulness, e);
    mem_drop(draws.count);
    mem_drop(part);
    return ok;
}

static void complete(struct circuit *c, size_t first)
{
    struct circuit_result *r = &c->result;
    r->sample = c->sample;
    r->n_samples = c->q.samples;
    r->completeness_mean = r->completeness_max = r->n_samples ? 0 : NAN;
    for (size_t i = 0; i < r->n_samples; i++) {
        struct circuit_sample *s = &c->sample[i];
        s->model = share(c, first + 2 * i);
        s->circuit = share(c, first + 2 * i + 1);
        const double d = fabs(s->circuit - s->model);
        r->completeness_mean += d / (double)r->n_samples;
        if (d <= r->completeness_max) continue;
        r->completeness_max = d;
        r->worst = i;
    }
}

static bool summarise(struct circuit *c, struct err *e)
{
    struct circuit_result *r = &c->result;
    const size_t n = c->q.patch.n_pairs, samples = SET_MEMBERS + c->q.n, controls = samples + 2 * (size_t)c->q.samples;
    const double *value = joint_value(c->joint), *base = joint_base(c->joint);
    for (size_t s = 0; s < c->n_sets; s++) c->mean[s] = mean_of(value + s * n, n);
    r->full = mean_of(base, n);
    r->none = c->mean[SET_ALL];
    r->circuit = c->mean[SET_OUTSIDE];
    for (size_t i = 0; i < n; i++) r->check_none_ablated = fmax(r->check_none_ablated, fabs(value[SET_NOTHING * n + i] - base[i]));
    if (!(fabs(r->full - r->none) >= CIRCUIT_LEAST))
        return err_set(e, ERR_UNPROCESSABLE, "with everything ablated the metric is %g, with nothing %g: there is no effect to be faithful to",
                       r->none, r->full);
    if (!faithful(c, e)) return false;
    for (size_t i = 0; i < c->q.n; i++) c->minimality[i] = share(c, SET_OUTSIDE) - share(c, SET_MEMBERS + i);
    r->minimality = c->minimality;
    complete(c, samples);
    for (size_t i = 0; i < c->q.n_control; i++) c->control[i] = share(c, controls + i);
    r->control = stats_control(c->control, c->q.n_control, share(c, SET_OUTSIDE));
    return true;
}

enum step circuit_step(struct circuit *c, struct session *s, struct err *e)
{
    const enum step step = joint_step(c->joint, s, e);
    return step == STEP_DONE && !summarise(c, e) ? STEP_FAIL : step;
}

void circuit_progress(const struct circuit *c, size_t *done, size_t *total) { joint_progress(c->joint, done, total); }
const struct circuit_result *circuit_result(const struct circuit *c) { return &c->result; }
const struct patch_scores *circuit_baseline(const struct circuit *c) { return joint_baseline(c->joint); }
