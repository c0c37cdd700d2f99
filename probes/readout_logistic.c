/* L2 logistic regression by L-BFGS (Nocedal & Wright 2006, algorithm 7.5), float64. The problem is convex: a step that
 * lowers the loss enough (Armijo) is taken, and pairs without curvature are not kept. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "core/kernel/blas.h"
#include "readout_int.h"

enum { KEPT = 10, MOST_ITERATIONS = 2000 };
static const double TOLERANCE = 1e-6;

struct lbfgs {
    size_t size, n_kept, next;   /* parameters: W [outputs][d], b [outputs] */
    double *x, *g, *step, *trial, *trial_g;
    double *s, *y, rho[KEPT];    /* [KEPT][size] */
    double *score, loss;         /* [n][outputs] */
    uint32_t iterations;
    double *all;                 /* what these lie in */
};

void logistic_free(struct lbfgs *l)
{
    if (l) mem_drop(l->all);
    mem_drop(l);
}

static double dot(const double *a, const double *b, size_t n)
{
    double s[4] = {0};
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (size_t k = 0; k < 4; k++) s[k] += a[i + k] * b[i + k];
    for (; i < n; i++) s[0] += a[i] * b[i];
    return (s[0] + s[1]) + (s[2] + s[3]);
}

static void add(double *y, double c, const double *x, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] += c * x[i];
}

double readout_loss(double *score, size_t n, uint32_t outputs, const uint32_t *y, double *l)
{
    double loss = 0, share = 1 / (double)n;
    for (size_t k = 0; k < n; k++) {
        double *s = score + k * outputs, most = s[0], sum = 0;
        if (outputs == 1) { /* log(1 + exp(∓s)), without overflow */
            double t = y[k] ? -s[0] : s[0];
            loss += (fmax(t, 0) + log1p(exp(-fabs(t)))) * share;
            s[0] = (1 / (1 + exp(-s[0])) - (y[k] ? 1 : 0)) * share;
            continue;
        }
        for (uint32_t c = 1; c < outputs; c++) most = fmax(most, s[c]);
        for (uint32_t c = 0; c < outputs; c++) sum += exp(s[c] - most);
        loss += (most + log(sum) - s[y[k]]) * share;
        for (uint32_t c = 0; c < outputs; c++) s[c] = (exp(s[c] - most) / sum - (c == y[k] ? 1 : 0)) * share;
    }
    if (l) *l = loss;
    return loss;
}

/* The loss at x and its gradient. */
static double evaluate(const struct readout_fit *f, struct lbfgs *l, const double *z, size_t d, const double *x, double *g)
{
    const uint32_t outputs = f->out->outputs;
    const double lambda = f->spec.lambda;
    size_t weights = outputs * d;
    gemm64(false, true, f->n, outputs, d, z, d, x, d, l->score, outputs);
    for (size_t k = 0; k < f->n; k++)
        for (uint32_t c = 0; c < outputs; c++) l->score[k * outputs + c] += x[weights + c];
    double loss = readout_loss(l->score, f->n, outputs, f->y, NULL) + lambda / 2 * dot(x, x, weights);
    gemm64(true, false, outputs, d, f->n, l->score, outputs, z, d, g, d);
    add(g, lambda, x, weights);
    memset(g + weights, 0, outputs * sizeof *g);
    for (size_t k = 0; k < f->n; k++)
        for (uint32_t c = 0; c < outputs; c++) g[weights + c] += l->score[k * outputs + c];
    return loss;
}

static struct lbfgs *begin(struct readout_fit *f, const double *z, size_t d, struct err *e)
{
    struct lbfgs *l = mem_new(sizeof *l);
    l->size = f->out->outputs * (d + 1);
    l->all = mem_take(l->size * (5 + 2 * KEPT) + f->n * f->out->outputs, sizeof(double), e);
    if (!l->all) {
        mem_drop(l);
        return NULL;
    }
    double *at = l->all, **const parts[] = {&l->x, &l->g, &l->step, &l->trial, &l->trial_g};
    for (size_t i = 0; i < 5; i++, at += l->size) *parts[i] = at;
    l->s = at;
    l->y = l->s + KEPT * l->size;
    l->score = l->y + KEPT * l->size;
    l->loss = evaluate(f, l, z, d, l->x, l->g);
    return l;
}

/* −H·g by the two loops. */
static void direction(struct lbfgs *l)
{
    double alpha[KEPT];
    for (size_t i = 0; i < l->size; i++) l->step[i] = -l->g[i];
    for (size_t k = 0; k < l->n_kept; k++) {
        size_t j = (l->next + KEPT - 1 - k) % KEPT;
        alpha[j] = l->rho[j] * dot(l->s + j * l->size, l->step, l->size);
        add(l->step, -alpha[j], l->y + j * l->size, l->size);
    }
    if (l->n_kept) {
        size_t j = (l->next + KEPT - 1) % KEPT;
        const double *y = l->y + j * l->size, c = 1 / (l->rho[j] * dot(y, y, l->size));
        for (size_t i = 0; i < l->size; i++) l->step[i] *= c;
    }
    for (size_t k = l->n_kept; k-- > 0;) {
        size_t j = (l->next + KEPT - 1 - k) % KEPT;
        add(l->step, alpha[j] - l->rho[j] * dot(l->y + j * l->size, l->step, l->size), l->s + j * l->size, l->size);
    }
}

static void keep(struct lbfgs *l)
{
    double *s = l->s + l->next * l->size, *y = l->y + l->next * l->size;
    for (size_t i = 0; i < l->size; i++) {
        s[i] = l->trial[i] - l->x[i];
        y[i] = l->trial_g[i] - l->g[i];
    }
    double sy = dot(s, y, l->size);
    if (!(sy > DBL_EPSILON * dot(y, y, l->size))) return;
    l->rho[l->next] = 1 / sy;
    l->next = (l->next + 1) % KEPT;
    if (l->n_kept < KEPT) l->n_kept++;
}

/* False when no step lowers the loss any more: what float64 can tell is used up. */
static bool iterate(const struct readout_fit *f, struct lbfgs *l, const double *z, size_t d)
{
    direction(l);
    double slope = dot(l->g, l->step, l->size), t = l->n_kept ? 1 : fmin(1, 1 / sqrt(dot(l->g, l->g, l->size)));
    for (int tries = 0; tries < 40; tries++, t /= 2) {
        for (size_t i = 0; i < l->size; i++) l->trial[i] = l->x[i] + t * l->step[i];
        double loss = evaluate(f, l, z, d, l->trial, l->trial_g);
        if (!(loss <= l->loss + 1e-4 * t * slope + 4 * DBL_EPSILON * fabs(l->loss))) continue;
        keep(l);
        memcpy(l->x, l->trial, l->size * sizeof *l->x);
        memcpy(l->g, l->trial_g, l->size * sizeof *l->g);
        l->loss = loss;
        return true;
    }
    return false;
}

enum step logistic_step(struct readout_fit *f, const double *z, size_t d, double *w, double *b, struct err *e)
{
    if (!f->lbfgs) f->lbfgs = begin(f, z, d, e);
    struct lbfgs *l = f->lbfgs;
    struct readout *r = f->out;
    if (!l) return STEP_FAIL;
    bool on = true;
    for (size_t left = readout_passes(f->n, d, r->outputs);; left--) {
        r->gradient = sqrt(dot(l->g, l->g, l->size));
        r->converged = r->gradient <= TOLERANCE;
        if (r->converged || !on || l->iterations == MOST_ITERATIONS) break;
        if (!left) return STEP_MORE;
        on = iterate(f, l, z, d);
        l->iterations++;
    }
    r->passes = l->iterations;
    memcpy(w, l->x, r->outputs * d * sizeof *w);
    memcpy(b, l->x + r->outputs * d, r->outputs * sizeof *b);
    return STEP_DONE;
}
