/* Attention against plain float64 loops written from attention.h: any mix of spans, pasts, windows, soft-caps
 * and grouped heads; backward by central differences of the loops; what hooks read and write.
 *
 * A position that no row may see holds NaN, so that a kernel that so much as multiplies it by zero is
 * caught. Tolerances as in test_kernels.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/kernel/attention.h"
#include "core/kernel/blas.h"
#include "support/golden.h"
#include "support/numbers.h"

#define CLOSE 1e-5
#define STEP 1e-5

enum { LAYER = 1 }; /* of two; the other's cache is NaN */

struct kind { /* of a layer's attention */
    uint32_t H, G, e, window; /* window 0: none */
    float scale, softcap;
};
static const struct kind kinds[] = {
    {4, 2, 8, 0, 0.353553f, 0}, {5, 1, 6, 0, 0.4f, 0}, {3, 3, 16, 0, 0.25f, 0}, {2, 2, 34, 0, 0.17f, 0}, {1, 1, 2, 0, 0.7f, 0},
    {4, 2, 8, 1, 0.353553f, 0}, {2, 1, 8, 2, 0.35f, 0}, {6, 2, 5, 7, 0.4f, 0}, {3, 3, 16, 31, 0.25f, 0},
    {2, 1, 12, 32, 0.3f, 0}, {2, 2, 8, 33, 0.3f, 2}, {4, 4, 4, 48, 0.5f, 0}, {1, 1, 64, 49, 0.125f, 0}, {2, 1, 70, 100, 0.12f, 0.7f},
    {3, 1, 8, 1000, 0.35f, 0}, {4, 2, 8, 0, 0.4f, 1.5f}, {2, 2, 20, 16, 0.3f, 50}};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static struct arch arch_of(struct kind k)
{
    /* The window of the other layer must not matter: a layer without one has its neighbour windowed. */
    return (struct arch){.n_layers = 2, .n_heads = k.H, .n_kv_heads = k.G, .d_head = k.e, .attn_scale = k.scale,
                         .attn_softcap = k.softcap, .window = k.window ? k.window : 3,
                         .windowed = {k.window ? 1u << LAYER : 1u << (1 - LAYER)}};
}

static uint32_t first_seen(const struct arch *a, uint32_t pos)
{
    bool windowed = a->windowed[0] >> LAYER & 1;
    return windowed && pos + 1 > a->window ? pos + 1 - a->window : 0;
}

struct nudge { /* added to one row's scores and probabilities, [i + 1]; NULL: nothing */
    const double *s, *p;
};

/* Scores, probabilities and z of the query at position i; keys and values are [n][G·e]. */
static void attend(const struct arch *a, const double *q, const double *k, const double *v, uint32_t i, uint32_t h,
                   struct nudge nudge, double *z, double *s, double *p)
{
    uint32_t G = a->n_kv_heads, e = a->d_head, g = h / (a->n_heads / G), first = first_seen(a, i);
    double top = -HUGE_VAL, sum = 0, cap = (double)a->attn_softcap;
    for (uint32_t j = 0; j <= i; j++) s[j] = -HUGE_VAL, p[j] = 0;
    for (uint32_t j = first; j <= i; j++) {
        s[j] = 0;
        for (uint32_t c = 0; c < e; c++) s[j] += q[h * e + c] * k[((size_t)j * G + g) * e + c];
        s[j] *= (double)a->attn_scale;
        if (cap > 0) s[j] = cap * tanh(s[j] / cap);
        if (nudge.s) s[j] += nudge.s[j];
        top = fmax(top, s[j]);
    }
    for (uint32_t j = first; j <= i; j++) sum += p[j] = exp(s[j] - top);
    for (uint32_t c = 0; c < e; c++) z[c] = 0;
    for (uint32_t j = first; j <= i; j++) {
        p[j] /= sum;
        if (nudge.p) p[j] += nudge.p[j];
        for (uint32_t c = 0; c < e; c++) z[c] += p[j] * v[((size_t)j * G + g) * e + c];
    }
}

/* ---- forward ----------------------------------------------------------------------------------- */

struct sequence { /* past positions in a kv, then own rows */
    uint32_t past, rows;
    struct kv *kv;
    double *k, *v; /* [past + rows][G·e] */
};

/* Random keys and values in the past of LAYER, remembered; NaN where nobody may look. The cache is a fork
 * that shares its whole blocks and has a last one of its own. */
static void make_past(struct sequence *s, const struct arch *a, uint64_t *seed)
{
    struct err e = {0};
    size_t width = (size_t)a->n_kv_heads * a->d_head;
    s->k = zero_doubles((s->past + s->rows) * width);
    s->v = zero_doubles((s->past + s->rows) * width);
    if (!s->past) return;
    uint32_t longer = s->past + below(seed, 40);
    struct kv *kv = kv_new(a);
    must(kv_reserve(kv, longer, &e), e);
    kv_commit(kv, longer);
    for (uint32_t p = 0; p < longer; p++)
        for (size_t i = 0; i < width; i++) {
            float *k = &kv_key(kv, LAYER, p)[i], *v = &kv_value(kv, LAYER, p)[i];
            kv_key(kv, 1 - LAYER, p)[i] = kv_value(kv, 1 - LAYER, p)[i] = *k = *v = NAN;
            if (p >= s->past || p < first_seen(a, s->past)) continue;
            s->k[p * width + i] = (double)(*k = (float)uniform(seed, 1));
            s->v[p * width + i] = (double)(*v = (float)uniform(seed, 1));
        }
    s->kv = kv_fork(kv, s->past, &e);
    must(s->kv, e);
    kv_free(kv);
}

static void check_rows(const struct arch *a, const struct span *sp, struct sequence *s, const float *qkv, const float *z)
{
    uint32_t H = a->n_heads, G = a->n_kv_heads, e = a->d_head, row = (H + 2 * G) * e;
    double *want = zero_doubles((size_t)H * e), *score = zero_doubles(s->past + s->rows), *p = zero_doubles(s->past + s->rows);
    for (uint32_t r = 0; r < s->rows; r++)
        for (uint32_t c = 0; c < G * e; c++) {
            const float *own = qkv + (size_t)(sp->first_row + r) * row + H * e;
            s->k[(size_t)(s->past + r) * G * e + c] = (double)own[c];
            s->v[(size_t)(s->past + r) * G * e + c] = (double)own[G * e + c];
        }
    for (uint32_t r = 0; r < s->rows; r++) {
        double *q = widened(qkv + (size_t)(sp->first_row + r) * row, (size_t)H * e);
        for (uint32_t h = 0; h < H; h++)
            attend(a, q, s->k, s->v, s->past + r, h, (struct nudge){0}, want + h * e, score, p);
        check_close("attention", z + (size_t)(sp->first_row + r) * H * e, want, (size_t)H * e, CLOSE, 0.1);
        free(q);
    }
    free(want), free(score), free(p);
}

/* Spans of these sizes together in one call; every row against the loops. */
static void check_attention(uint64_t *seed, struct kind kind, const uint32_t (*sizes)[2], size_t n, int threads)
{
    struct err e = {0};
    struct arch a = arch_of(kind);
    struct sequence seq[8] = {{0}};
    struct span span[8];
    uint32_t rows = 0, row = (kind.H + 2 * kind.G) * kind.e;
    for (size_t i = 0; i < n; i++) {
        seq[i].past = sizes[i][0];
        seq[i].rows = sizes[i][1];
        make_past(&seq[i], &a, seed);
        span[i] = (struct span){.seq = (uint32_t)i, .first_row = rows, .n_rows = sizes[i][1],
                                .past = seq[i].kv, .past_len = sizes[i][0]};
        rows += sizes[i][1];
    }
    float *qkv = random_floats(seed, (size_t)rows * row, 2), *z = random_floats(seed, (size_t)rows * kind.H * kind.e, 1);
    struct attention at = {&a, span, n, LAYER, qkv, z, NULL};
    struct scratch scratch = {0};
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

/* Short and long spans, pasts before and across the edges of blocks and windows. */
static void test_forward(void **state)
{
    (void)state;
    struct err e = {0};
    uint64_t seed = 6;
    static const uint32_t one_short[][2] = {{0, 13}}, one_long[][2] = {{0, 48}}, blocks[][2] = {{0, 131}},
        past_short[][2] = {{33, 5}}, past_long[][2] = {{70, 150}}, decode[][2] = {{31, 1}, {32, 1}, {64, 1}, {200, 1}},
        edges[][2] = {{96, 48}, {97, 64}, {111, 3}, {112, 49}, {6, 60}}, many[][2] = {{0, 1}, {0, 47}, {1, 3}, {32, 60}, {40, 1}, {0, 49}, {95, 2}};
    const struct { const uint32_t (*sizes)[2]; size_t n; } all[] = {
        {one_short, 1}, {one_long, 1}, {blocks, 1}, {past_short, 1}, {past_long, 1}, {decode, 4}, {edges, 5}, {many, 7}};
    must(blas_start(2, &e), e);
    for (size_t s = 0; s < N_KINDS; s++)
        for (size_t c = 0; c < sizeof all / sizeof *all; c++)
            check_attention(&seed, kinds[s], all[c].sizes, all[c].n, 1 + (int)((s + c) % 3));
}

/* The same sequence at once, in two parts, and token by token from a cache. */
static void test_decode_is_prefill(void **state)
{
    (void)state;
    struct err e = {0};
    enum { N = 101 };
    static const uint32_t part[][4] = {{N}, {60, N - 60}, {1, 1, 64, N - 66}};
    uint64_t seed = 31;
    for (size_t s = 0; s < N_KINDS; s++) {
        struct kind kind = kinds[s];
        struct arch a = arch_of(kind);
        size_t row = (kind.H + 2 * kind.G) * kind.e, width = (size_t)kind.G * kind.e, zs = (size_t)kind.H * kind.e;
        float *qkv = random_floats(&seed, N * row, 2), *whole = malloc(N * zs * sizeof *whole), *z = malloc(N * zs * sizeof *z);
        struct scratch scratch = {0};
        struct par *par = par_new(2, &e);
        struct span all = {.n_rows = N};
        struct attention at = {&a, &all, 1, LAYER, qkv, whole, NULL};
        must(par && attention_forward(&at, par, &scratch, &e), e);
        for (size_t way = 0; way < 4; way++) {
            struct kv *kv = kv_new(&a);
            memset(z, 0, N * zs * sizeof *z);
            for (uint32_t done = 0, turn = 0, n; done < N; done += n, turn++) {
                n = way < 3 ? part[way][turn] : 1;
                struct span sp = {.first_row = done, .n_rows = n, .past = done ? kv : NULL, .past_len = done};
                at = (struct attention){&a, &sp, 1, LAYER, qkv, z, NULL};
                must(attention_forward(&at, par, &scratch, &e) && kv_reserve(kv, done + n, &e), e);
                for (uint32_t p = done; p < done + n; p++) {
                    memcpy(kv_key(kv, LAYER, p), qkv + p * row + zs, width * sizeof *qkv);
                    memcpy(kv_value(kv, LAYER, p), qkv + p * row + zs + width, width * sizeof *qkv);
                }
                kv_commit(kv, done + n);
            }
            if (!(farthest(z, whole, N * zs) < 2e-5)) fail_msg("kind %zu, way %zu: %g apart", s, way, farthest(z, whole, N * zs));
            kv_free(kv);
        }
        par_free(par);
        mem_drop(scratch.data);
        free(qkv), free(whole), free(z);
    }
}

/* ---- hooks of the forward pass ----------------------------------------------------------------- */

struct tapped { /* one sequence of N rows without a past, and what the loops make of it */
    struct arch a;
    uint32_t n;
    float *qkv, *z;
    double *q, *k, *v;           /* [n][H·e], [n][G·e] */
    double *want_z, *want_s, *want_p; /* [n][H·e], [H][n][n] with what is masked */
    struct scratch scratch;
    struct par *par;
};

static struct tapped tapped_new(struct kind kind, uint32_t n, uint64_t *seed)
{
    struct err e = {0};
    size_t width = (size_t)kind.G * kind.e, wide = (size_t)kind.H * kind.e, row = wide + 2 * width;
    struct tapped t = {.a = arch_of(kind), .n = n, .qkv = random_floats(seed, n * row, 2), .z = random_floats(seed, n * wide, 1),
                       .q = zero_doubles(n * wide), .k = zero_doubles(n * width), .v = zero_doubles(n * width),
                       .want_z = zero_doubles(n * wide), .want_s = zero_doubles((size_t)kind.H * n * n),
                       .want_p = zero_doubles((size_t)kind.H * n * n), .par = par_new(2, &e)};
    must(t.par, e);
    for (uint32_t i = 0; i < n; i++) {
        for (size_t c = 0; c < wide; c++) t.q[i * wide + c] = (double)t.qkv[i * row + c];
        for (size_t c = 0; c < width; c++) t.k[i * width + c] = (double)t.qkv[i * row + wide + c];
        for (size_t c = 0; c < width; c++) t.v[i * width + c] = (double)t.qkv[i * row + wide + width + c];
    }
    return t;
}

static void tapped_free(struct tapped *t)
{
    par_free(t->par);
    mem_drop(t->scratch.data);
    free(t->qkv), free(t->z), free(t->q), free(t->k), free(t->v), free(t->want_z), free(t->want_s), free(t->want_p);
}

/* nudge [H][n][n] or NULL. */
static void tapped_expect(struct tapped *t, const double *nudge_s, const double *nudge_p)
{
    uint32_t H = t->a.n_heads, e = t->a.d_head, n = t->n;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t h = 0; h < H; h++) {
            size_t at = ((size_t)h * n + i) * n;
            for (uint32_t j = i + 1; j < n; j++) t->want_s[at + j] = -HUGE_VAL, t->want_p[at + j] = 0;
            attend(&t->a, t->q + (size_t)i * H * e, t->k, t->v, i, h,
                   (struct nudge){nudge_s ? nudge_s + at : NULL, nudge_p ? nudge_p + at : NULL},
                   t->want_z + ((size_t)i * H + h) * e, t->want_s + at, t->want_p + at);
        }
}

static void tapped_run(struct tapped *t, struct tap *tap, size_t n)
{
    struct err e = {0};
    struct taps taps = {tap, n};
    struct span span = {.n_rows = t->n};
    struct attention at = {&t->a, &span, 1, LAYER, t->qkv, t->z, &taps};
    must(attention_forward(&at, t->par, &t->scratch, &e), e);
}

static struct tap source_tap(enum hook h, enum tap_op op, uint32_t n, float *data)
{
    return (struct tap){.site = {h, LAYER}, .op = op, .every_pos = true, .n_source = n, .weight = 1, .dst = data,
                        .src = data, .n_src_pos = n};
}

/* Both squares as read: scores with −inf, probabilities to a few ulp of their own value. */
static void check_squares(const struct tapped *t, const float *s, const float *p)
{
    uint32_t n = t->n;
    for (size_t i = 0; i < (size_t)t->a.n_heads * n * n; i++) {
        double ws = t->want_s[i], wp = t->want_p[i];
        if (isinf(ws) ? s[i] != -INFINITY : !(fabs((double)s[i] - ws) < 1e-5)) fail_msg("score %zu is %g, %g expected", i, (double)s[i], ws);
        /* scores of up to 20 carry an error of 2e-6, which e^x passes on */
        if (wp == 0 ? p[i] != 0 : !(fabs((double)p[i] / wp - 1) < 1.5e-5)) fail_msg("probability %zu is %g, %g expected", i, (double)p[i], wp);
    }
    for (size_t r = 0; r < (size_t)t->a.n_heads * n; r++) {
        double sum = 0;
        for (uint32_t j = 0; j < n; j++) sum += (double)p[r * n + j];
        assert_true(fabs(sum - 1) < 1e-6);
    }
}

static void test_reads(void **state)
{
    (void)state;
    uint64_t seed = 7;
    for (size_t s = 0; s < N_KINDS; s++) {
        struct tapped t = tapped_new(kinds[s], 60, &seed); /* long enough for blocks, were it not watched */
        size_t squares = (size_t)t.a.n_heads * t.n * t.n;
        float *scores = random_floats(&seed, squares, 1), *p = random_floats(&seed, squares, 1);
        struct tap tap[] = {source_tap(HOOK_ATTN_SCORES, TAP_READ, t.n, scores), source_tap(HOOK_PATTERN, TAP_READ, t.n, p)};
        tapped_expect(&t, NULL, NULL);
        tapped_run(&t, tap, 2);
        check_squares(&t, scores, p);
        check_close("z of a watched row", t.z, t.want_z, (size_t)t.n * t.a.n_heads * t.a.d_head, CLOSE, 0.1);
        free(scores), free(p);
        tapped_free(&t);
    }
}

/* Added scores are softmaxed, added probabilities mixed, and what is masked stays so whatever is written. */
static void test_writes(void **state)
{
    (void)state;
    uint64_t seed = 32;
    for (size_t s = 0; s < N_KINDS; s++) {
        struct tapped t = tapped_new(kinds[s], 21, &seed);
        size_t squares = (size_t)t.a.n_heads * t.n * t.n;
        float *add_s = random_floats(&seed, squares, 2), *add_p = random_floats(&seed, squares, 0.1), *got = malloc(squares * sizeof *got);
        double *wide_s = widened(add_s, squares), *wide_p = widened(add_p, squares);
        struct tap tap[] = {source_tap(HOOK_ATTN_SCORES, TAP_ADD, t.n, add_s), source_tap(HOOK_PATTERN, TAP_ADD, t.n, add_p),
                            source_tap(HOOK_PATTERN, TAP_READ, t.n, got)};
        tapped_expect(&t, wide_s, wide_p);
        tapped_run(&t, tap, 3);
        check_close("z of a written row", t.z, t.want_z, (size_t)t.n * t.a.n_heads * t.a.d_head, CLOSE, 0.1);
        check_close("written pattern", got, t.want_p, squares, CLOSE, 0.1);
        size_t seen = 0;
        for (uint32_t i = 0; i < t.n; i++) seen += i + 1 - first_seen(&t.a, i);
        assert_int_equal(tap[0].elements, seen * t.a.n_heads);
        assert_int_equal(tap[1].elements, seen * t.a.n_heads);
        assert_true(tap[0].max_change > 0 && tap[0].max_change <= 2);
        free(add_s), free(add_p), free(got), free(wide_s), free(wide_p);
        tapped_free(&t);
    }
}

/* ---- backward ---------------------------------------------------------------------------------- */

struct backward_case {
    struct tapped *t;
    const float *c; /* gradient of z */
    double *nudge_s, *nudge_p;
};

static double backward_reference(void *ctx)
{
    struct backward_case *k = ctx;
    double sum = 0;
    tapped_expect(k->t, k->nudge_s, k->nudge_p);
    for (size_t i = 0; i < (size_t)k->t->n * k->t->a.n_heads * k->t->a.d_head; i++) sum += k->t->want_z[i] * (double)k->c[i];
    return sum;
}

static double *slopes(struct backward_case *k, double *x, size_t n)
{
    double *d = zero_doubles(n);
    for (size_t i = 0; i < n; i++) d[i] = slope(backward_reference, k, &x[i], STEP);
    return d;
}

/* Two sequences after each other in one call, [q|k|v] side by side; scores and pattern watched. */
static void check_backward(struct kind kind, const uint32_t rows[2], uint64_t *seed)
{
    struct err e = {0};
    uint32_t n = rows[0] + rows[1];
    size_t wide = (size_t)kind.H * kind.e, width = (size_t)kind.G * kind.e, row = wide + 2 * width;
    float *qkv = malloc(n * row * sizeof *qkv), *dz = random_floats(seed, n * wide, 1), *got = random_floats(seed, n * row, 9), *dsp[2][2];
    double *want = zero_doubles(n * row), *want_sp[2][2];
    struct span span[2] = {{.n_rows = rows[0]}, {.seq = 1, .first_row = rows[0], .n_rows = rows[1]}};
    struct tap tap[4];
    struct arch a = arch_of(kind);
    for (uint32_t i = 0, first = 0; i < 2; first += rows[i++]) {
        struct tapped t = tapped_new(kind, rows[i], seed);
        size_t squares = (size_t)kind.H * rows[i] * rows[i];
        struct backward_case k = {&t, dz + first * wide, zero_doubles(squares), zero_doubles(squares)};
        memcpy(qkv + first * row, t.qkv, rows[i] * row * sizeof *qkv);
        double *d[3] = {slopes(&k, t.q, rows[i] * wide), slopes(&k, t.k, rows[i] * width), slopes(&k, t.v, rows[i] * width)};
        for (uint32_t r = 0; r < rows[i]; r++) {
            double *to = want + (first + r) * row;
            memcpy(to, d[0] + r * wide, wide * sizeof *to);
            memcpy(to + wide, d[1] + r * width, width * sizeof *to);
            memcpy(to + wide + width, d[2] + r * width, width * sizeof *to);
        }
        want_sp[i][0] = slopes(&k, k.nudge_s, squares);
        want_sp[i][1] = slopes(&k, k.nudge_p, squares);
        for (int h = 0; h < 2; h++) {
            dsp[i][h] = random_floats(seed, squares, 9);
            tap[2 * i + h] = source_tap(h ? HOOK_PATTERN : HOOK_ATTN_SCORES, TAP_READ, rows[i], dsp[i][h]);
            tap[2 * i + h].seq = i;
        }
        free(d[0]), free(d[1]), free(d[2]), free(k.nudge_s), free(k.nudge_p);
        tapped_free(&t);
    }
    struct taps taps = {tap, 4};
    struct scratch scratch = {0};
    for (int watched = 0; watched < 2; watched++) {
        struct attention at = {&a, span, 2, LAYER, qkv, NULL, watched ? &taps : NULL};
        must(attention_backward(&at, dz, got, &scratch, &e), e);
        check_close("attention backward", got, want, n * row, CLOSE, 0);
    }
    for (int i = 0; i < 2; i++)
        for (int h = 0; h < 2; h++) {
            check_close(h ? "gradient of the pattern" : "gradient of scores", dsp[i][h], want_sp[i][h],
                        (size_t)kind.H * rows[i] * rows[i], CLOSE, 0.1);
            free(dsp[i][h]), free(want_sp[i][h]);
        }
    mem_drop(scratch.data);
    free(qkv), free(dz), free(got), free(want);
}

static void test_backward(void **state)
{
    (void)state;
    struct err e = {0};
    uint64_t seed = 8;
    static const uint32_t few[2] = {3, 9}, more[2] = {5, 18};
    must(blas_start(2, &e), e);
    for (size_t s = 0; s < N_KINDS; s++) check_backward(kinds[s], kinds[s].H * kinds[s].e > 60 ? few : more, &seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_decode_is_prefill),
        cmocka_unit_test(test_reads),
        cmocka_unit_test(test_writes),
        cmocka_unit_test(test_backward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
