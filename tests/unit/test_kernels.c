/* Every element-wise kernel, matrix product and thread against plain float64 loops: forward by comparison,
 * backward by central differences of the loops. Widths are chosen around the vector width of 16 and away
 * from it. Attention has test_attention.c.
 *
 * Tolerances: 1e-5 of the largest value. A float32 sum of a hundred terms is off by some 1e-6;
 * a central difference in float64 with step 1e-5 by 1e-9. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/kernel/blas.h"
#include "core/kernel/mlp.h"
#include "core/kernel/norm.h"
#include "core/kernel/par.h"
#include "core/kernel/rotary.h"
#include "core/kernel/simd.h"
#include "core/kernel/softmax.h"
#include "support/golden.h"
#include "support/numbers.h"

#define CLOSE 1e-5
#define STEP 1e-5

static const uint32_t widths[] = {1, 2, 15, 16, 17, 30, 33, 48, 64};
enum { N_WIDTHS = sizeof widths / sizeof *widths, ROWS = 3 };

/* ---- norms ------------------------------------------------------------------------------------- */

struct norm_case {
    struct norm norm;
    uint32_t d;
    const float *c;
    double *x, *scale, *unit, *y; /* the norm's input, its two parts and its output */
};

/* norm.h's formulas. */
static double norm_reference(void *ctx)
{
    struct norm_case *k = ctx;
    for (uint32_t r = 0; r < ROWS; r++) {
        double *x = k->x + r * k->d, mean = 0, squares = 0;
        for (uint32_t i = 0; k->norm.kind == NORM_LAYER && i < k->d; i++) mean += x[i] / k->d;
        for (uint32_t i = 0; i < k->d; i++) squares += (x[i] - mean) * (x[i] - mean);
        k->scale[r] = sqrt(squares / k->d + (double)k->norm.eps);
        for (uint32_t i = 0; i < k->d; i++) {
            size_t at = r * k->d + i;
            k->unit[at] = (x[i] - mean) / k->scale[r];
            k->y[at] = k->unit[at] * ((double)k->norm.offset + (double)k->norm.gain[i]);
            if (k->norm.bias) k->y[at] += (double)k->norm.bias[i];
        }
    }
    return weighted(k->y, k->c, (size_t)ROWS * k->d);
}

/* Rows [ROWS][d] laid out at another stride; what lies between is 77. */
static void spread(const float *from, float *to, uint32_t d, size_t stride)
{
    for (size_t i = 0; i < ROWS * stride; i++) to[i] = 77;
    for (uint32_t r = 0; r < ROWS; r++) memcpy(to + r * stride, from + (size_t)r * d, d * sizeof *to);
}

static void gather(const float *from, float *to, uint32_t d, size_t stride)
{
    for (uint32_t r = 0; r < ROWS; r++) {
        memcpy(to + (size_t)r * d, from + r * stride, d * sizeof *to);
        for (size_t i = d; i < stride; i++) assert_true(from[r * stride + i] == 77.0f);
    }
}

static void check_norm_forward(const struct norm_case *k, const float *x, size_t n)
{
    uint32_t d = k->d;
    float *wide_x = malloc(ROWS * (d + 3) * sizeof *x), *wide_y = malloc(ROWS * (d + 5) * sizeof *x),
          *y = malloc(n * sizeof *y), *parts = malloc(n * sizeof *y), scale[ROWS];
    norm_forward(&k->norm, x, d, y, d, ROWS, d);
    check_close("norm", y, k->y, n, CLOSE, 0);

    spread(x, wide_x, d, d + 3);
    spread(x, wide_y, d, d + 5);
    norm_forward(&k->norm, wide_x, d + 3, wide_y, d + 5, ROWS, d);
    gather(wide_y, parts, d, d + 5);
    assert_memory_equal(parts, y, n * sizeof *y);
    norm_forward(&k->norm, wide_x, d + 3, wide_x, d + 3, ROWS, d);
    gather(wide_x, parts, d, d + 3);
    assert_memory_equal(parts, y, n * sizeof *y); /* in place */

    /* The parts in order are the whole, to the bit: looking at a scale changes nothing. */
    norm_scale(&k->norm, x, scale, parts, ROWS, d);
    check_close("norm's scale", scale, k->scale, ROWS, CLOSE, 0);
    norm_divide(parts, scale, parts, ROWS, d);
    check_close("normalised", parts, k->unit, n, CLOSE, 0);
    norm_finish(&k->norm, parts, parts, ROWS, d);
    assert_memory_equal(parts, y, n * sizeof *y);
    free(wide_x), free(wide_y), free(y), free(parts);
}

static void check_norm_backward(struct norm_case *k, const float *x, size_t n, uint64_t *seed, double step)
{
    uint32_t d = k->d;
    float *before = random_floats(seed, n, 1), *dx = malloc(n * sizeof *dx), *wide = malloc(ROWS * (d + 3) * sizeof *dx),
          *wide_x = malloc(ROWS * (d + 1) * sizeof *dx), *wide_c = malloc(ROWS * (d + 2) * sizeof *dx);
    double *want = zero_doubles(n), top = 0;
    for (size_t i = 0; i < n; i++) want[i] = slope(norm_reference, k, &k->x[i], step);
    norm_reference(k);
    for (size_t i = 0; i < n; i++) /* a gradient is a difference of terms of this size */
        top = fmax(top, fabs((double)k->c[i] * ((double)k->norm.offset + (double)k->norm.gain[i % d])) / k->scale[i / d]);
    memcpy(dx, before, n * sizeof *dx); /* it adds */
    for (size_t i = 0; i < n; i++) want[i] += (double)before[i];
    norm_backward(&k->norm, x, d, k->c, d, dx, d, ROWS, d);
    check_close("norm backward", dx, want, n, CLOSE, top);

    spread(x, wide_x, d, d + 1);
    spread(k->c, wide_c, d, d + 2);
    spread(before, wide, d, d + 3);
    norm_backward(&k->norm, wide_x, d + 1, wide_c, d + 2, wide, d + 3, ROWS, d);
    gather(wide, before, d, d + 3);
    assert_memory_equal(before, dx, n * sizeof *dx);

    /* dy and dx may be the same memory: then what is added to is dy. */
    memcpy(dx, k->c, n * sizeof *dx);
    for (size_t i = 0; i < n; i++) want[i] = slope(norm_reference, k, &k->x[i], step) + (double)k->c[i];
    norm_backward(&k->norm, x, d, dx, d, dx, d, ROWS, d);
    check_close("norm backward in place", dx, want, n, CLOSE, top);
    free(before), free(dx), free(wide), free(wide_x), free(wide_c), free(want);
}

static void check_norm(uint64_t *seed, enum norm_kind kind, float offset, uint32_t d, float eps, double scale, double shift)
{
    size_t n = (size_t)ROWS * d;
    float *x = random_floats(seed, n, scale), *gain = random_floats(seed, d, 2), *bias = random_floats(seed, d, 1),
          *c = random_floats(seed, n, 1);
    for (size_t i = 0; i < n; i++) x[i] += (float)shift;
    struct norm_case k = {.norm = {kind, eps, offset, gain, kind == NORM_LAYER ? bias : NULL}, .d = d, .c = c,
                          .x = widened(x, n), .scale = zero_doubles(ROWS), .unit = zero_doubles(n), .y = zero_doubles(n)};
    norm_reference(&k);
    check_norm_forward(&k, x, n);
    check_norm_backward(&k, x, n, seed, STEP * scale);
    free(x), free(gain), free(bias), free(c), free(k.x), free(k.scale), free(k.unit), free(k.y);
}

static void test_norm(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (size_t i = 0; i < N_WIDTHS; i++)
        for (int kind = NORM_RMS; kind <= NORM_LAYER; kind++)
            for (float offset = 0; offset <= 1; offset++) {
                check_norm(&seed, (enum norm_kind)kind, offset, widths[i], 1e-5f, 1, 0);
                check_norm(&seed, (enum norm_kind)kind, offset, widths[i], 1e-3f, 0.02, 0); /* eps as large as the squares */
                check_norm(&seed, (enum norm_kind)kind, offset, widths[i], 1e-6f, 300, 0);
                check_norm(&seed, (enum norm_kind)kind, offset, widths[i], 1e-2f, 1, 4); /* a mean to take away */
            }
}

/* y through the parts, as functions of the normalised values and of the scale. */
static double finish_reference(void *ctx)
{
    struct norm_case *k = ctx;
    double s = 0;
    for (size_t i = 0; i < (size_t)ROWS * k->d; i++)
        s += (double)k->c[i] * k->unit[i] * ((double)k->norm.offset + (double)k->norm.gain[i % k->d]);
    return s;
}

static double divide_reference(void *ctx)
{
    struct norm_case *k = ctx;
    double s = 0;
    for (size_t i = 0; i < (size_t)ROWS * k->d; i++) s += (double)k->c[i] * k->x[i] / k->scale[i / k->d];
    return s;
}

static void test_norm_parts_backward(void **state)
{
    (void)state;
    uint64_t seed = 21;
    for (size_t w = 0; w < N_WIDTHS; w++) {
        uint32_t d = widths[w];
        size_t n = (size_t)ROWS * d;
        float *x = random_floats(&seed, n, 1), *gain = random_floats(&seed, d, 2), *c = random_floats(&seed, n, 1),
              *got = random_floats(&seed, n, 1), scale[ROWS], d_scale[ROWS];
        struct norm_case k = {.norm = {NORM_RMS, 1e-5f, w % 2 ? 1.0f : 0.0f, gain, NULL}, .d = d, .c = c, .x = widened(x, n),
                              .scale = zero_doubles(ROWS), .unit = widened(x, n)};
        double *want = zero_doubles(n), want_scale[ROWS];
        for (uint32_t r = 0; r < ROWS; r++) k.scale[r] = (double)(scale[r] = (float)(1.5 + uniform(&seed, 1)));
        for (size_t i = 0; i < n; i++) want[i] = slope(finish_reference, &k, &k.unit[i], STEP);
        for (uint32_t r = 0; r < ROWS; r++) want_scale[r] = slope(divide_reference, &k, &k.scale[r], STEP);
        norm_finish_backward(&k.norm, c, got, ROWS, d);
        check_close("norm's gain backward", got, want, n, CLOSE, 0);
        norm_divide_backward(c, x, scale, d_scale, ROWS, d);
        check_close("norm's scale backward", d_scale, want_scale, ROWS, CLOSE, 0);
        free(x), free(gain), free(c), free(got), free(k.x), free(k.scale), free(k.unit), free(want);
    }
}

/* ---- activations ------------------------------------------------------------------------------- */

static double activation(enum activation act, double x)
{
    switch (act) {
    case ACT_SILU: return x / (1 + exp(-x));
    case ACT_GELU_TANH: return x / 2 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case ACT_GELU_ERF: break;
    }
    return x / 2 * erfc(-x / sqrt(2));
}

struct mlp_case {
    enum activation act;
    bool gated;
    uint32_t m;
    const float *c;
    double *x, *y;
};

static double mlp_reference(void *ctx)
{
    struct mlp_case *k = ctx;
    size_t row = (k->gated ? 2 : 1) * (size_t)k->m;
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t i = 0; i < k->m; i++)
            k->y[r * k->m + i] = activation(k->act, k->x[r * row + i]) * (k->gated ? k->x[r * row + k->m + i] : 1);
    return weighted(k->y, k->c, (size_t)ROWS * k->m);
}

static void check_mlp(uint64_t *seed, enum activation act, bool gated, uint32_t m)
{
    size_t n = (size_t)ROWS * m, in = (gated ? 2 : 1) * n;
    float *x = random_floats(seed, in, 6), *c = random_floats(seed, n, 1), *y = random_floats(seed, n, 1),
          *dx = random_floats(seed, in, 1);
    struct mlp_case k = {act, gated, m, c, widened(x, in), zero_doubles(n)};
    double *want = zero_doubles(in);
    mlp_reference(&k);
    mlp_forward(act, gated, x, y, ROWS, m);
    check_close("mlp", y, k.y, n, CLOSE, 0);
    for (size_t j = 0; j < in; j++) want[j] = slope(mlp_reference, &k, &k.x[j], STEP);
    mlp_backward(act, gated, x, c, dx, ROWS, m);
    check_close("mlp backward", dx, want, in, CLOSE, 0);
    mlp_backward(act, gated, x, c, x, ROWS, m);
    assert_memory_equal(x, dx, in * sizeof *x); /* in place */
    free(x), free(c), free(y), free(dx), free(k.x), free(k.y), free(want);
}

static void test_mlp(void **state)
{
    (void)state;
    uint64_t seed = 2;
    for (size_t i = 0; i < N_WIDTHS; i++)
        for (int act = ACT_SILU; act <= ACT_GELU_ERF; act++) {
            check_mlp(&seed, (enum activation)act, false, widths[i]);
            check_mlp(&seed, (enum activation)act, true, widths[i]);
        }
}

/* ---- the functions below them ------------------------------------------------------------------ */

/* Units in the last place of a float32 near `want`. */
static double ulps(float got, double want)
{
    int exponent;
    (void)frexp(want, &exponent);
    return fabs((double)got - want) / ldexp(1, exponent - 24);
}

KERNEL static void exp_all(const float *x, float *y, size_t n)
{
    for (size_t i = 0; i < n; i += LANES) store16(y + i, exp16(load16(x + i)));
}

KERNEL static void tanh_all(const float *x, float *y, size_t n)
{
    for (size_t i = 0; i < n; i += LANES) store16(y + i, tanh16(load16(x + i)));
}

enum { SAMPLES = 1 << 18 };
static float *between(double low, double high)
{
    float *x = malloc(SAMPLES * sizeof *x);
    for (size_t i = 0; i < SAMPLES; i++) x[i] = (float)(low + (high - low) * (double)i / (SAMPLES - 1));
    return x;
}

/* The header promises about 2 ulp for e^x and a few for tanh. */
static void test_exponential(void **state)
{
    (void)state;
    float *x = between(-87, 88), *y = malloc(SAMPLES * sizeof *y);
    double worst = 0;
    exp_all(x, y, SAMPLES);
    for (size_t i = 0; i < SAMPLES; i++) worst = fmax(worst, ulps(y[i], exp((double)x[i])));
    if (!(worst <= 2)) fail_msg("exp is off by %.2f ulp", worst);
    free(x), free(y);
}

static void test_tanh(void **state)
{
    (void)state;
    static const double range[] = {1e-6, 0.3, 2, 12};
    for (size_t k = 0; k < sizeof range / sizeof *range; k++) {
        float *x = between(-range[k], range[k]), *y = malloc(SAMPLES * sizeof *y);
        double worst = 0;
        tanh_all(x, y, SAMPLES);
        for (size_t i = 0; i < SAMPLES; i++) worst = fmax(worst, ulps(y[i], tanh((double)x[i])));
        if (!(worst <= 3)) fail_msg("tanh is off by %.2f ulp within %g", worst, range[k]);
        free(x), free(y);
    }
    float x[LANES] = {0, -0.0f, 1e-38f, 50, -50, 1e30f, -1e30f, INFINITY, -INFINITY}, y[LANES];
    static const float want[] = {0, 0, 1e-38f, 1, -1, 1, -1, 1, -1};
    tanh_all(x, y, LANES);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) assert_true(y[i] == want[i]);
}

/* Every activation to a few ulp of its own value, however small: what an expression like 1 + erf(x) loses
 * below zero is more than all of it. tanh's argument is a float32, so e^2u is off by its ulp times u. */
static void test_activation_precision(void **state)
{
    (void)state;
    static const struct { enum activation act; double low, high, ulp; } all[] = {
        {ACT_SILU, -85, 85, 4}, {ACT_GELU_TANH, -3, 12, 16}, {ACT_GELU_TANH, -5, -3, 60}, {ACT_GELU_ERF, -13, 13, 10}};
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
        float *x = between(all[k].low, all[k].high), *y = malloc(SAMPLES * sizeof *y);
        double worst = 0;
        mlp_forward(all[k].act, false, x, y, 1, SAMPLES);
        for (size_t i = 0; i < SAMPLES; i++) {
            double w = (double)x[i];
            double want = all[k].act == ACT_GELU_TANH /* ½(1 + tanh u) without its cancellation */
                ? w / (1 + exp(-2 * sqrt(2 / M_PI) * (w + 0.044715 * w * w * w))) : activation(all[k].act, w);
            worst = fmax(worst, ulps(y[i], want));
        }
        if (!(worst <= all[k].ulp)) fail_msg("activation %d is off by %.2f ulp in %g..%g", (int)all[k].act, worst, all[k].low, all[k].high);
        free(x), free(y);
    }
}

/* Far out: next to nothing on the left, x itself on the right, a slope of 0 or 1. */
static void test_activation_ends(void **state)
{
    (void)state;
    const float x[] = {-1e4f, -200, -100, 100, 200, 1e4f}, ones[] = {1, 1, 1, 1, 1, 1};
    enum { N = sizeof x / sizeof *x };
    for (int act = ACT_SILU; act <= ACT_GELU_ERF; act++) {
        float y[N], dx[N];
        mlp_forward((enum activation)act, false, x, y, 1, N);
        mlp_backward((enum activation)act, false, x, ones, dx, 1, N);
        for (int i = 0; i < N; i++) {
            assert_true(fabsf(y[i] - (x[i] > 0 ? x[i] : 0)) < 1e-24f);
            assert_true(fabsf(dx[i] - (x[i] > 0 ? 1 : 0)) < 1e-24f);
        }
    }
}

struct cap_case {
    size_t n;
    double cap, *x, *y;
    const float *c;
};

static double cap_reference(void *ctx)
{
    struct cap_case *k = ctx;
    for (size_t i = 0; i < k->n; i++) k->y[i] = k->cap * tanh(k->x[i] / k->cap);
    return weighted(k->y, k->c, k->n);
}

static void test_softcap(void **state)
{
    (void)state;
    uint64_t seed = 22;
    for (size_t w = 0; w < N_WIDTHS; w++)
        for (double cap = 0.5; cap < 60; cap *= 10) {
            size_t n = widths[w];
            float *x = random_floats(&seed, n, 40), *c = random_floats(&seed, n, 1), *y = malloc(n * sizeof *y);
            struct cap_case k = {n, cap, widened(x, n), zero_doubles(n), c};
            double *want = zero_doubles(n);
            for (size_t i = 0; i < n; i++) want[i] = slope(cap_reference, &k, &k.x[i], STEP);
            cap_reference(&k);
            memcpy(y, x, n * sizeof *y);
            softcap_row(y, n, 0);
            assert_memory_equal(y, x, n * sizeof *y);
            softcap_row(y, n, (float)cap);
            for (size_t i = 0; i < n; i++) /* each to its own size */
                if (!(fabs((double)y[i] - k.y[i]) <= 5e-7 * fabs(k.y[i]))) fail_msg("%.9g, %.9g expected", (double)y[i], k.y[i]);
            memcpy(x, c, n * sizeof *x);
            softcap_backward(x, y, n, (float)cap);
            check_close("soft-cap backward", x, want, n, CLOSE, 0.1);
            softcap_backward(c, y, n, 0);
            assert_true(fabs(weighted(k.y, c, n) - cap_reference(&k)) == 0); /* no cap: nothing */
            free(x), free(c), free(y), free(k.x), free(k.y), free(want);
        }
}

/* Outside the range of normal results: never a NaN, and next to nothing where e^x vanishes. */
static void test_exponential_ends(void **state)
{
    (void)state;
    float x[LANES] = {-88, -100, -1000, -1e30f, -INFINITY, 0, -0.0f, 88, 89, 1000, INFINITY}, y[LANES];
    exp_all(x, y, LANES);
    for (int i = 0; i < 5; i++) assert_true(y[i] >= 0 && y[i] <= 1.8e-38f);
    assert_true(y[5] == 1 && y[6] == 1);
    for (int i = 7; i < 11; i++) assert_true(isfinite(y[i]) && y[i] >= 1.6e38f);
}

/* log Σ exp against float64, where one value leads and where none does; a shift shifts it. */
static void test_log_sum_exp(void **state)
{
    (void)state;
    static const uint32_t counts[] = {1, 15, 16, 17, 1023, 1024, 1025, 49152};
    static const double scales[] = {0.01, 4, 60};
    uint64_t seed = 17;
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
        for (size_t k = 0; k < 3; k++) {
            uint32_t n = counts[c];
            float *x = random_floats(&seed, n, scales[k]);
            double top = -INFINITY, sum = 0;
            for (uint32_t i = 0; i < n; i++) top = fmax(top, (double)x[i]);
            for (uint32_t i = 0; i < n; i++) sum += exp((double)x[i] - top);
            assert_true(fabs(log_sum_exp_row(x, n) - (top + log(sum))) < 1e-6);
            for (uint32_t i = 0; i < n; i++) x[i] = x[i] / 1024 - 5000;
            double low = log_sum_exp_row(x, n);
            assert_true(low > -5001 && low < -5000 + log(n) + 0.1);
            free(x);
        }
    float lone[20];
    for (int i = 0; i < 20; i++) lone[i] = -INFINITY;
    lone[18] = 3;
    assert_true(fabs(log_sum_exp_row(lone, 20) - 3) < 1e-6);
    lone[2] = NAN;
    assert_true(isnan(log_sum_exp_row(lone, 20)));
}

/* ---- rotary ------------------------------------------------------------------------------------ */

/* One head in float64, by rotary.h's formulas. */
static void turn(const double *x, double *y, uint32_t e, uint32_t pairs, bool adjacent, const float *inv, double pos,
                 double attention)
{
    memcpy(y, x, e * sizeof *y);
    for (uint32_t i = 0; i < pairs; i++) {
        uint32_t a = adjacent ? 2 * i : i, b = adjacent ? a + 1 : i + pairs;
        double angle = pos * (double)inv[i], c = attention * cos(angle), s = attention * sin(angle);
        y[a] = x[a] * c - x[b] * s;
        y[b] = x[b] * c + x[a] * s;
    }
}

static void check_rotary(uint64_t *seed, uint32_t e, uint32_t pairs, bool adjacent, float attention)
{
    enum { HEADS = 3, MOST = 64, POS = 77 };
    float inv[MOST], cosine[MOST], sine[MOST];
    size_t n = (size_t)HEADS * e;
    for (uint32_t i = 0; i < pairs; i++) inv[i] = 1.0f / powf(10000, (float)i / (float)pairs);
    float *x = random_floats(seed, n, 1), *y = malloc(n * sizeof *y), *g = random_floats(seed, n, 1);
    double *want = zero_doubles(n), *wide = widened(x, n), *back = zero_doubles(n), there = 0, here = 0;
    for (uint32_t h = 0; h < HEADS; h++) turn(wide + h * e, want + h * e, e, pairs, adjacent, inv, POS, (double)attention);
    rotary_angles(inv, pairs, POS, attention, cosine, sine);
    memcpy(y, x, n * sizeof *y);
    rotary_turn(y, HEADS, e, pairs, adjacent, cosine, sine, 1);
    check_close("rotary", y, want, n, CLOSE, 1); /* the angle itself is a float32 product */
    for (size_t i = 0; i < n; i++)
        if (i % e >= 2 * pairs) assert_true(y[i] == x[i]);

    /* The transpose: ⟨g, R x⟩ = ⟨Rᵀ g, x⟩; and R's inverse where nothing is stretched. */
    for (size_t i = 0; i < n; i++) there += (double)g[i] * (double)y[i];
    rotary_turn(g, HEADS, e, pairs, adjacent, cosine, sine, -1);
    for (size_t i = 0; i < n; i++) here += (double)g[i] * wide[i];
    assert_true(fabs(there - here) < 1e-5 * (1 + fabs(there)));
    rotary_turn(y, HEADS, e, pairs, adjacent, cosine, sine, -1);
    for (size_t i = 0; i < n; i++) back[i] = wide[i] * (i % e < 2 * pairs ? (double)attention * (double)attention : 1);
    check_close("rotary turned back", y, back, n, 1e-6, 1);
    free(x), free(y), free(g), free(want), free(wide), free(back);
}

static void test_rotary(void **state)
{
    (void)state;
    uint64_t seed = 3;
    static const struct { uint32_t e, pairs; } shapes[] = {
        {2, 1}, {4, 2}, {6, 3}, {8, 4}, {64, 32}, {64, 8}, {20, 5}, {96, 48}, {80, 16}, {48, 23}, {7, 3}, {128, 64}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int how = 0; how < 4; how++)
            check_rotary(&seed, shapes[i].e, shapes[i].pairs, how & 1, how & 2 ? 1.19f : 1);
}

/* Only the distance of two positions enters a score. */
static void test_rotary_shift(void **state)
{
    (void)state;
    enum { HALF = 12 };
    uint64_t seed = 4;
    float inv[HALF], cosine[HALF], sine[HALF], q0[2 * HALF], k0[2 * HALF];
    double first = 0;
    for (int i = 0; i < HALF; i++) inv[i] = 1.0f / powf(10000, (float)i / HALF);
    for (int i = 0; i < 2 * HALF; i++) q0[i] = (float)uniform(&seed, 1), k0[i] = (float)uniform(&seed, 1);
    for (uint32_t shift = 0; shift <= 192; shift += 32) {
        float q[2 * HALF], k[2 * HALF];
        double score = 0;
        memcpy(q, q0, sizeof q);
        memcpy(k, k0, sizeof k);
        rotary_angles(inv, HALF, 9 + shift, 1, cosine, sine);
        rotary_turn(q, 1, 2 * HALF, HALF, false, cosine, sine, 1);
        rotary_angles(inv, HALF, 4 + shift, 1, cosine, sine);
        rotary_turn(k, 1, 2 * HALF, HALF, false, cosine, sine, 1);
        for (int i = 0; i < 2 * HALF; i++) score += (double)q[i] * (double)k[i];
        if (shift == 0) first = score;
        if (!(fabs(score - first) < 1e-4)) fail_msg("shift %u moves the score by %g", shift, score - first);
    }
}

/* ---- matrix products --------------------------------------------------------------------------- */

enum form { NT, NN, TN };

static void check_gemm(uint64_t *seed, enum form form, size_t m, size_t n, size_t k, float alpha, bool accumulate)
{
    size_t rows_a = form == TN ? k : m, cols_a = form == TN ? m : k;
    size_t rows_b = form == NT ? n : k, cols_b = form == NT ? k : n;
    size_t lda = cols_a + 3, ldb = cols_b + 5, ldc = n + 2;
    float *a = random_floats(seed, rows_a * lda, 1), *b = random_floats(seed, rows_b * ldb, 1),
          *c = random_floats(seed, m * ldc, 1);
    double *want = widened(c, m * ldc);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double s = 0;
            for (size_t x = 0; x < k; x++)
                s += (double)(form == TN ? a[x * lda + i] : a[i * lda + x]) *
                     (double)(form == NT ? b[j * ldb + x] : b[x * ldb + j]);
            want[i * ldc + j] = (double)alpha * s + (accumulate ? want[i * ldc + j] : 0);
        }
    (form == NT ? gemm_nt : form == NN ? gemm_nn : gemm_tn)(m, n, k, a, lda, b, ldb, c, ldc, alpha, accumulate);
    check_close("matrix product", c, want, m * ldc, CLOSE, 1); /* what lies between rows is untouched */
    free(a), free(b), free(c), free(want);
}

static void test_gemm(void **state)
{
    (void)state;
    struct err e = {0};
    uint64_t seed = 5;
    static const size_t sizes[][3] = {{1, 1, 1}, {1, 37, 30}, {2, 5, 7}, {48, 33, 17}, {31, 1, 65}, {130, 64, 48}};
    must(blas_start(2, &e), e);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int form = NT; form <= TN; form++)
            for (int how = 0; how < 4; how++)
                check_gemm(&seed, (enum form)form, sizes[i][0], sizes[i][1], sizes[i][2], how & 1 ? 0.3f : 1, how & 2);
}

/* ---- threads ----------------------------------------------------------------------------------- */

enum { MOST_ITEMS = 1000 };
struct visits {
    int count[MOST_ITEMS], thread[MOST_ITEMS];
    int threads;
};

static void visit(void *ctx, size_t from, size_t to, int thread)
{
    struct visits *v = ctx;
    for (size_t i = from; i < to; i++) {
        v->count[i]++;
        v->thread[i] = thread;
    }
}

/* Every item once, in ranges that are the same each time whatever the timing. */
static void test_par_for(void **state)
{
    (void)state;
    struct err e = {0};
    static const size_t sizes[] = {0, 1, 2, 3, 5, 64, 999, MOST_ITEMS};
    for (int threads = 1; threads <= 4; threads++) {
        struct par *p = par_new(threads, &e);
        must(p, e);
        assert_int_equal(par_threads(p), threads);
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
            struct visits first = {0}, again;
            par_for(p, sizes[k], visit, &first);
            for (int round = 0; round < 50; round++) {
                memset(&again, 0, sizeof again);
                par_for(p, sizes[k], visit, &again);
                assert_memory_equal(&first, &again, sizeof first);
            }
            for (size_t i = 0; i < MOST_ITEMS; i++) {
                assert_int_equal(first.count[i], i < sizes[k]);
                assert_in_range(first.thread[i], 0, threads - 1);
            }
        }
        par_free(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norm),
        cmocka_unit_test(test_norm_parts_backward),
        cmocka_unit_test(test_mlp),
        cmocka_unit_test(test_exponential),
        cmocka_unit_test(test_exponential_ends),
        cmocka_unit_test(test_tanh),
        cmocka_unit_test(test_activation_precision),
        cmocka_unit_test(test_activation_ends),
        cmocka_unit_test(test_softcap),
        cmocka_unit_test(test_log_sum_exp),
        cmocka_unit_test(test_rotary),
        cmocka_unit_test(test_rotary_shift),
        cmocka_unit_test(test_gemm),
        cmocka_unit_test(test_par_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
