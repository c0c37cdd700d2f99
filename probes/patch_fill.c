#include "patch_fill.h"

#include <math.h>

#include "core/base/random.h"

bool patch_fills(const struct patch_request *q) { return q->from == PATCH_FROM_NOISE || q->from == PATCH_FROM_SUBSPACE; }

/* ---- a subspace ---------------------------------------------------------------------------------- */

static double dot(const float *x, const float *y, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * (double)y[i];
    return sum;
}

static void take_out(float *x, const float *unit, size_t w)
{
    const double along = dot(x, unit, w);
    for (size_t i = 0; i < w; i++) x[i] = (float)((double)x[i] - along * (double)unit[i]);
}

bool patch_orthonormal(float *rows, size_t n, size_t w)
{
    for (size_t i = 0; i < n; i++) {
        float *x = rows + i * w;
        const double before = sqrt(dot(x, x, w));
        for (int twice = 0; twice < 2; twice++)
            for (size_t k = 0; k < i; k++) take_out(x, rows + k * w, w);
        const double left = sqrt(dot(x, x, w));
        if (!(left > 1e-5 * before)) return false;
        for (size_t j = 0; j < w; j++) x[j] = (float)((double)x[j] / left);
    }
    return true;
}

/* x ← base + Σ_k ⟨x − base, b_k⟩ b_k, of one head at one position; room [w]. */
static void project(const struct patch_request *q, size_t w, const float *base, float *x, double *room)
{
    for (size_t i = 0; i < w; i++) {
        x[i] -= base[i];
        room[i] = (double)base[i];
    }
    for (size_t k = 0; k < q->n_basis; k++) {
        const float *unit = q->basis + k * w;
        const double along = dot(x, unit, w);
        for (size_t i = 0; i < w; i++) room[i] += along * (double)unit[i];
    }
    for (size_t i = 0; i < w; i++) x[i] = (float)room[i];
}

/* ---- noise --------------------------------------------------------------------------------------- */

static double deviation(const float *x, size_t n)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i];
    for (size_t i = 0; i < n; i++) squares += ((double)x[i] - sum / (double)n) * ((double)x[i] - sum / (double)n);
    return sqrt(squares / (double)n);
}

static void fill_noise(const struct patch_request *q, const float *base, float *x, size_t values, uint64_t stream)
{
    const double sd = q->noise * deviation(base, values);
    struct random random;
    random_init(&random, q->seed ^ (stream * 0x9e3779b97f4a7c15u));
    for (size_t i = 0; i < values; i++) x[i] = (float)((double)base[i] + sd * random_normal(&random));
}

/* ---- all of them ----------------------------------------------------------------------------------- */

bool patch_fill(const struct patch_request *q, struct patch_runs *runs, size_t pair, struct err *e)
{
    const struct arch *a = &view_model(q->view)->arch;
    const size_t w = hook_width(a, q->site), values = w * hook_heads(a, q->site) * patch_used(&q->pair[pair]);
    double *room = mem_take(w, sizeof *room, e);
    for (uint32_t l = 0; room && l < a->n_layers; l++) {
        const struct site site = {q->site, l};
        const float *base = patch_runs_values(runs, pair, PATCH_BASE, site);
        float *x = patch_runs_edit(runs, pair, PATCH_SOURCE, site);
        if (q->from == PATCH_FROM_NOISE) fill_noise(q, base, x, values, 1 + pair * a->n_layers + l);
        for (size_t at = 0; q->from == PATCH_FROM_SUBSPACE && at < values; at += w) project(q, w, base + at, x + at, room);
    }
    mem_drop(room);
    return room != NULL;
}
