/* Every kernel against plain float64 loops: forward by comparison, backward by central differences
 * of the loops. Widths are chosen around the vector width of 16 and away from it.
 *
 * Tolerances: 1e-5 of the largest value. A float32 sum of a hundred terms is off by some 1e-6;
 * a central difference in float64 with step 1e-5 by 1e-9. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/kernel/attention.h"
#include "core/kernel/blas.h"
#include "core/head.h"
#include "core/kernel/mlp.h"
#include "core/kernel/norm.h"
#include "core/kernel/rotary.h"
#include "core/kernel/simd.h"
#include "core/train.h"
#include "support/golden.h"
#include "support/numbers.h"
#include "support/reference.h"

#define CLOSE 1e-5
#define STEP 1e-5

/* f(x) = Σ c·y(x): what a backward kernel differentiates when c is the gradient of y. */
static double weighted(const double *y, const float *c, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) s += y[i] * (double)c[i];
    return s;
}

static double *widened(const float *x, size_t n)
{
    double *y = zero_doubles(n);
    for (size_t i = 0; i < n; i++) y[i] = (double)x[i];
    return y;
}

/* ---- element-wise ------------------------------------------------------------------------------ */

static const uint32_t widths[] = {1, 2, 15, 16, 17, 30, 33, 48, 64};
enum { N_WIDTHS = sizeof widths / sizeof *widths, ROWS = 3 };

struct norm_case {
    uint32_t d;
    double eps;
    const float *gain, *c;
    double *x, *y;
};

static double norm_reference(void *ctx)
{
    struct norm_case *n = ctx;
    for (uint32_t r = 0; r < ROWS; r++) {
        double squares = 0, *x = n->x + r * n->d;
        for (uint32_t i = 0; i < n->d; i++) squares += x[i] * x[i];
        for (uint32_t i = 0; i < n->d; i++)
            n->y[r * n->d + i] = x[i] / sqrt(squares / n->d + n->eps) * (double)n->gain[i];
    }
    return weighted(n->y, n->c, (size_t)ROWS * n->d);
}

static void check_norm(uint64_t *seed, uint32_t d, float eps, double scale)
{
    size_t n = (size_t)ROWS * d;
    float *x = random_floats(seed, n, scale), *gain = random_floats(seed, d, 2), *c = random_floats(seed, n, 1),
          *y = random_floats(seed, n, 1), *before = random_floats(seed, n, 1), *dx = random_floats(seed, n, 1);
    struct norm_case k = {d, (double)eps, gain, c, widened(x, n), zero_doubles(n)};
    norm_reference(&k);
    norm_forward(x, gain, eps, y, ROWS, d);
    check_close("norm", y, k.y, n, CLOSE, 0);
    memcpy(y, x, n * sizeof *y);
    norm_forward(y, gain, eps, y, ROWS, d);
    check_close("norm in place", y, k.y, n, CLOSE, 0);

    double *want = zero_doubles(n), top = 0;
    for (size_t i = 0; i < n; i++) top = fmax(top, fabs(want[i] = slope(norm_reference, &k, &k.x[i], STEP * scale)));
    memcpy(dx, before, n * sizeof *dx); /* it adds */
    for (size_t i = 0; i < n; i++) want[i] += (double)before[i];
    norm_backward(x, gain, eps, c, dx, ROWS, d);
    check_close("norm backward", dx, want, n, CLOSE, top);
    free(x), free(gain), free(c), free(y), free(before), free(dx), free(k.x), free(k.y), free(want);
}

static void test_norm(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (size_t i = 0; i < N_WIDTHS; i++) {
        check_norm(&seed, widths[i], 1e-5f, 1);
        check_norm(&seed, widths[i], 1e-3f, 0.02); /* eps as large as the squares */
        check_norm(&seed, widths[i], 1e-6f, 300);
    }
}

struct gated_case {
    uint32_t m;
    const float *c;
    double *x, *y;
};

static double gated_reference(void *ctx)
{
    struct gated_case *k = ctx;
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t i = 0; i < k->m; i++) {
            double g = k->x[(size_t)r * 2 * k->m + i], u = k->x[(size_t)r * 2 * k->m + k->m + i];
            k->y[r * k->m + i] = g / (1 + exp(-g)) * u;
        }
    return weighted(k->y, k->c, (size_t)ROWS * k->m);
}

static void test_gated(void **state)
{
    (void)state;
    uint64_t seed = 2;
    for (size_t i = 0; i < N_WIDTHS; i++) {
        uint32_t m = widths[i];
        size_t n = (size_t)ROWS * m;
        float *x = random_floats(&seed, 2 * n, 6), *c = random_floats(&seed, n, 1),
              *y = random_floats(&seed, n, 1), *dx = random_floats(&seed, 2 * n, 1);
        struct gated_case k = {m, c, widened(x, 2 * n), zero_doubles(n)};
        gated_reference(&k);
        gated_forward(x, y, ROWS, m);
        check_close("gated", y, k.y, n, CLOSE, 0);
        double *want = zero_doubles(2 * n);
        for (size_t j = 0; j < 2 * n; j++) want[j] = slope(gated_reference, &k, &k.x[j], STEP);
        gated_backward(x, c, dx, ROWS, m);
        check_close("gated backward", dx, want, 2 * n, CLOSE, 0);
        free(x), free(c), free(y), free(dx), free(k.x), free(k.y), free(want);
    }
}

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

/* The header promises about 2 ulp; silu adds a sum, a quotient and a product of half an ulp each. */
static void test_exponential(void **state)
{
    (void)state;
    enum { N = 1 << 18 };
    float *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y), *pair = malloc(2 * N * sizeof *pair);
    double worst = 0, worst_silu = 0;
    for (size_t i = 0; i < N; i++) x[i] = (float)(-87.0 + 175.0 * (double)i / (N - 1));
    exp_all(x, y, N);
    for (size_t i = 0; i < N; i++) worst = fmax(worst, ulps(y[i], exp((double)x[i])));
    if (!(worst <= 2)) fail_msg("exp is off by %.2f ulp", worst);
    for (size_t i = 0; i < N; i++) pair[i] = x[i] * 0.98f, pair[N + i] = 1; /* one row: gates, then ups */
    gated_forward(pair, y, 1, N);
    for (size_t i = 0; i < N; i++)
        worst_silu = fmax(worst_silu, ulps(y[i], (double)pair[i] / (1 + exp(-(double)pair[i]))));
    if (!(worst_silu <= 4)) fail_msg("silu is off by %.2f ulp", worst_silu);
    free(x), free(y), free(pair);
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

static void test_rotary(void **state)
{
    (void)state;
    uint64_t seed = 3;
    enum { HEADS = 3, MOST = 32 };
    for (uint32_t half = 1; half <= MOST; half += half < 4 ? 1 : 7) {
        float inv[MOST], cosine[MOST], sine[MOST];
        size_t n = (size_t)HEADS * 2 * half;
        double *want = zero_doubles(n), *wide;
        for (uint32_t i = 0; i < half; i++) inv[i] = 1.0f / powf(10000, (float)i / (float)half);
        float *x = random_floats(&seed, n, 1), *y = random_floats(&seed, n, 1);
        wide = widened(x, n);
        rotary_angles(inv, half, 77, cosine, sine);
        for (uint32_t h = 0; h < HEADS; h++)
            for (uint32_t i = 0; i < half; i++) {
                size_t a = (size_t)h * 2 * half + i, b = a + half;
                double turn = 77 * (double)inv[i];
                want[a] = wide[a] * cos(turn) - wide[b] * sin(turn);
                want[b] = wide[b] * cos(turn) + wide[a] * sin(turn);
            }
        memcpy(y, x, n * sizeof *y);
        rotary_turn(y, HEADS, half, cosine, sine, 1);
        check_close("rotary", y, want, n, CLOSE, 1); /* the angle itself is a float32 product */
        rotary_turn(y, HEADS, half, cosine, sine, -1);
        check_close("rotary turned back", y, wide, n, 1e-6, 1);
        free(x), free(y), free(want), free(wide);
    }
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
        rotary_angles(inv, HALF, 9 + shift, cosine, sine);
        rotary_turn(q, 1, HALF, cosine, sine, 1);
        rotary_angles(inv, HALF, 4 + shift, cosine, sine);
        rotary_turn(k, 1, HALF, cosine, sine, 1);
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

/* ---- attention --------------------------------------------------------------------------------- */

struct heads {
    uint32_t H, G, e;
};
static const struct heads head_shapes[] = {{4, 2, 8}, {5, 1, 6}, {3, 3, 16}, {2, 2, 34}, {1, 1, 2}};
enum { N_SHAPES = sizeof head_shapes / sizeof *head_shapes };

static struct arch arch_of(struct heads s)
{
    return (struct arch){.n_layers = 2, .n_heads = s.H, .n_kv_heads = s.G, .d_head = s.e};
}

/* z and p of query row i of a sequence whose keys and values [n][G·e] and queries [n][H·e] are
 * given whole. */
static void attend(const struct arch *a, const double *q, const double *k, const double *v, uint32_t i,
                   uint32_t h, double *z, double *p)
{
    uint32_t G = a->n_kv_heads, e = a->d_head, g = h / (a->n_heads / G);
    double top = -HUGE_VAL, sum = 0;
    for (uint32_t j = 0; j <= i; j++) {
        p[j] = 0;
        for (uint32_t c = 0; c < e; c++) p[j] += q[h * e + c] * k[(j * G + g) * e + c];
        p[j] /= sqrt(e);
        top = fmax(top, p[j]);
    }
    for (uint32_t j = 0; j <= i; j++) sum += p[j] = exp(p[j] - top);
    for (uint32_t c = 0; c < e; c++) z[c] = 0;
    for (uint32_t j = 0; j <= i; j++) {
        p[j] /= sum;
        for (uint32_t c = 0; c < e; c++) z[c] += p[j] * v[(j * G + g) * e + c];
    }
}

struct sequence { /* past positions in a kv, then own rows */
    uint32_t past, rows;
    struct kv *kv;
    double *k, *v; /* [past + rows][G·e] */
};

/* Fill past positions of layer 1 with random keys and values, and remember them. */
static void make_past(struct sequence *s, const struct arch *a, uint64_t *seed)
{
    struct err e = {0};
    size_t width = (size_t)a->n_kv_heads * a->d_head;
    s->k = zero_doubles((s->past + s->rows) * width);
    s->v = zero_doubles((s->past + s->rows) * width);
    if (!s->past) return;
    s->kv = kv_new(a);
    must(kv_reserve(s->kv, s->past, &e), e);
    kv_commit(s->kv, s->past);
    for (uint32_t p = 0; p < s->past; p++)
        for (size_t i = 0; i < width; i++) {
            kv_key(s->kv, 0, p)[i] = kv_value(s->kv, 0, p)[i] = NAN; /* another layer's: never read */
            s->k[p * width + i] = (double)(kv_key(s->kv, 1, p)[i] = (float)uniform(seed, 1));
            s->v[p * width + i] = (double)(kv_value(s->kv, 1, p)[i] = (float)uniform(seed, 1));
        }
}

static void check_rows(const struct arch *a, const struct span *sp, struct sequence *s, const float *qkv, const float *z)
{
    uint32_t H = a->n_heads, G = a->n_kv_heads, e = a->d_head, row = (H + 2 * G) * e;
    double *want = zero_doubles((size_t)H * e), *p = zero_doubles(s->past + s->rows);
    for (uint32_t r = 0; r < s->rows; r++)
        for (uint32_t c = 0; c < G * e; c++) {
            const float *own = qkv + (size_t)(sp->first_row + r) * row + H * e;
            s->k[(size_t)(s->past + r) * G * e + c] = (double)own[c];
            s->v[(size_t)(s->past + r) * G * e + c] = (double)own[G * e + c];
        }
    for (uint32_t r = 0; r < s->rows; r++) {
        double *q = widened(qkv + (size_t)(sp->first_row + r) * row, (size_t)H * e);
        for (uint32_t h = 0; h < H; h++) attend(a, q, s->k, s->v, s->past + r, h, want + h * e, p);
        check_close("attention", z + (size_t)(sp->first_row + r) * H * e, want, (size_t)H * e, CLOSE, 0.1);
        free(q);
    }
    free(want), free(p);
}

/* Spans of these sizes together in one call; every row against the loops. */
static void check_attention(uint64_t *seed, struct heads shape, const uint32_t (*sizes)[2], size_t n, int threads)
{
    struct err e = {0};
    struct arch a = arch_of(shape);
    struct sequence seq[8] = {{0}};
    struct span span[8];
    uint32_t rows = 0, row = (shape.H + 2 * shape.G) * shape.e;
    for (size_t i = 0; i < n; i++) {
        seq[i].past = sizes[i][0];
        seq[i].rows = sizes[i][1];
        make_past(&seq[i], &a, seed);
        span[i] = (struct span){.seq = (uint32_t)i, .first_row = rows, .n_rows = sizes[i][1],
                                .past = seq[i].kv, .past_len = sizes[i][0]};
        rows += sizes[i][1];
    }
    float *qkv = random_floats(seed, (size_t)rows * row, 2), *z = random_floats(seed, (size_t)rows * shape.H * shape.e, 1);
    struct attention at = {&a, span, n, 1, qkv, z, NULL};
    struct attention_scratch scratch = {0};
    struct par *par = par_new(threads, &e);
    must(par && attention_forward(&at, par, &scratch, &e), e);
    for (size_t i = 0; i < n; i++) {
        check_rows(&a, &span[i], &seq[i], qkv, z);
        kv_free(seq[i].kv);
        free(seq[i].k), free(seq[i].v);
    }
    par_free(par);
    mem_drop(scratch.data);
    free(qkv), free(z);
}

static void test_attention_forward(void **state)
{
    (void)state;
    struct err e = {0};
    uint64_t seed = 6;
    static const uint32_t one_short[][2] = {{0, 13}}, one_long[][2] = {{0, 48}}, blocks[][2] = {{0, 131}},
        past_short[][2] = {{33, 5}}, past_long[][2] = {{70, 150}}, decode[][2] = {{31, 1}, {32, 1}, {64, 1}},
        many[][2] = {{0, 1}, {0, 47}, {1, 3}, {32, 60}, {40, 1}, {0, 49}, {95, 2}};
    const struct { const uint32_t (*sizes)[2]; size_t n; } all[] = {
        {one_short, 1}, {one_long, 1}, {blocks, 1}, {past_short, 1}, {past_long, 1}, {decode, 3}, {many, 7}};
    must(blas_start(2, &e), e);
    for (size_t s = 0; s < N_SHAPES; s++)
        for (size_t c = 0; c < sizeof all / sizeof *all; c++)
            check_attention(&seed, head_shapes[s], all[c].sizes, all[c].n, 1 + (int)((s + c) % 3));
}

/* A row's probabilities against libm: softmax to a few ulp of its own value. Seen by a tap. */
static void test_softmax(void **state)
{
    (void)state;
    struct err e = {0};
    enum { N = 40 };
    uint64_t seed = 7;
    struct arch a = arch_of((struct heads){1, 1, 4});
    float *qkv = random_floats(&seed, N * 12, 3), z[N * 4], *p = random_floats(&seed, N * N, 1);
    struct tap tap = {.site = {HOOK_PATTERN, 1}, .op = TAP_READ, .every_pos = true, .n_source = N, .dst = p};
    struct taps taps = {&tap, 1};
    struct span span = {.n_rows = N};
    struct attention at = {&a, &span, 1, 1, qkv, z, &taps};
    struct attention_scratch scratch = {0};
    struct par *par = par_new(1, &e);
    must(par && attention_forward(&at, par, &scratch, &e), e);
    for (uint32_t i = 0; i < N; i++) {
        double want[N] = {0}, zi[4], q[4], k[N * 4], v[N * 4], sum = 0;
        for (int c = 0; c < 4; c++) q[c] = (double)qkv[i * 12 + c];
        for (int j = 0; j < N * 4; j++) k[j] = (double)qkv[j / 4 * 12 + 4 + j % 4], v[j] = 0;
        attend(&a, q, k, v, i, 0, zi, want);
        for (uint32_t j = 0; j < N; j++) {
            sum += (double)p[i * N + j];
            /* scores of up to 20 carry an error of 2e-6, which e^x passes on */
            if (j <= i ? !(fabs((double)p[i * N + j] / want[j] - 1) < 1e-5) : p[i * N + j] != 0)
                fail_msg("probability %u of row %u is %g, %g expected", j, i, (double)p[i * N + j], want[j]);
        }
        assert_true(fabs(sum - 1) < 1e-6);
    }
    par_free(par);
    mem_drop(scratch.data);
    free(qkv), free(p);
}

struct attention_case {
    struct arch a;
    uint32_t n;
    const float *c; /* gradient of z */
    double *qkv;    /* [n][row] */
};

static double attention_reference(void *ctx)
{
    struct attention_case *k = ctx;
    uint32_t H = k->a.n_heads, G = k->a.n_kv_heads, e = k->a.d_head, row = (H + 2 * G) * e;
    double *keys = zero_doubles((size_t)k->n * G * e), *values = zero_doubles((size_t)k->n * G * e),
           *p = zero_doubles(k->n), *z = zero_doubles(e), sum = 0;
    for (uint32_t i = 0; i < k->n; i++) {
        memcpy(keys + (size_t)i * G * e, k->qkv + (size_t)i * row + H * e, G * e * sizeof *keys);
        memcpy(values + (size_t)i * G * e, k->qkv + (size_t)i * row + (H + G) * e, G * e * sizeof *keys);
        for (uint32_t h = 0; h < H; h++) {
            attend(&k->a, k->qkv + (size_t)i * row, keys, values, i, h, z, p);
            sum += weighted(z, k->c + ((size_t)i * H + h) * e, e);
        }
    }
    free(keys), free(values), free(p), free(z);
    return sum;
}

static void test_attention_backward(void **state)
{
    (void)state;
    struct err e = {0};
    uint64_t seed = 8;
    static const uint32_t rows[2] = {3, 9}; /* two spans, one after the other */
    must(blas_start(2, &e), e);
    for (size_t s = 0; s < N_SHAPES; s++) {
        struct heads h = head_shapes[s];
        struct arch a = arch_of(h);
        size_t row = (h.H + 2 * h.G) * h.e, n = rows[0] + rows[1];
        float *qkv = random_floats(&seed, n * row, 1.5), *dz = random_floats(&seed, n * h.H * h.e, 1),
              *got = random_floats(&seed, n * row, 9);
        double *want = zero_doubles(n * row), *wide = widened(qkv, n * row);
        struct span span[2] = {{.n_rows = rows[0]}, {.seq = 1, .first_row = rows[0], .n_rows = rows[1]}};
        struct attention at = {&a, span, 2, 1, qkv, NULL, NULL};
        struct attention_scratch scratch = {0};
        for (size_t i = 0, first = 0; i < 2; first += rows[i++]) {
            struct attention_case k = {a, rows[i], dz + first * h.H * h.e, wide + first * row};
            for (size_t j = 0; j < rows[i] * row; j++)
                want[first * row + j] = slope(attention_reference, &k, &k.qkv[j], STEP);
        }
        must(attention_backward(&at, dz, got, &scratch, &e), e);
        check_close("attention backward", got, want, n * row, CLOSE, 0);
        mem_drop(scratch.data);
        free(qkv), free(dz), free(got), free(want), free(wide);
    }
}

/* ---- head and block ---------------------------------------------------------------------------- */

struct head_case {
    struct reference *r;
    uint32_t n;
    const float *c;
    double *x, *logits;
};

static double head_reference(void *ctx)
{
    struct head_case *k = ctx;
    reference_head(k->r, k->x, k->n, k->logits);
    return weighted(k->logits, k->c, (size_t)k->n * k->r->model->arch.d_vocab);
}

static void check_head(const char *name)
{
    struct err e = {0};
    struct golden g;
    uint64_t seed = 9;
    golden_open(&g, name, NULL);
    enum { N = 3 };
    size_t d = g.model->arch.d_model, V = g.model->arch.d_vocab;
    float *x = random_floats(&seed, N * d, 2), *c = random_floats(&seed, N * V, 1), *logits = random_floats(&seed, N * V, 1),
          *dx = random_floats(&seed, N * d, 1), *before = random_floats(&seed, N * d, 1);
    struct head_case k = {reference_new(g.view), N, c, widened(x, N * d), zero_doubles(N * V)};
    head_reference(&k);
    must(unembed(g.session, g.view, x, N, logits, &e), e);
    check_close("unembed", logits, k.logits, N * V, CLOSE, 0);

    static const uint32_t ids[] = {299, 0, 17, 17};
    float some[N * 4];
    double want_some[N * 4];
    for (size_t i = 0; i < N * 4; i++) want_some[i] = k.logits[i / 4 * V + ids[i % 4]];
    must(unembed_ids(g.session, g.view, x, N, ids, 4, some, &e), e);
    check_close("unembed_ids", some, want_some, N * 4, CLOSE, 1);
    assert_true(fabs(log_prob(logits, (uint32_t)V, 17) + reference_nll(k.logits, (uint32_t)V, 17)) < 1e-5);

    double *want = zero_doubles(N * d), top = 0;
    for (size_t i = 0; i < N * d; i++) top = fmax(top, fabs(want[i] = slope(head_reference, &k, &k.x[i], STEP)));
    memcpy(dx, before, N * d * sizeof *dx);
    for (size_t i = 0; i < N * d; i++) want[i] += (double)before[i];
    must(unembed_backward(g.session, g.view, x, N, c, dx, &e), e);
    check_close("unembed backward", dx, want, N * d, CLOSE, top);
    free(x), free(c), free(logits), free(dx), free(before), free(want), free(k.x), free(k.logits);
    reference_free(k.r);
    golden_close(&g);
}

static void test_head(void **state)
{
    (void)state;
    check_head("gqa_tied");
    check_head("gqa_untied_odd");
}

static void test_arg_max(void **state)
{
    (void)state;
    assert_int_equal(arg_max((float[]){-3, -1, -1, -2}, 4), 1); /* the lowest id among equals */
    assert_int_equal(arg_max((float[]){5}, 1), 0);
}

/* A block's f(x) = Σ c·block(x), in x and in its matrices. */
struct block_case {
    struct reference *r;
    uint32_t layer, n;
    const float *c;
    double *x;
};

static double block_reference(void *ctx)
{
    struct block_case *k = ctx;
    size_t n = (size_t)k->n * k->r->model->arch.d_model;
    double *x = zero_doubles(n), sum;
    memcpy(x, k->x, n * sizeof *x);
    reference_block(k->r, k->layer, x, k->n);
    sum = weighted(x, k->c, n);
    free(x);
    return sum;
}

static struct block_rows rows_for(const struct arch *a, size_t rows, float **memory)
{
    struct err e = {0};
    struct block_rows out;
    *memory = mem_floats(block_rows_floats(a, rows), &e);
    must(*memory, e);
    block_rows_place(a, rows, *memory, &out);
    return out;
}

/* The gradient of a matrix at 20 random entries, against differences in the reference's copy. */
static void check_matrix(struct block_case *k, enum role role, const float *grad, uint64_t *seed)
{
    size_t t;
    assert_true(model_role(k->r->model, role, k->layer, &t));
    const struct tensor *info = &k->r->model->tensors[t];
    for (int i = 0; i < 20; i++) {
        size_t at = below(seed, (uint32_t)info->n_elements);
        double want = slope(block_reference, k, &k->r->weight[t][at], STEP);
        check_close(info->name, grad + info->offset + at, &want, 1, 1e-4, 0.1);
    }
}

static void check_block(const char *name, uint32_t layer)
{
    struct err e = {0};
    struct golden g;
    golden_open(&g, name, NULL);
    const struct arch *a = &g.model->arch;
    uint64_t seed = 10 + layer;
    enum { N = 6 };
    size_t d = a->d_model, n = N * d, z = (size_t)a->n_heads * a->d_head, kv = (size_t)a->n_kv_heads * a->d_head;
    float *x = random_floats(&seed, n, 1), *c = random_floats(&seed, n, 1), *kept, *scratch,
          *out = random_floats(&seed, n, 1), *mid = random_floats(&seed, n, 1), *dx = random_floats(&seed, n, 1);
    struct span span = {.n_rows = N};
    struct saved saved = {.x_pre = x, .x_mid = mid, .rows = rows_for(a, N, &kept)};
    struct block b = {.session = g.session, .view = g.view, .layer = layer, .span = &span, .n_spans = 1,
                      .n_rows = N, .x = out, .rows = saved.rows};
    struct block_case k = {reference_new(g.view), layer, N, c, widened(x, n)};
    memcpy(out, x, n * sizeof *out);
    must(block_attention(&b, &e), e);
    block_project(&b);
    memcpy(mid, out, n * sizeof *mid);
    block_mlp(&b);

    double *want = widened(x, n);
    reference_block(k.r, layer, want, N);
    check_close("block", out, want, n, CLOSE, 0);

    float *zeros = calloc((z + 2 * kv) * d + d * z + 3 * d * a->d_mlp, sizeof *zeros);
    struct weight_grads grads = {zeros, zeros + (z + 2 * kv) * d, zeros + (z + 2 * kv) * d + d * z, NULL};
    grads.down = grads.gate_up + 2 * d * a->d_mlp;
    b.rows = rows_for(a, N, &scratch);
    memcpy(dx, c, n * sizeof *dx);
    must(block_backward(&b, &saved, dx, &grads, false, &e), e);
    for (size_t i = 0; i < n; i++) want[i] = slope(block_reference, &k, &k.x[i], STEP);
    check_close("block backward", dx, want, n, CLOSE, 0);
    const struct { enum role role; const float *grad; } all[] = {
        {ROLE_Q, grads.qkv}, {ROLE_K, grads.qkv}, {ROLE_V, grads.qkv}, {ROLE_O, grads.o},
        {ROLE_GATE, grads.gate_up}, {ROLE_UP, grads.gate_up}, {ROLE_DOWN, grads.down}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) check_matrix(&k, all[i].role, all[i].grad, &seed);
    free(x), free(c), free(out), free(mid), free(dx), free(want), free(k.x), free(zeros);
    mem_drop(kept), mem_drop(scratch);
    reference_free(k.r);
    golden_close(&g);
}

static void test_block_backward(void **state)
{
    (void)state;
    check_block("gqa_tied", 1);
    check_block("gqa_untied_odd", 0);
    check_block("wide_head", 1);
}

/* The whole way down from the loss: cross-entropy at scored positions, in the final stream. */
struct loss_case {
    struct reference *r;
    const uint32_t *ids;
    uint32_t n;
    double *nudge; /* [n][d], added to the stream that enters the last layer */
};

static void add_nudge(void *ctx, enum hook h, uint32_t layer, double *x, size_t n)
{
    struct loss_case *k = ctx;
    if (h != HOOK_RESID_PRE || layer + 1 != k->r->model->arch.n_layers) return;
    for (size_t i = 0; i < n; i++) x[i] += k->nudge[i];
}

static double loss_reference(void *ctx)
{
    struct loss_case *k = ctx;
    uint32_t V = k->r->model->arch.d_vocab;
    double *logits = zero_doubles((size_t)k->n * V), loss;
    reference_run(k->r, k->ids, k->n, NULL, logits);
    loss = (reference_nll(logits + 1 * V, V, 5) + reference_nll(logits + (k->n - 1) * (size_t)V, V, 299)) / 2;
    free(logits);
    return loss;
}

static void test_cross_entropy(void **state)
{
    (void)state;
    struct err e = {0};
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    uint32_t n = g.n[1], d = g.model->arch.d_model, last = g.model->arch.n_layers - 1;
    const uint32_t scored[] = {1, n - 1}, target[] = {5, 299};
    struct tape_seq seq = {n, scored, target, 2};
    struct tape *t = tape_new(&g.model->arch, &seq, 1, 0, false, &e);
    must(t, e);
    embed(g.view, g.ids[1], n, tape_input(t));
    struct loss_case k = {reference_new(g.view), g.ids[1], n, zero_doubles((size_t)n * d)};
    k.r->hook = add_nudge;
    k.r->ctx = &k;
    float *got = random_floats(&(uint64_t){11}, (size_t)n * d, 1);
    struct tap tap = {.site = {HOOK_RESID_PRE, last}, .op = TAP_READ, .every_pos = true, .dst = got};
    struct taps taps = {&tap, 1};
    double loss, *want = zero_doubles((size_t)n * d);
    must(STEP_ALL(tape_forward(t, g.view, g.session, &e)), e);
    must(tape_loss(t, g.view, g.session, &loss, NULL, &e), e);
    must(STEP_ALL(tape_backward(t, g.view, g.session, NULL, &taps, &e)), e);
    assert_true(fabs(loss - loss_reference(&k)) < 1e-5);
    for (size_t i = 0; i < (size_t)n * d; i++) want[i] = slope(loss_reference, &k, &k.nudge[i], STEP);
    check_close("gradient of the loss", got, want, (size_t)n * d, CLOSE * 3, 0);
    free(got), free(want), free(k.nudge);
    reference_free(k.r);
    tape_free(t);
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norm),
        cmocka_unit_test(test_gated),
        cmocka_unit_test(test_exponential),
        cmocka_unit_test(test_exponential_ends),
        cmocka_unit_test(test_rotary),
        cmocka_unit_test(test_rotary_shift),
        cmocka_unit_test(test_gemm),
        cmocka_unit_test(test_par_for),
        cmocka_unit_test(test_attention_forward),
        cmocka_unit_test(test_softmax),
        cmocka_unit_test(test_attention_backward),
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_arg_max),
        cmocka_unit_test(test_block_backward),
        cmocka_unit_test(test_cross_entropy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
