#include "tuco_control.h"

#include <math.h>
#include <string.h>

struct tuco_control {
    struct tuco_control_request q;
    struct random random;
    double *value[TUCO_CONTROLS]; /* [draws][n] */
    int kind;
    uint32_t draw;
    struct view *noisy;           /* a random delta under construction, or whole */
    size_t tensor;                /* next to be moved */
    struct tuco_input *in;        /* [n] of the draw in hand */
    uint32_t *ids;                /* theirs, where they are drawn */
    struct tuco *tuco;
};

static bool differs(const struct view *view, const struct view *against, size_t tensor)
{
    return role_of_layers(view_model(view)->tensors[tensor].role) &&
           view_matrix(view, tensor).data != view_matrix(against, tensor).data;
}

size_t tuco_control_tensors(const struct view *view, const struct view *against)
{
    size_t n = 0;
    for (size_t i = 0; i < view_model(view)->n_tensors; i++) n += differs(view, against, i);
    return n;
}

static size_t all_ids(const struct tuco_control_request *q)
{
    size_t n = 0;
    for (size_t i = 0; i < q->n; i++) n += q->in[i].n;
    return n;
}

void tuco_control_plan(const struct tuco_control_request *q, int threads, struct plan *p)
{
    struct plan runs = {0};
    size_t largest = 0;
    tuco_plan(q->view, q->against, q->in, q->n, threads, &runs);
    plan_with(p, &runs);
    for (int k = 0; k < TUCO_CONTROLS; k++) plan_add(p, NEED_CAPTURES, plan_times(q->draws[k], q->n * sizeof(double)));
    plan_add(p, NEED_CAPTURES, all_ids(q) * sizeof(uint32_t) + q->n * sizeof(struct tuco_input));
    for (size_t i = 0; q->draws[CONTROL_RANDOM_DELTA] && i < view_model(q->view)->n_tensors; i++) {
        size_t bytes = mem_floats_bytes(view_model(q->view)->tensors[i].n_elements);
        if (!differs(q->view, q->against, i)) continue;
        plan_add(p, NEED_DELTAS, bytes);
        if (bytes > largest) largest = bytes;
    }
    plan_add(p, NEED_DELTAS, plan_times(4, largest)); /* difference, its copy in a delta, two values */
}

struct tuco_control *tuco_control_new(const struct tuco_control_request *q, struct err *e)
{
    struct tuco_control *t = mem_new(sizeof *t);
    t->q = *q;
    view_retain(q->view);
    view_retain(q->against);
    random_init(&t->random, q->seed);
    t->in = mem_take(q->n, sizeof *t->in, e);
    t->ids = mem_take(all_ids(q), sizeof *t->ids, e);
    bool ok = t->in && t->ids;
    for (int k = 0; ok && k < TUCO_CONTROLS; k++)
        ok = (t->value[k] = mem_take((size_t)q->draws[k] * q->n, sizeof(double), e)) != NULL;
    if (ok) return t;
    tuco_control_free(t);
    return NULL;
}

void tuco_control_free(struct tuco_control *t)
{
    if (!t) return;
    tuco_free(t->tuco);
    for (int k = 0; k < TUCO_CONTROLS; k++) mem_drop(t->value[k]);
    mem_drop(t->in);
    mem_drop(t->ids);
    view_drop(t->noisy);
    view_drop(t->q.view);
    view_drop(t->q.against);
    mem_drop(t);
}

/* ---- a random delta ----------------------------------------------------------------------------------- */

static double norm(const float *x, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) s += (double)x[i] * (double)x[i];
    return sqrt(s);
}

/* Noise of the norm that the tensor's difference has, into x; y is room. */
static void make_noise(struct tuco_control *t, size_t n, float *x, float *y)
{
    view_tensor_copy(t->q.view, t->tensor, x);
    view_tensor_copy(t->q.against, t->tensor, y);
    for (size_t i = 0; i < n; i++) x[i] -= y[i];
    double wanted = norm(x, n), made;
    for (size_t i = 0; i < n; i++) x[i] = (float)random_normal(&t->random);
    made = norm(x, n);
    for (size_t i = 0; made > 0 && i < n; i++) x[i] = (float)((double)x[i] * (wanted / made));
}

static bool move_tensor(struct tuco_control *t, struct err *e)
{
    const struct model *m = view_model(t->q.view);
    size_t n = m->tensors[t->tensor].n_elements;
    float *x = mem_floats(n, e), *y = x ? mem_floats(n, e) : NULL;
    if (y) make_noise(t, n, x, y);
    struct delta *d = y ? delta_new_dense(m, t->tensor, x, e) : NULL;
    mem_drop(x);
    mem_drop(y);
    struct view *next = d ? view_with_delta(t->noisy, d, e) : NULL;
    delta_free(d);
    if (!next) return false;
    view_drop(t->noisy);
    t->noisy = next;
    return true;
}

/* One tensor more, or all are moved. */
static enum step build_noisy(struct tuco_control *t, struct err *e)
{
    if (!t->noisy) {
        t->noisy = view_retain(t->q.against);
        t->tensor = 0;
    }
    while (t->tensor < view_model(t->q.view)->n_tensors && !differs(t->q.view, t->q.against, t->tensor)) t->tensor++;
    if (t->tensor == view_model(t->q.view)->n_tensors) return STEP_DONE;
    if (!move_tensor(t, e)) return STEP_FAIL;
    t->tensor++;
    return STEP_MORE;
}

/* ---- draws ------------------------------------------------------------------------------------------------ */

static void draw_prompts(struct tuco_control *t)
{
    uint32_t *ids = t->ids, V = view_model(t->q.view)->arch.d_vocab;
    for (size_t i = 0; i < t->q.n; i++) {
        uint32_t n = t->q.in[i].n;
        t->in[i] = (struct tuco_input){.ids = t->kind == CONTROL_RANDOM_DELTA ? t->q.in[i].ids : ids, .n = n};
        if (t->kind == CONTROL_RANDOM_DELTA) continue;
        for (uint32_t k = 0; k < n; k++)
            ids[k] = k && t->kind == CONTROL_REPEATED_TOKEN ? ids[0] : (uint32_t)random_below(&t->random, V);
        ids += n;
    }
}

static enum step begin_draw(struct tuco_control *t, struct err *e)
{
    if (t->kind == CONTROL_RANDOM_DELTA) {
        enum step step = build_noisy(t, e);
        if (step != STEP_DONE) return step;
    }
    draw_prompts(t);
    t->tuco = tuco_new(t->kind == CONTROL_RANDOM_DELTA ? t->noisy : t->q.view, t->q.against, t->in, t->q.n, e);
    return t->tuco ? STEP_MORE : STEP_FAIL;
}

static void end_draw(struct tuco_control *t)
{
    for (size_t i = 0; i < t->q.n; i++) t->value[t->kind][t->draw * t->q.n + i] = tuco_result(t->tuco, i)->tuco;
    tuco_free(t->tuco);
    view_drop(t->noisy);
    t->tuco = NULL;
    t->noisy = NULL;
    t->draw++;
}

enum step tuco_control_step(struct tuco_control *t, struct session *s, struct err *e)
{
    while (t->kind < TUCO_CONTROLS && t->draw == t->q.draws[t->kind]) {
        t->kind++;
        t->draw = 0;
    }
    if (t->kind == TUCO_CONTROLS) return STEP_DONE;
    if (!t->tuco) return begin_draw(t, e);
    enum step step = tuco_step(t->tuco, s, e);
    if (step != STEP_DONE) return step;
    end_draw(t);
    return STEP_MORE;
}

void tuco_control_spread(const struct tuco_control *t, enum tuco_control_kind kind, size_t prompt, double score,
                         struct tuco_spread *out)
{
    double sum = 0, squares = 0, below = 0;
    size_t n = t->q.draws[kind];
    const double *v = t->value[kind] + prompt;
    for (size_t k = 0; k < n; k++) {
        sum += v[k * t->q.n];
        below += v[k * t->q.n] < score ? 1 : v[k * t->q.n] == score ? 0.5 : 0;
    }
    out->n = n;
    out->mean = sum / (double)n;
    for (size_t k = 0; k < n; k++) squares += (v[k * t->q.n] - out->mean) * (v[k * t->q.n] - out->mean);
    out->sd = n > 1 ? sqrt(squares / (double)(n - 1)) : (double)NAN;
    out->percentile = 100 * below / (double)n;
}
