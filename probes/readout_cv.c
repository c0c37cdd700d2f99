#include "readout_cv.h"

#include <math.h>
#include <string.h>

#include "core/base/random.h"
#include "stats.h"

/* ---- the split ----------------------------------------------------------------------------------- */

struct groups {
    size_t n;
    size_t *first, *row; /* rows of group g: row[first[g] … first[g + 1]) */
    size_t *order;       /* shuffled, then by label */
    uint32_t *label;     /* most of its rows have it */
};

static void groups_release(struct groups *g)
{
    mem_drop(g->first);
    mem_drop(g->row);
    mem_drop(g->order);
    mem_drop(g->label);
}

static bool groups_find(struct groups *g, const struct readout_split *s, const uint32_t *group, struct err *e)
{
    for (size_t i = 0; i < s->n; i++) {
        size_t at = group ? group[i] : i;
        if (at >= g->n) g->n = at + 1;
    }
    g->first = mem_take(g->n + 2, sizeof *g->first, e);
    g->row = g->first ? mem_take(s->n + 1, sizeof *g->row, e) : NULL;
    g->order = g->row ? mem_take(g->n + 1, sizeof *g->order, e) : NULL;
    g->label = g->order ? mem_take(g->n + 1, sizeof *g->label, e) : NULL;
    if (!g->label) return false;
    for (size_t i = 0; i < s->n; i++) g->first[(group ? group[i] : i) + 2]++;
    for (size_t k = 0; k < g->n; k++) g->first[k + 2] += g->first[k + 1];
    for (size_t i = 0; i < s->n; i++) g->row[g->first[(group ? group[i] : i) + 1]++] = i;
    for (size_t k = 0; k < g->n; k++) {
        uint32_t count[READOUT_CLASSES] = {0};
        for (size_t i = g->first[k]; i < g->first[k + 1]; i++) count[s->label[g->row[i]]]++;
        for (uint32_t c = 1; c < s->classes; c++)
            if (count[c] > count[g->label[k]]) g->label[k] = c;
        g->order[k] = k;
    }
    return true;
}

static void deal(struct readout_split *s, struct groups *g, struct random *rng)
{
    size_t at = 0;
    random_shuffle(rng, g->order, g->n);
    for (uint32_t c = 0; c < s->classes; c++)
        for (size_t k = 0; k < g->n; k++) {
            size_t one = g->order[k];
            if (g->label[one] != c || g->first[one] == g->first[one + 1]) continue;
            for (size_t i = g->first[one]; i < g->first[one + 1]; i++) s->fold[g->row[i]] = (uint32_t)(at % s->folds);
            at++;
        }
}

/* Group k is given the labels of another, in an order that is drawn. */
static bool permute(struct readout_split *s, struct groups *g, struct random *rng, struct err *e)
{
    size_t *mix = mem_take(s->n + 1, sizeof *mix, e);
    if (!mix) return false;
    for (size_t k = 0; k < g->n; k++) g->order[k] = k;
    random_shuffle(rng, g->order, g->n);
    for (size_t k = 0; k < g->n; k++) {
        size_t from = g->first[g->order[k]], size = g->first[g->order[k] + 1] - from;
        for (size_t i = 0; i < size; i++) mix[i] = i;
        random_shuffle(rng, mix, size);
        for (size_t i = g->first[k]; size && i < g->first[k + 1]; i++)
            s->control[g->row[i]] = s->label[g->row[from + mix[(i - g->first[k]) % size]]];
    }
    mem_drop(mix);
    return true;
}

bool readout_split(struct readout_split *s, const uint32_t *label, uint32_t classes, const uint32_t *group, size_t n, uint32_t folds,
                   uint64_t seed, struct err *e)
{
    struct groups g = {0};
    struct random rng;
    size_t there = 0, count[READOUT_CLASSES] = {0};
    *s = (struct readout_split){.n = n, .classes = classes, .folds = folds, .label = label};
    s->fold = mem_take(n + 1, sizeof *s->fold, e);
    s->control = s->fold ? mem_take(n + 1, sizeof *s->control, e) : NULL;
    bool ok = s->control && groups_find(&g, s, group, e);
    for (size_t k = 0; ok && k < g.n; k++) there += g.first[k + 1] > g.first[k];
    if (ok && there < folds)
        ok = err_field(e, ERR_UNPROCESSABLE, "folds", "%zu groups cannot be dealt to %u folds; a group lies in one fold whole", there, folds);
    if (ok) {
        random_init(&rng, seed);
        deal(s, &g, &rng);
        ok = permute(s, &g, &rng, e);
    }
    for (size_t i = 0; ok && i < n; i++) {
        count[label[i]]++;
        s->majority = fmax(s->majority, (double)count[label[i]] / (double)n);
    }
    groups_release(&g);
    if (!ok) readout_split_release(s);
    return ok;
}

void readout_split_release(struct readout_split *s)
{
    mem_drop(s->fold);
    mem_drop(s->control);
    s->fold = s->control = NULL;
}

/* ---- cross-validation ------------------------------------------------------------------------------ */

struct readout_cv {
    const struct readout_spec *spec;
    const struct readout_split *split;
    const float *x;
    size_t ld, d;
    uint32_t next;        /* fit: fold · 2 + (control ? 1 : 0) */
    struct readout_fit *fit;
    uint32_t *row;        /* [n] training rows, then those tested */
    size_t n_train;
    double *score;        /* [classes][n] of the tested rows */
    bool *member;
    double accuracy[2][READOUT_FOLDS], auroc[READOUT_FOLDS], loss[READOUT_FOLDS];
    struct readout_scores out;
};

void readout_cv_plan(const struct readout_spec *spec, size_t n, size_t d, uint32_t classes, struct plan *p)
{
    readout_plan(spec, n, d, classes, p);
    plan_add(p, NEED_TRAINING, plan_times(n + 1, (classes + 4) * sizeof(double)));
}

struct readout_cv *readout_cv_new(const struct readout_spec *spec, const struct readout_split *split, const float *x, size_t ld,
                                  size_t d, struct err *e)
{
    struct readout_cv *c = mem_new(sizeof *c);
    *c = (struct readout_cv){.spec = spec, .split = split, .x = x, .ld = ld, .d = d};
    c->row = mem_take(split->n + 1, sizeof *c->row, e);
    c->score = c->row ? mem_take((split->n + 1) * split->classes, sizeof *c->score, e) : NULL;
    c->member = c->score ? mem_take(split->n + 1, sizeof *c->member, e) : NULL;
    if (c->member) return c;
    readout_cv_free(c);
    return NULL;
}

void readout_cv_free(struct readout_cv *c)
{
    if (!c) return;
    readout_fit_free(c->fit);
    mem_drop(c->row);
    mem_drop(c->score);
    mem_drop(c->member);
    mem_drop(c);
}

static bool begin(struct readout_cv *c, struct err *e)
{
    const struct readout_split *s = c->split;
    size_t n = 0;
    for (int test = 0; test < 2; test++) {
        for (uint32_t i = 0; i < s->n; i++)
            if ((s->fold[i] == c->next / 2) == (test == 1)) c->row[n++] = i;
        if (!test) c->n_train = n;
    }
    const struct readout_data data = {.x = c->x, .ld = c->ld, .d = c->d, .label = c->next % 2 ? s->control : s->label,
                                      .classes = s->classes, .row = c->row, .n = c->n_train};
    c->fit = readout_fit_new(c->spec, &data, e);
    return c->fit != NULL;
}

/* Of the classes that are there; of two, the area of class 1. */
static bool areas(struct readout_cv *c, size_t n, double *out, struct err *e)
{
    const struct readout_split *s = c->split;
    double sum = 0;
    uint32_t there = 0;
    for (uint32_t k = s->classes == 2; k < s->classes; k++) {
        double one;
        for (size_t i = 0; i < n; i++) c->member[i] = s->label[c->row[c->n_train + i]] == k;
        if (!stats_auc(c->score + k * s->n, c->member, n, &one, e)) return false;
        if (isnan(one)) continue;
        sum += one;
        there++;
    }
    *out = there ? sum / there : (double)NAN;
    return true;
}

static bool test(struct readout_cv *c, const struct readout *r, struct err *e)
{
    const struct readout_split *s = c->split;
    const bool control = c->next % 2;
    const uint32_t fold = c->next / 2, *label = control ? s->control : s->label;
    size_t n = s->n - c->n_train, right = 0;
    double loss = 0, score[READOUT_CLASSES], p[READOUT_CLASSES];
    for (size_t i = 0; i < n; i++) {
        uint32_t row = c->row[c->n_train + i];
        readout_score(r, c->x + row * c->ld, score);
        right += readout_label(r, score) == label[row];
        readout_prob(r, score, p);
        loss -= log(fmax(p[label[row]], 1e-300)) / (double)n;
        for (uint32_t k = 0; k < s->classes; k++) /* one against the rest: logits of several are no scale, p is */
            c->score[k * s->n + i] = r->outputs == 1 ? score[0] : readout_likely(c->spec) ? p[k] : score[k];
    }
    c->out.unconverged += !r->converged;
    c->accuracy[control][fold] = (double)right / (double)n;
    if (control) return true;
    c->loss[fold] = readout_likely(c->spec) ? loss : (double)NAN;
    return areas(c, n, &c->auroc[fold], e);
}

static void mean(const double *x, uint32_t folds, double *m, double *se)
{
    double sum = 0, square = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < folds; i++)
        if (!isnan(x[i])) sum += x[i], n++;
    *m = n ? sum / n : (double)NAN;
    for (uint32_t i = 0; i < folds; i++)
        if (!isnan(x[i])) square += (x[i] - *m) * (x[i] - *m);
    *se = n > 1 ? sqrt(square / (n - 1) / n) : (double)NAN;
}

static void summarise(struct readout_cv *c)
{
    struct readout_scores *o = &c->out;
    const uint32_t folds = c->split->folds;
    mean(c->accuracy[0], folds, &o->accuracy, &o->accuracy_se);
    mean(c->accuracy[1], folds, &o->control, &o->control_se);
    mean(c->auroc, folds, &o->auroc, &o->auroc_se);
    mean(c->loss, folds, &o->log_loss, &o->log_loss_se);
    o->selectivity = o->accuracy - o->control;
    memcpy(o->fold, c->accuracy[0], sizeof o->fold);
}

enum step readout_cv_step(struct readout_cv *c, struct session *s, struct err *e)
{
    if (!c->fit && !begin(c, e)) return STEP_FAIL;
    enum step step = readout_fit_step(c->fit, s, e);
    if (step != STEP_DONE) return step;
    struct readout *r = readout_take(c->fit);
    readout_fit_free(c->fit);
    c->fit = NULL;
    bool ok = test(c, r, e);
    readout_free(r);
    if (!ok) return STEP_FAIL;
    if (++c->next < 2 * c->split->folds) return STEP_MORE;
    summarise(c);
    return STEP_DONE;
}

const struct readout_scores *readout_cv_scores(const struct readout_cv *c) { return &c->out; }

/* ---- head by head ---------------------------------------------------------------------------------- */

enum step linear_probe_step(struct linear_probe *p, struct session *s, struct err *e)
{
    size_t ld = (size_t)p->heads * p->width;
    if (p->next == p->heads) return STEP_DONE;
    if (!p->cv) p->cv = readout_cv_new(p->spec, p->split, p->x + (size_t)p->next * p->width, ld, p->width, e);
    enum step step = p->cv ? readout_cv_step(p->cv, s, e) : STEP_FAIL;
    if (step != STEP_DONE) return step;
    p->score[p->next++] = *readout_cv_scores(p->cv);
    linear_probe_release(p);
    return p->next == p->heads ? STEP_DONE : STEP_MORE;
}

void linear_probe_release(struct linear_probe *p)
{
    readout_cv_free(p->cv);
    p->cv = NULL;
}
