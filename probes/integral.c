#include "integral.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/head.h"
#include "core/train.h"
#include "slope.h"

enum { TAPE_ROWS = 256 };
enum stage { STAGE_BEGIN, STAGE_FORWARD, STAGE_HEAD, STAGE_BACK };

struct integral {
    struct integral_request q;
    uint32_t used, together; /* positions up to the metric's; points of one tape */
    uint32_t m, next, n;     /* points of this round; the first of the tape in hand, and how many it has */
    bool ends;               /* the tape in hand is that of both ends, for their metrics */
    enum stage stage;
    float *from, *change;    /* [used][d] x', x − x' */
    float *point, *grad, *slope; /* [used][d] on the way; [together][used][d]; [V] */
    double *a, *weight, *value;
    double *sum;             /* [n] */
    struct tape_seq *seq;
    struct tape *tape;
    struct tap *tap;
    struct taps taps;
    struct integral_found found;
};

static const struct arch *arch_of(const struct integral *g) { return &view_model(g->q.view)->arch; }

static uint32_t tape_points(uint32_t n) { return n < TAPE_ROWS / 2 ? TAPE_ROWS / n : 2; }

/* Legendre's polynomials by their recurrence, their roots by Newton's method. */
static void gauss(uint32_t m, double *a, double *weight)
{
    for (uint32_t i = 0; i < m; i++) {
        double x = cos(3.14159265358979323846 * (i + 0.75) / (m + 0.5)), slope = 1;
        for (int round = 0; round < 100; round++) {
            double p = 1, before = 0;
            for (uint32_t k = 0; k < m; k++) {
                double next = ((2.0 * k + 1) * x * p - k * before) / (k + 1);
                before = p;
                p = next;
            }
            slope = m * (x * p - before) / (x * x - 1);
            x -= p / slope;
            if (fabs(p / slope) < 1e-15) break;
        }
        a[i] = (1 - x) / 2;
        weight[i] = 1 / ((1 - x * x) * slope * slope);
    }
}

void integral_points(enum integral_rule rule, uint32_t m, double *a, double *weight)
{
    static const double shift[] = {[RULE_MIDPOINT] = 0.5, [RULE_LEFT] = 0, [RULE_RIGHT] = 1};
    if (rule == RULE_GAUSS) {
        gauss(m, a, weight);
        return;
    }
    for (uint32_t k = 0; k < m; k++) a[k] = (k + shift[rule]) / m, weight[k] = 1.0 / m;
}

static const char *const words[] = {[RULE_MIDPOINT] = "midpoint", [RULE_LEFT] = "left", [RULE_RIGHT] = "right", [RULE_GAUSS] = "gauss"};

const char *integral_rule_word(enum integral_rule r) { return words[r]; }

enum integral_rule integral_rule(const char *word)
{
    enum integral_rule r = RULE_MIDPOINT;
    while (strcmp(words[r], word) != 0) r++;
    return r;
}

static uint32_t most_steps(const struct integral_request *q) { return q->max_steps > q->steps ? q->max_steps : q->steps; }

void integral_plan(const struct integral_request *q, int threads, struct plan *p)
{
    const struct arch *a = &view_model(q->view)->arch;
    const size_t used = q->metric->pos + 1, points = tape_points((uint32_t)used), rows = used * points, stream = plan_times(used, a->d_model);
    tape_plan(a, rows, used, points, 0, threads, p);
    plan_add(p, NEED_STREAM, plan_sum(3 * mem_floats_bytes(stream), mem_floats_bytes(plan_times(points, stream))));
    plan_add(p, NEED_LOGITS, mem_floats_bytes(a->d_vocab));
    plan_add(p, NEED_ANSWER, plan_times(plan_sum(most_steps(q), q->n + points), 4 * sizeof(double) + sizeof(struct tap) + sizeof(struct tape_seq)));
}

size_t integral_rows(const struct integral_request *q, uint32_t n_layers)
{
    size_t points = 1 + q->steps; /* both ends go forward only */
    for (uint32_t m = q->steps; m <= q->max_steps / 2; m *= 2) points += 2 * (size_t)m;
    return plan_times(plan_times(2 * points, q->metric->pos + 1), n_layers);
}

struct integral *integral_new(const struct integral_request *q, struct err *e)
{
    struct integral *g = mem_new(sizeof *g);
    assert(q->metric->pos < q->n && q->steps && q->metric->kind != METRIC_KL);
    g->q = *q;
    g->q.view = view_retain(q->view);
    g->used = q->metric->pos + 1;
    g->together = tape_points(g->used);
    g->m = q->steps;
    g->ends = true;
    const size_t stream = (size_t)g->used * arch_of(g)->d_model, points = (size_t)most_steps(q) + 2;
    g->from = mem_floats(stream, e);
    g->change = g->from ? mem_floats(stream, e) : NULL;
    g->point = g->change ? mem_floats(stream, e) : NULL;
    g->grad = g->point ? mem_floats(plan_times(stream, g->together), e) : NULL;
    g->slope = g->grad ? mem_floats(arch_of(g)->d_vocab, e) : NULL;
    g->a = g->slope ? mem_take(points, sizeof *g->a, e) : NULL;
    g->weight = g->a ? mem_take(points, sizeof *g->weight, e) : NULL;
    g->value = g->weight ? mem_take(g->together, sizeof *g->value, e) : NULL;
    g->sum = g->value ? mem_take(q->n, sizeof *g->sum, e) : NULL;
    g->seq = g->sum ? mem_take(g->together, sizeof *g->seq, e) : NULL;
    g->tap = g->seq ? mem_take(g->together, sizeof *g->tap, e) : NULL;
    if (g->tap) return g;
    integral_free(g);
    return NULL;
}

void integral_rest(struct integral *g)
{
    void *const taken[] = {g->from, g->change, g->point, g->grad, g->slope, g->a, g->weight, g->value, g->seq, g->tap};
    tape_free(g->tape);
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) mem_drop(taken[i]);
    g->tape = NULL;
    g->from = g->change = g->point = g->grad = g->slope = NULL;
    g->a = g->weight = g->value = NULL;
    g->seq = NULL;
    g->tap = NULL;
}

void integral_free(struct integral *g)
{
    if (!g) return;
    integral_rest(g);
    mem_drop(g->sum);
    view_drop(g->q.view);
    mem_drop(g);
}

/* ---- the path ------------------------------------------------------------------------------------------ */

/* out ← what hook_embed has for those ids. */
static bool embeddings(struct integral *g, struct session *s, const uint32_t *ids, float *out, struct err *e)
{
    struct tap read = {.site = {HOOK_EMBED, 0}, .op = TAP_READ, .every_pos = true, .dst = out};
    return embed(s, g->q.view, ids, g->used, 0, &(struct taps){&read, 1}, 0, g->point, e);
}

static bool begin_path(struct integral *g, struct session *s, struct err *e)
{
    const size_t stream = (size_t)g->used * arch_of(g)->d_model;
    memset(g->from, 0, stream * sizeof *g->from);
    if (!embeddings(g, s, g->q.to, g->change, e) || (g->q.from && !embeddings(g, s, g->q.from, g->from, e))) return false;
    for (size_t i = 0; i < stream; i++) g->change[i] -= g->from[i];
    g->a[0] = 0, g->a[1] = 1; /* both ends */
    return true;
}

/* The next points of this round as sequences of one tape: written at hook_embed, with positions added behind. */
static bool begin_tape(struct integral *g, struct session *s, struct err *e)
{
    const size_t stream = (size_t)g->used * arch_of(g)->d_model;
    const uint32_t left = (g->ends ? 2 : g->m) - g->next;
    g->n = left < g->together ? left : g->together;
    for (uint32_t i = 0; i < g->n; i++)
        g->seq[i] = (struct tape_seq){.n = g->used, .scored = &g->q.metric->pos, .n_scored = 1};
    g->tape = tape_new(arch_of(g), g->seq, g->n, 0, false, e);
    for (uint32_t i = 0; i < g->n; i++) {
        if (!g->tape) return false;
        struct tap write = {.site = {HOOK_EMBED, 0}, .op = TAP_SET, .weight = 1, .every_pos = true, .src = g->point, .n_src_pos = g->used};
        for (size_t k = 0; k < stream; k++) g->point[k] = (float)((double)g->from[k] + g->a[g->next + i] * (double)g->change[k]);
        if (!embed(s, g->q.view, g->q.to, g->used, 0, &(struct taps){&write, 1}, 0, tape_input(g->tape) + i * stream, e)) return false;
        g->tap[i] = (struct tap){.site = {HOOK_EMBED, 0}, .op = TAP_READ, .seq = i, .every_pos = true, .dst = g->grad + i * stream};
    }
    g->taps = (struct taps){g->tap, g->n};
    return true;
}

static void add_points(struct integral *g)
{
    const size_t d = arch_of(g)->d_model;
    for (uint32_t i = 0; i < g->n; i++)
        for (uint32_t p = 0; p < g->used; p++) {
            const float *slope = g->grad + ((size_t)i * g->used + p) * d, *change = g->change + p * d;
            double sum = 0;
            for (size_t k = 0; k < d; k++) sum += (double)change[k] * (double)slope[k];
            g->sum[p] += g->weight[g->next + i] * sum;
        }
}

/* A round is done: enough, or another of twice the steps. */
static enum step conclude(struct integral *g)
{
    const double effect = g->found.at_to - g->found.at_from;
    g->found.total = 0;
    for (uint32_t p = 0; p < g->used; p++) g->found.total += g->sum[p];
    g->found.residual = g->found.total - effect;
    g->found.complete = fabs(g->found.residual) <= 0.01 * fabs(effect);
    g->found.steps = g->m;
    if (g->found.complete || g->m > g->q.max_steps / 2) return STEP_DONE;
    g->m *= 2;
    return STEP_MORE;
}

static enum step end_tape(struct integral *g)
{
    tape_free(g->tape);
    g->tape = NULL;
    g->stage = STAGE_BEGIN;
    if (!g->ends) add_points(g);
    g->next += g->n;
    if (g->next < (g->ends ? 2 : g->m)) return STEP_MORE;
    if (g->ends) g->found.at_from = g->value[0], g->found.at_to = g->value[1];
    else if (conclude(g) == STEP_DONE) return STEP_DONE;
    g->ends = false;
    g->next = 0;
    memset(g->sum, 0, g->q.n * sizeof *g->sum);
    integral_points(g->q.rule, g->m, g->a, g->weight);
    return STEP_MORE;
}

enum step integral_step(struct integral *g, struct session *s, struct err *e)
{
    struct slope slope = {.metric = g->q.metric, .V = arch_of(g)->d_vocab, .work = g->slope, .value = g->value};
    enum step step = STEP_DONE;
    if (g->stage == STAGE_BEGIN) {
        if ((g->ends && !begin_path(g, s, e)) || !begin_tape(g, s, e)) return STEP_FAIL;
    } else if (g->stage == STAGE_HEAD) {
        step = tape_head(g->tape, g->q.view, s, NULL, slope_row, &slope, e);
    } else {
        step = g->stage == STAGE_FORWARD ? tape_forward(g->tape, g->q.view, s, e)
                                         : tape_backward(g->tape, g->q.view, s, NULL, &g->taps, e);
        g->found.rows += (size_t)g->n * g->used;
    }
    if (step != STEP_DONE) return step;
    if (g->stage == STAGE_BACK || (g->ends && g->stage == STAGE_HEAD)) return end_tape(g);
    g->stage++;
    return STEP_MORE;
}

struct integral_found integral_result(const struct integral *g)
{
    struct integral_found out = g->found;
    out.values = g->sum;
    return out;
}
