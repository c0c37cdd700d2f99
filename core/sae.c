#include "sae.h"

#include <math.h>
#include <string.h>

#include "core/kernel/blas.h"

/* ---- a row before and behind --------------------------------------------------------------------- */

struct frame { /* of one row: z = (x − mean)·in, x̂ = y·out + mean */
    float mean, in, out;
};

static struct frame frame_of(const struct sae *s, const float *x)
{
    const uint32_t d = s->cfg.width;
    double mean = 0, square = 0;
    if (s->cfg.norm == SAE_NORM_NONE) return (struct frame){0, 1, 1};
    for (uint32_t i = 0; s->cfg.norm == SAE_NORM_LAYER && i < d; i++) mean += (double)x[i] / d;
    for (uint32_t i = 0; i < d; i++) square += ((double)x[i] - mean) * ((double)x[i] - mean);
    if (s->cfg.norm == SAE_NORM_CONSTANT) {
        double scale = sqrt(d) / sqrt(square);
        return (struct frame){0, (float)scale, (float)(1 / scale)};
    }
    double deviation = sqrt(square / (d > 1 ? d - 1 : 1));
    return (struct frame){(float)mean, (float)(1 / (deviation + 1e-5)), (float)deviation};
}

static void enter(const struct sae *s, const float *x, float *z)
{
    struct frame f = frame_of(s, x);
    for (uint32_t i = 0; i < s->cfg.width; i++) z[i] = (x[i] - f.mean) * f.in - (s->cfg.centred ? s->b_dec[i] : 0);
}

/* ---- activation functions: u becomes a ----------------------------------------------------------- */

static void relu(const struct sae *s, float *u, float *spare)
{
    (void)spare;
    for (uint32_t i = 0; i < s->cfg.features; i++) u[i] = fmaxf(0, u[i] + s->b_enc[i]);
}

static void jump(const struct sae *s, float *u, float *spare)
{
    (void)spare;
    for (uint32_t i = 0; i < s->cfg.features; i++) {
        float h = u[i] + s->b_enc[i];
        u[i] = h > s->threshold[i] ? fmaxf(0, h) : 0;
    }
}

static void gate(const struct sae *s, float *u, float *spare)
{
    (void)spare;
    for (uint32_t i = 0; i < s->cfg.features; i++)
        u[i] = u[i] + s->b_gate[i] > 0 ? fmaxf(0, expf(s->r_mag[i]) * u[i] + s->b_mag[i]) : 0;
}

/* The number-th largest, 1 the largest; v loses its order. Hoare's selection. */
static float largest(float *v, size_t n, size_t number)
{
    size_t low = 0, high = n - 1, want = number - 1;
    while (low < high) {
        float middle = v[(low + high) / 2];
        size_t i = low, j = high;
        while (i <= j) {
            while (v[i] > middle) i++;
            while (v[j] < middle) j--;
            if (i > j) break;
            float x = v[i];
            v[i++] = v[j];
            v[j] = x;
            if (!j--) break;
        }
        if (want <= j && j != SIZE_MAX) high = j;
        else if (want >= i) low = i;
        else break;
    }
    return v[want];
}

static void top_k(const struct sae *s, float *u, float *spare)
{
    const uint32_t k = s->cfg.features;
    size_t room = s->cfg.top;
    for (uint32_t i = 0; i < k; i++) {
        u[i] += s->b_enc[i];
        spare[i] = isnan(u[i]) ? -INFINITY : u[i]; /* an order must exist */
    }
    float least = largest(spare, k, s->cfg.top);
    for (uint32_t i = 0; i < k; i++) room -= u[i] > least;
    for (uint32_t i = 0; i < k; i++) {
        bool tied = u[i] == least && room > 0, in = u[i] > least || tied || isnan(u[i]);
        room -= tied;
        u[i] = in ? (u[i] < 0 ? 0 : u[i]) : 0;
    }
}

static void activate(const struct sae *s, float *u, float *spare)
{
    static void (*const by_kind[])(const struct sae *, float *, float *) = {
#define SAE_KIND(name, word, activation) activation,
#include "sae.def"
    };
    by_kind[s->cfg.kind](s, u, spare);
}

/* ---- rows ---------------------------------------------------------------------------------------- */

size_t sae_work(const struct sae_cfg *c, size_t m) { return m * c->width + c->features; }

void sae_encode(const struct sae *s, size_t m, const float *x, size_t ldx, float *work, float *a)
{
    const size_t d = s->cfg.width, k = s->cfg.features;
    float *spare = work + m * d;
    for (size_t r = 0; r < m; r++) enter(s, x + r * ldx, work + r * d);
    gemm_nn(m, k, d, work, d, s->w_enc, k, a, k, 1, false);
    for (size_t r = 0; r < m; r++) activate(s, a + r * k, spare);
}

/* Few activations are not zero: their rows alone are added up. */
void sae_decode(const struct sae *s, size_t m, const float *x, size_t ldx, const float *a, float *y)
{
    const size_t d = s->cfg.width, k = s->cfg.features;
    for (size_t r = 0; r < m; r++) {
        float *out = y + r * d;
        struct frame f = frame_of(s, x + r * ldx);
        memcpy(out, s->b_dec, d * sizeof *out);
        for (size_t i = 0; i < k; i++) {
            const float by = a[r * k + i], *row = s->w_dec + i * d;
            if (by == 0) continue;
            for (size_t j = 0; j < d; j++) out[j] += by * row[j];
        }
        for (size_t j = 0; j < d; j++) out[j] = out[j] * f.out + f.mean;
    }
}

/* ---- one feature --------------------------------------------------------------------------------- */

/* Of topk it depends on all others; of the rest on a column of W_enc alone. */
float sae_activation(const struct sae *s, uint32_t feature, const float *x, float *work)
{
    const size_t d = s->cfg.width, k = s->cfg.features;
    if (s->cfg.kind == SAE_TOPK) {
        float *a = work + sae_work(&s->cfg, 1);
        sae_encode(s, 1, x, d, work, a);
        return a[feature];
    }
    struct sae one = *s; /* as if it were the only feature */
    double u = 0;
    enter(s, x, work);
    for (size_t i = 0; i < d; i++) u += (double)work[i] * (double)s->w_enc[i * k + feature];
    float a = (float)u;
    one.cfg.features = 1;
    const size_t width = 0, features = 1; /* so that vectors of features, and only they, move on */
#define SAE_TENSOR(field, name, rows, cols, kinds) \
    if (one.field && (rows) == 1 && (cols) == 1) one.field += feature;
#include "sae.def"
    (void)width, (void)features;
    activate(&one, &a, NULL);
    return a;
}

float sae_add(const struct sae *s, uint32_t feature, float by, float *x)
{
    const uint32_t d = s->cfg.width;
    const float scale = by * frame_of(s, x).out, *row = s->w_dec + (size_t)feature * d;
    float most = 0;
    for (uint32_t i = 0; i < d; i++) {
        float old = x[i];
        x[i] += scale * row[i];
        float moved = fabsf(x[i] - old);
        if (moved > most || isnan(moved)) most = moved;
    }
    return most;
}
