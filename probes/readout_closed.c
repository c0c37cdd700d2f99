/* Closed forms. With more features than rows and λ > 0 the system is solved among the rows:
 *     (ZᵀZ + cI)⁻¹ = (I − Zᵀ(ZZᵀ + cI)⁻¹Z) / c                                         (Woodbury) */
#include <math.h>
#include <string.h>

#include "core/kernel/blas.h"
#include "readout_int.h"

static bool singular(struct err *e)
{
    return err_field(e, ERR_UNPROCESSABLE, "params.lambda", "the covariance of the features is singular at this lambda; a larger one is "
                     "needed");
}

/* x [k][d] ← (ZᵀZ + cI)⁻¹ · x */
static bool solve(const double *z, size_t n, size_t d, double c, size_t k, double *x, struct err *e)
{
    bool dual = n < d && c > 0, ok;
    size_t side = dual ? n : d;
    double *gram = mem_take(side * side + 1, sizeof *gram, e), *t = gram ? mem_take(k * (n + d) + 1, sizeof *t, e) : NULL;
    if (!t) {
        mem_drop(gram);
        return false;
    }
    gemm64(!dual, dual, side, side, dual ? d : n, z, d, z, d, gram, side);
    double most = 0;
    for (size_t i = 0; i < side; i++) most = fmax(most, gram[i * side + i] += c);
    if (dual) {
        double *back = t + k * n;
        gemm64(false, true, k, n, d, x, d, z, d, t, n);
        ok = solve64(n, gram, k, t);
        gemm64(false, false, k, d, n, t, n, z, d, back, d);
        for (size_t i = 0; ok && i < k * d; i++) x[i] = (x[i] - back[i]) / c;
    } else {
        ok = solve64(d, gram, k, x);
        for (size_t i = 0; ok && i < d; i++) ok = gram[i * d + i] * gram[i * d + i] > 1e-13 * most; /* pivots */
    }
    mem_drop(gram);
    mem_drop(t);
    return ok || singular(e);
}

/* What is fitted: one-hot less its mean, or ±1 less its mean. */
static void targets(const struct readout_fit *f, double *y, double *mean)
{
    const uint32_t outputs = f->out->outputs;
    for (size_t k = 0; k < f->n; k++)
        for (uint32_t c = 0; c < outputs; c++) {
            double v = outputs == 1 ? (f->y[k] ? 1 : -1) : f->y[k] == c;
            y[k * outputs + c] = v;
            mean[c] += v / (double)f->n;
        }
}

/* Features less their mean: of raw ones the intercept's share is taken out so. */
static void centre(double *z, size_t n, size_t d, double *mean)
{
    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < d; i++) mean[i] += z[k * d + i] / (double)n;
    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < d; i++) z[k * d + i] -= mean[i];
}

bool ridge_fit(struct readout_fit *f, struct err *e)
{
    struct readout *r = f->out;
    double *y = mem_take(f->n * r->outputs, sizeof *y, e), *mean = y ? mem_take(f->d, sizeof *mean, e) : NULL;
    if (!mean) {
        mem_drop(y);
        return false;
    }
    centre(f->z, f->n, f->d, mean);
    targets(f, y, r->b);
    for (size_t k = 0; k < f->n; k++)
        for (uint32_t c = 0; c < r->outputs; c++) y[k * r->outputs + c] -= r->b[c];
    gemm64(true, false, r->outputs, f->d, f->n, y, r->outputs, f->z, f->d, r->w, f->d);
    bool ok = solve(f->z, f->n, f->d, f->spec.lambda * (double)f->n, r->outputs, r->w, e);
    for (uint32_t c = 0; ok && c < r->outputs; c++)
        for (size_t i = 0; i < f->d; i++) r->b[c] -= r->w[c * f->d + i] * mean[i];
    mem_drop(y);
    mem_drop(mean);
    return ok;
}

/* mu [classes][d]; z becomes what is left of each row without its class's mean. */
static void class_means(struct readout_fit *f, double *mu)
{
    for (size_t k = 0; k < f->n; k++)
        for (size_t i = 0; i < f->d; i++) mu[f->y[k] * f->d + i] += f->z[k * f->d + i] / f->count[f->y[k]];
    for (size_t k = 0; k < f->n; k++)
        for (size_t i = 0; i < f->d; i++) f->z[k * f->d + i] -= mu[f->y[k] * f->d + i];
}

bool mass_mean_fit(struct readout_fit *f, struct err *e)
{
    struct readout *r = f->out;
    const size_t d = f->d;
    const uint32_t C = r->classes;
    double *mu = mem_take(C * d, sizeof *mu, e), *w = mu ? mem_take(C * d, sizeof *w, e) : NULL, bias[READOUT_CLASSES];
    bool ok = w != NULL;
    if (ok) class_means(f, mu);
    if (ok) memcpy(w, mu, C * d * sizeof *w);
    if (ok && f->spec.whiten) {
        ok = solve(f->z, f->n, d, f->spec.lambda * (double)f->n, C, w, e);
        for (size_t i = 0; ok && i < C * d; i++) w[i] *= (double)f->n; /* Σ is ZᵀZ/n */
    }
    for (uint32_t c = 0; ok && c < C; c++) {
        bias[c] = f->spec.whiten ? log(f->count[c] / (double)f->n) : 0;
        for (size_t i = 0; i < d; i++) bias[c] -= w[c * d + i] * mu[c * d + i] / 2;
    }
    if (ok && r->outputs == 1) {
        for (size_t i = 0; i < d; i++) r->w[i] = w[d + i] - w[i];
        r->b[0] = bias[1] - bias[0];
    } else if (ok) {
        memcpy(r->w, w, C * d * sizeof *w);
        memcpy(r->b, bias, C * sizeof *bias);
    }
    mem_drop(mu);
    mem_drop(w);
    return ok;
}
