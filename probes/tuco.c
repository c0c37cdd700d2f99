#include "tuco.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/block.h"
#include "core/head.h"

struct tuco {
    struct view *view, *against;
    const struct tuco_input *in;
    struct tuco_score *score;
    size_t n, at;           /* prompts, the one in hand */
    uint32_t layer, row;    /* of the prompt; first position of the rows in hand */
    struct kv *kv, *kv_against; /* this layer's, of the rows before; prompts that fit one step have none */
    float *x, *y;           /* [n][d] stream, and a copy for the other view's block */
    float *add[4];          /* attn_out, mlp_out of view, then of against: [n][d] */
    double *ptc, *ftc;      /* [rows][d] sums over layers of the reported positions */
    double *start;          /* [d] x_0 of the last position */
    size_t done, total;
};

static const struct arch *arch_of(const struct tuco *t) { return &view_model(t->view)->arch; }

void tuco_plan(const struct arch *a, const struct tuco_input *in, size_t n, int threads, struct plan *p)
{
    struct plan most = {0};
    for (size_t i = 0; i < n; i++) {
        struct plan one = {0};
        size_t length = in[i].n, reported = in[i].all_positions ? length : 1, d = a->d_model;
        plan_add(&one, NEED_STREAM, 6 * mem_floats_bytes(length * d)); /* x, y and four addends */
        plan_add(&one, NEED_CAPTURES, (2 * reported + 1) * d * sizeof(double));
        if (length > RUN_ROWS) plan_add(&one, NEED_CACHES, 2 * kv_bytes(a, length));
        plan_add(&one, NEED_SCRATCH, session_bytes(a, length < RUN_ROWS ? length : RUN_ROWS, length, threads));
        plan_peak(&most, &one);
        plan_add(p, NEED_ANSWER, (2 * (size_t)a->n_layers + reported) * (sizeof(double) + 64)); /* and its text */
    }
    plan_with(p, &most);
}

struct tuco *tuco_new(struct view *view, struct view *against, const struct tuco_input *in, size_t n,
                      struct err *e)
{
    assert(view_model(view) == view_model(against));
    struct tuco *t = mem_new(sizeof *t);
    t->view = view_retain(view);
    t->against = view_retain(against);
    t->in = in;
    t->n = n;
    t->score = mem_take(n, sizeof *t->score, e);
    for (size_t i = 0; t->score && i < n; i++) {
        size_t L = arch_of(t)->n_layers;
        t->total += L;
        t->score[i].layer_ptc = mem_take(L, sizeof(double), e);
        t->score[i].layer_ftc = mem_take(L, sizeof(double), e);
        t->score[i].position = in[i].all_positions ? mem_take(in[i].n, sizeof(double), e) : NULL;
        if (!t->score[i].layer_ptc || !t->score[i].layer_ftc ||
            (in[i].all_positions && !t->score[i].position)) {
            tuco_free(t);
            return NULL;
        }
    }
    if (t->score) return t;
    tuco_free(t);
    return NULL;
}

static void drop_caches(struct tuco *t)
{
    kv_free(t->kv);
    kv_free(t->kv_against);
    t->kv = t->kv_against = NULL;
}

static void drop_prompt(struct tuco *t)
{
    drop_caches(t);
    mem_drop(t->x), mem_drop(t->y), mem_drop(t->ptc), mem_drop(t->ftc), mem_drop(t->start);
    t->x = t->y = NULL;
    t->ptc = t->ftc = t->start = NULL;
    for (int i = 0; i < 4; i++) {
        mem_drop(t->add[i]);
        t->add[i] = NULL;
    }
}

void tuco_free(struct tuco *t)
{
    if (!t) return;
    drop_prompt(t);
    for (size_t i = 0; t->score && i < t->n; i++) {
        mem_drop(t->score[i].layer_ptc);
        mem_drop(t->score[i].layer_ftc);
        mem_drop(t->score[i].position);
    }
    mem_drop(t->score);
    view_drop(t->view);
    view_drop(t->against);
    mem_drop(t);
}

/* Reported positions: all, or only the last. */
static uint32_t first_reported(const struct tuco *t)
{
    return t->in[t->at].all_positions ? 0 : t->in[t->at].n - 1;
}

static bool begin_prompt(struct tuco *t, struct session *s, struct err *e)
{
    const struct tuco_input *in = &t->in[t->at];
    size_t d = arch_of(t)->d_model, floats = (size_t)in->n * d, rows = in->n - first_reported(t);
    t->layer = t->row = 0;
    t->x = mem_floats(floats, e);
    t->y = mem_floats(floats, e);
    t->ptc = mem_take(rows * d, sizeof *t->ptc, e);
    t->ftc = mem_take(rows * d, sizeof *t->ftc, e);
    t->start = mem_take(d, sizeof *t->start, e);
    bool ok = t->x && t->y && t->ptc && t->ftc && t->start;
    for (int i = 0; i < 4 && ok; i++) ok = (t->add[i] = mem_floats(floats, e)) != NULL;
    if (!ok) return false;
    if (!embed(s, t->view, in->ids, in->n, 0, NULL, 0, t->x, e)) return false;
    for (size_t i = 0; i < d; i++) t->start[i] = (double)t->x[floats - d + i];
    return true;
}

/* Rows in hand: [row, row + step_rows) of the prompt. */
static uint32_t step_rows(const struct tuco *t)
{
    uint32_t left = t->in[t->at].n - t->row;
    return left < RUN_ROWS ? left : RUN_ROWS;
}

/* One block of one view on the rows in hand of x, its two addends captured at their positions. */
static bool evaluate(struct tuco *t, struct view *v, float *x, float **add, struct kv *kv, struct session *s,
                     struct err *e)
{
    const struct arch *a = arch_of(t);
    uint32_t n = step_rows(t);
    struct tap tap[2] = {
        {.site = {HOOK_ATTN_OUT, t->layer}, .op = TAP_READ, .every_pos = true, .dst = add[0]},
        {.site = {HOOK_MLP_OUT, t->layer}, .op = TAP_READ, .every_pos = true, .dst = add[1]}};
    struct taps taps = {tap, 2};
    struct span span = {.n_rows = n, .past = kv, .past_len = t->row, .keep = kv};
    struct block b = {.session = s, .view = v, .layer = t->layer, .span = &span, .n_spans = 1,
                      .n_rows = n, .x = x + (size_t)t->row * a->d_model, .taps = &taps};
    float *memory = session_scratch(s, block_rows_floats(a, n), e);
    if (!memory) return false;
    block_rows_place(a, n, memory, &b.rows);
    return block_forward(&b, e);
}

/* A prompt of several steps attends to its earlier rows through caches, anew for each layer. */
static bool begin_layer(struct tuco *t, struct err *e)
{
    drop_caches(t);
    if (t->in[t->at].n <= RUN_ROWS) return true;
    t->kv = kv_new(arch_of(t));
    t->kv_against = kv_new(arch_of(t));
    return kv_reserve(t->kv, t->in[t->at].n, e) && kv_reserve(t->kv_against, t->in[t->at].n, e);
}

/* Add this layer's terms to the sums. same: both views share the layer, so FTC is exactly 0. */
static void accumulate(struct tuco *t, bool same)
{
    size_t d = arch_of(t)->d_model, from = (size_t)first_reported(t) * d, n = (size_t)t->in[t->at].n * d;
    struct tuco_score *score = &t->score[t->at];
    for (size_t i = from; i < n; i++) {
        double tuned = (double)t->add[0][i] + (double)t->add[1][i];
        double before = same ? tuned : (double)t->add[2][i] + (double)t->add[3][i];
        t->ptc[i - from] += before;
        t->ftc[i - from] += tuned - before;
        if (i < n - d) continue;
        score->layer_ptc[t->layer] += fabs(before);
        score->layer_ftc[t->layer] += fabs(tuned - before);
    }
}

double tuco_ratio(const double *ptc, const double *ftc, size_t d, double *ptc_l1, double *ftc_l1)
{
    double p = 0, f = 0;
    for (size_t i = 0; i < d; i++) {
        p += fabs(ptc[i]);
        f += fabs(ftc[i]);
    }
    if (ptc_l1) *ptc_l1 = p;
    if (ftc_l1) *ftc_l1 = f;
    return p + f > 0 ? f / (p + f) : 0;
}

static void end_prompt(struct tuco *t)
{
    struct tuco_score *score = &t->score[t->at];
    size_t d = arch_of(t)->d_model, n = t->in[t->at].n, rows = n - first_reported(t);
    const double *p = t->ptc + (rows - 1) * d, *f = t->ftc + (rows - 1) * d;
    const float *x = t->x + (n - 1) * d;
    double off = 0, top = 0;
    score->tuco = tuco_ratio(p, f, d, &score->ptc, &score->ftc);
    for (size_t i = 0; i < d; i++) {
        off = fmax(off, fabs(t->start[i] + p[i] + f[i] - (double)x[i]));
        top = fmax(top, fabs((double)x[i]));
    }
    score->check = top > 0 ? off / top : off;
    for (size_t r = 0; score->position && r < n; r++)
        score->position[r] = tuco_ratio(t->ptc + r * d, t->ftc + r * d, d, NULL, NULL);
    drop_prompt(t);
    t->at++;
}

static bool evaluate_rows(struct tuco *t, bool same, struct session *s, struct err *e)
{
    size_t d = arch_of(t)->d_model, at = (size_t)t->row * d;
    if (!same) {
        memcpy(t->y + at, t->x + at, step_rows(t) * d * sizeof *t->y);
        if (!evaluate(t, t->against, t->y, t->add + 2, t->kv_against, s, e)) return false;
    }
    return evaluate(t, t->view, t->x, t->add, t->kv, s, e);
}

enum step tuco_step(struct tuco *t, struct session *s, struct err *e)
{
    if (t->at == t->n) return STEP_DONE;
    if (!t->x && !begin_prompt(t, s, e)) return STEP_FAIL;
    if (t->row == 0 && !begin_layer(t, e)) return STEP_FAIL;
    bool same = view_same_layer(t->view, t->against, t->layer);
    if (!evaluate_rows(t, same, s, e)) return STEP_FAIL;
    t->row += step_rows(t);
    if (t->row < t->in[t->at].n) return STEP_MORE;
    t->row = 0;
    accumulate(t, same);
    t->done++;
    if (++t->layer == arch_of(t)->n_layers) end_prompt(t);
    return t->at < t->n ? STEP_MORE : STEP_DONE;
}

void tuco_progress(const struct tuco *t, size_t *done, size_t *total)
{
    *done = t->done;
    *total = t->total;
}

const struct tuco_score *tuco_result(const struct tuco *t, size_t i) { return &t->score[i]; }
