#include "tuco.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/head.h"

struct tuco {
    struct view *view, *against;
    struct view_pair pair;
    const struct tuco_input *in;
    struct tuco_score *score;
    size_t n, at;           /* prompts, the one in hand */
    struct run *run;        /* of it: over the pair, then of against alone */
    bool second;
    uint32_t *want;         /* positions of the run; the last is among them */
    size_t n_want;
    double *ptc, *ftc;      /* [n_want][d] sums over layers */
    struct tuco_norms *sequence; /* [L] of the sums of all positions up to a layer */
    double *start;          /* [d] x_0 of the last position */
    float *final;           /* [d] x_L of the last position */
    size_t done, total;     /* rows times layers */
};

static const struct arch *arch_of(const struct tuco *t) { return &view_model(t->view)->arch; }

/* Positions a run is asked for: those of the request, and the last. */
static size_t wanted(const struct tuco_input *in)
{
    if (in->all_positions) return in->n;
    return in->n_pos + (in->n_pos == 0 || in->pos[in->n_pos - 1] != in->n - 1);
}

static size_t reported(const struct tuco_input *in) { return in->all_positions ? in->n : in->n_pos; }

void tuco_plan(const struct view *view, const struct view *against, const struct tuco_input *in, size_t n, int threads,
               struct plan *p)
{
    const struct arch *a = &view_model(view)->arch;
    const bool some = !pair_shares_all(view, against);
    struct plan most = {0};
    for (size_t i = 0; i < n; i++) {
        struct plan one = {0};
        struct run_size size = {0};
        size_t d = a->d_model;
        run_size_add(&size, 0, in[i].n, wanted(&in[i]), false);
        run_plan(&size, a, threads, &one);
        run_plan_beside(&size, a, true, some, &one);
        plan_add(&one, NEED_CAPTURES, (2 * wanted(&in[i]) + 2) * d * sizeof(double) + a->n_layers * sizeof(struct tuco_norms) + wanted(&in[i]) * sizeof(uint32_t));
        plan_peak(&most, &one);
        plan_add(p, NEED_ANSWER, (7 * (size_t)a->n_layers + reported(&in[i])) * (sizeof(double) + 64)); /* and its text */
    }
    plan_with(p, &most);
}

static void tell(void *ctx, const struct pair_terms *terms);

static bool make_score(const struct tuco *t, const struct tuco_input *in, struct tuco_score *out, struct err *e)
{
    out->n_positions = reported(in);
    out->layer = mem_take(arch_of(t)->n_layers, sizeof *out->layer, e);
    out->position = out->n_positions ? mem_take(out->n_positions, sizeof *out->position, e) : NULL;
    return out->layer && (out->position || !out->n_positions);
}

struct tuco *tuco_new(struct view *view, struct view *against, const struct tuco_input *in, size_t n,
                      struct err *e)
{
    assert(!arch_differs(&view_model(view)->arch, &view_model(against)->arch));
    struct tuco *t = mem_new(sizeof *t);
    t->view = view_retain(view);
    t->against = view_retain(against);
    t->pair = (struct view_pair){.against = against, .alpha = 1.0f, .terms = tell, .ctx = t};
    t->in = in;
    t->n = n;
    t->score = mem_take(n, sizeof *t->score, e);
    bool ok = t->score != NULL;
    for (size_t i = 0; ok && i < n; i++) {
        t->total += (size_t)arch_of(t)->n_layers * in[i].n * (in[i].output_co ? 2 : 1);
        ok = make_score(t, &in[i], &t->score[i], e);
    }
    if (ok) return t;
    tuco_free(t);
    return NULL;
}

static void drop_prompt(struct tuco *t)
{
    run_free(t->run);
    void *const parts[] = {t->want, t->ptc, t->ftc, t->sequence, t->start, t->final};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) mem_drop(parts[i]);
    t->run = NULL;
    t->want = NULL;
    t->ptc = t->ftc = t->start = NULL;
    t->sequence = NULL;
    t->final = NULL;
}

void tuco_free(struct tuco *t)
{
    if (!t) return;
    drop_prompt(t);
    for (size_t i = 0; t->score && i < t->n; i++) {
        mem_drop(t->score[i].layer);
        mem_drop(t->score[i].position);
    }
    mem_drop(t->score);
    view_drop(t->view);
    view_drop(t->against);
    mem_drop(t);
}

/* ---- one prompt ------------------------------------------------------------------------------------- */

static bool list_wanted(struct tuco *t, const struct tuco_input *in, struct err *e)
{
    t->n_want = wanted(in);
    t->want = mem_take(t->n_want, sizeof *t->want, e);
    for (size_t i = 0; t->want && i < t->n_want; i++)
        t->want[i] = in->all_positions ? (uint32_t)i : i < in->n_pos ? in->pos[i] : in->n - 1;
    return t->want != NULL;
}

/* x_0 of the last position: what P + F start from. */
static bool read_start(struct tuco *t, struct session *s, const struct tuco_input *in, struct err *e)
{
    if (!embed(s, t->view, in->ids + in->n - 1, 1, in->n - 1, NULL, 0, t->final, e)) return false;
    for (size_t i = 0; i < arch_of(t)->d_model; i++) t->start[i] = (double)t->final[i];
    return true;
}

static bool begin_run(struct tuco *t, struct view *v, const uint32_t *want, size_t n_want, struct err *e)
{
    const struct tuco_input *in = &t->in[t->at];
    const struct run_input one = {.ids = in->ids, .n = in->n, .want = want, .n_want = n_want};
    run_free(t->run);
    t->run = run_new(v, &one, 1, NULL, e);
    return t->run != NULL;
}

static bool begin_prompt(struct tuco *t, struct session *s, struct err *e)
{
    const struct tuco_input *in = &t->in[t->at];
    size_t d = arch_of(t)->d_model;
    if (!list_wanted(t, in, e)) return false;
    t->second = false;
    t->ptc = mem_take(t->n_want * d, sizeof *t->ptc, e);
    t->ftc = mem_take(t->n_want * d, sizeof *t->ftc, e);
    t->sequence = mem_take(arch_of(t)->n_layers, sizeof *t->sequence, e);
    t->start = mem_take(d, sizeof *t->start, e);
    t->final = mem_floats(d, e);
    return t->ptc && t->ftc && t->sequence && t->start && t->final && read_start(t, s, in, e) &&
           begin_run(t, t->view, t->want, t->n_want, e) && run_beside(t->run, &t->pair, e);
}

static void tell(void *ctx, const struct pair_terms *terms)
{
    struct tuco *t = ctx;
    size_t d = arch_of(t)->d_model;
    struct tuco_layer *last = &t->score[t->at].layer[terms->layer], one;
    for (size_t k = 0; k < terms->n; k++) {
        size_t at = terms->row[k].want * d;
        const struct tuco_addends in = {{terms->attn[0] + k * d, terms->attn[1] + k * d},
                                        {terms->mlp[0] + k * d, terms->mlp[1] + k * d}};
        tuco_add(&in, d, t->ptc + at, t->ftc + at, &one);
        t->sequence[terms->layer].ptc += one.sum.ptc;
        t->sequence[terms->layer].ftc += one.sum.ftc;
        if (terms->row[k].want + 1 == t->n_want) *last = one;
    }
}

static void score_prompt(struct tuco *t)
{
    struct tuco_score *score = &t->score[t->at];
    size_t d = arch_of(t)->d_model, last = t->n_want - 1;
    const double *p = t->ptc + last * d, *f = t->ftc + last * d;
    double off = 0, top = 0;
    memcpy(t->final, run_final(t->run, 0) + last * d, d * sizeof *t->final);
    score->tuco = tuco_ratio(p, f, d, &score->ptc, &score->ftc);
    for (uint32_t l = 0; l < arch_of(t)->n_layers; l++) {
        const struct tuco_norms *all = &t->sequence[l];
        score->beta_max = fmax(score->beta_max, score->layer[l].beta);
        if (t->in[t->at].all_positions && all->ptc + all->ftc > 0)
            score->sequence_beta_max = fmax(score->sequence_beta_max, all->ftc / (all->ptc + all->ftc));
    }
    for (size_t i = 0; i < d; i++) {
        off = fmax(off, fabs(t->start[i] + p[i] + f[i] - (double)t->final[i]));
        top = fmax(top, fabs((double)t->final[i]));
    }
    score->check = top > 0 ? off / top : off;
    for (size_t r = 0; r < score->n_positions; r++)
        score->position[r] = tuco_ratio(t->ptc + r * d, t->ftc + r * d, d, NULL, NULL);
}

static bool end_run(struct tuco *t, struct err *e)
{
    if (t->second) t->score[t->at].output_co = tuco_output_co(t->final, run_final(t->run, 0), arch_of(t)->d_model);
    else score_prompt(t);
    if (!t->second && t->in[t->at].output_co) {
        t->second = true;
        return begin_run(t, t->against, &t->want[t->n_want - 1], 1, e);
    }
    drop_prompt(t);
    t->at++;
    return true;
}

enum step tuco_step(struct tuco *t, struct session *s, struct err *e)
{
    if (t->at == t->n) return STEP_DONE;
    if (!t->run && !begin_prompt(t, s, e)) return STEP_FAIL;
    size_t before, after, all;
    run_progress(t->run, &before, &all);
    enum step step = run_step(t->run, s, e);
    run_progress(t->run, &after, &all);
    t->done += after - before;
    if (step != STEP_DONE) return step;
    if (!end_run(t, e)) return STEP_FAIL;
    return t->at < t->n ? STEP_MORE : STEP_DONE;
}

void tuco_progress(const struct tuco *t, size_t *done, size_t *total)
{
    *done = t->done;
    *total = t->total;
}

const struct tuco_score *tuco_result(const struct tuco *t, size_t i) { return &t->score[i]; }
