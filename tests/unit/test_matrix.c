/* Packed matrices: widened rows against dtype_widen to the bit, products against float64 loops over
 * those values, for every element type, ragged sizes, and any number of threads.
 *
 * Tolerance: a float32 sum of a thousand terms is off by some 1e-6 of the largest result. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/mem.h"
#include "core/kernel/blas.h"
#include "core/kernel/matrix.h"
#include "core/kernel/packed.h"
#include "support/numbers.h"

#define CLOSE 1e-5

/* Where a block's scales lie (float16, Q8_K's float32), so that random blocks have values of ordinary size. Every type
 * has its row: without one its scales would be random bits. */
static const struct scales {
    uint8_t n, at[2];
} scales[DTYPE_COUNT] = {
    [DTYPE_Q4_0] = {1, {0}}, [DTYPE_Q4_1] = {2, {0, 2}}, [DTYPE_Q5_0] = {1, {0}},
    [DTYPE_Q5_1] = {2, {0, 2}}, [DTYPE_Q8_0] = {1, {0}}, [DTYPE_IQ4_NL] = {1, {0}},
    [DTYPE_Q2_K] = {2, {80, 82}}, [DTYPE_Q3_K] = {1, {108}}, [DTYPE_Q4_K] = {2, {0, 2}},
    [DTYPE_Q5_K] = {2, {0, 2}}, [DTYPE_Q6_K] = {1, {208}}, [DTYPE_Q8_K] = {1, {0}},
    [DTYPE_IQ4_XS] = {1, {0}},
};

static void fill_block(uint64_t *seed, enum dtype t, unsigned char *b)
{
    const struct dtype_info *d = dtype_info(t);
    float x = (float)uniform(seed, 1);
    uint16_t half = t == DTYPE_F16 ? f32_to_f16(x) : f32_to_bf16(x);
    if (t == DTYPE_F32) memcpy(b, &x, sizeof x);
    else if (d->block == 1) memcpy(b, &half, sizeof half);
    else {
        assert_true(scales[t].n > 0);
        for (uint32_t i = 0; i < d->bytes; i++) b[i] = (unsigned char)below(seed, 256);
        for (uint32_t i = 0; i < scales[t].n; i++) {
            x = (float)uniform(seed, 0.02), half = f32_to_f16(x);
            memcpy(b + scales[t].at[i], t == DTYPE_Q8_K ? (void *)&x : (void *)&half, t == DTYPE_Q8_K ? sizeof x : sizeof half);
        }
    }
}

/* Rows with `gap` bytes between them; free data with test's free. */
static struct matrix random_matrix(uint64_t *seed, enum dtype t, size_t rows, size_t cols, size_t gap)
{
    const struct dtype_info *d = dtype_info(t);
    struct matrix w = matrix_of(t, NULL, rows, cols);
    w.row_bytes += gap;
    unsigned char *bytes = malloc(rows * w.row_bytes);
    assert_non_null(bytes);
    memset(bytes, 0xFF, rows * w.row_bytes); /* NaN between the rows */
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < cols / d->block; i++)
            fill_block(seed, t, bytes + r * w.row_bytes + i * d->bytes);
    w.data = bytes;
    return w;
}

static void free_matrix(struct matrix *w) { free((void *)(uintptr_t)w->data); }

/* [rows][cols] by the definition. */
static float *values_of(const struct matrix *w)
{
    float *v = malloc(w->rows * w->cols * sizeof *v);
    assert_non_null(v);
    for (size_t r = 0; r < w->rows; r++)
        dtype_widen(w->type, (const unsigned char *)w->data + r * w->row_bytes, v + r * w->cols, w->cols);
    return v;
}

static size_t columns(enum dtype t, size_t wanted)
{
    size_t block = dtype_info(t)->block;
    return (wanted + block - 1) / block * block;
}

static void rows_widen_to_the_bit(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (unsigned t = 0; t < DTYPE_COUNT; t++)
        for (size_t gap = 0; gap < 4; gap += 3) {
            size_t cols = columns(t, 77), ld = cols + 5;
            struct matrix w = random_matrix(&seed, t, 7, cols, gap);
            float *want = values_of(&w), *got = random_floats(&seed, 3 * ld, 1), *kept = random_floats(&seed, 3 * ld, 1);
            memcpy(kept, got, 3 * ld * sizeof *got);
            matrix_rows_widen(&w, 2, 3, got, ld);
            for (size_t r = 0; r < 3; r++) {
                assert_memory_equal(got + r * ld, want + (r + 2) * cols, cols * sizeof *got);
                assert_memory_equal(got + r * ld + cols, kept + r * ld + cols, 5 * sizeof *got);
            }
            free(want), free(got), free(kept), free_matrix(&w);
        }
}

/* Any bytes at all, for each instruction set there is; corners of scales come of themselves in so many. */
static void every_instruction_set_widens_to_the_bit(void **state)
{
    (void)state;
    uint64_t seed = 6;
    int levels = 0;
    for (unsigned t = 0; t < DTYPE_COUNT; t++)
        for (int level = 0; level < PACKED_LEVELS; level++) {
            const struct packed_kernels *k = packed_kernels_at(level, t);
            const struct dtype_info *d = dtype_info(t);
            if (!k) continue;
            levels |= 1 << level;
            for (int round = 0; round < 400; round++) {
                unsigned char block[300] = {0};
                float want[256], got[256];
                assert_true(d->bytes < sizeof block && d->block <= 256);
                for (uint32_t i = 0; i < d->bytes; i++)
                    block[1 + i] = (unsigned char)(below(&seed, 8) ? below(&seed, 256) : round % 2 ? 0x80u : 0u);
                dtype_widen(t, block + 1, want, d->block);
                k->widen(block + 1, got, d->block);
                for (uint32_t i = 0; i < d->block; i++)
                    if (isnan(want[i]) ? !isnan(got[i]) : memcmp(&got[i], &want[i], sizeof *got) != 0)
                        fail_msg("%s, level %d, element %u: %a instead of %a", d->word, level, i, (double)got[i],
                                 (double)want[i]);
            }
        }
    assert_true(levels & 1);
}

/* The halves that are not NaN, all of them. */
static void every_half_widens_to_the_bit(void **state)
{
    (void)state;
    static uint16_t half[65536];
    static float want[65536], got[65536];
    for (unsigned i = 0; i < 65536; i++) half[i] = (uint16_t)i;
    for (int t = DTYPE_F16; t <= DTYPE_BF16; t++) {
        dtype_widen(t, half, want, 65536);
        for (int level = 0; level < PACKED_LEVELS; level++) {
            const struct packed_kernels *k = packed_kernels_at(level, t);
            if (!k) continue;
            k->widen((const unsigned char *)half, got, 65536);
            for (unsigned i = 0; i < 65536; i++)
                if (isnan(want[i]) ? !isnan(got[i]) : memcmp(&got[i], &want[i], sizeof *got) != 0)
                    fail_msg("%s %04x, level %d: %a instead of %a", dtype_info(t)->word, i, level, (double)got[i],
                             (double)want[i]);
        }
    }
}

static void every_instruction_set_multiplies(void **state)
{
    (void)state;
    enum { ROWS = 11, M = 19, LDY = ROWS + 1 };
    uint64_t seed = 7;
    for (unsigned t = 0; t < DTYPE_COUNT; t++) {
        struct matrix w = random_matrix(&seed, t, ROWS, columns(t, 300), 2 * below(&seed, 2));
        float *v = values_of(&w), *x = random_floats(&seed, M * w.cols, 1);
        double want[M * LDY] = {0};
        for (size_t i = 0; i < M; i++)
            for (size_t r = 0; r < ROWS; r++)
                for (size_t c = 0; c < w.cols; c++)
                    want[i * LDY + r] += (double)x[i * w.cols + c] * (double)v[r * w.cols + c];
        for (int level = 0; level < PACKED_LEVELS; level++) {
            const struct packed_kernels *k = packed_kernels_at(level, t);
            float all[M * LDY] = {0};
            if (!k) continue;
            k->dot(&(struct packed_rows){w.data, w.row_bytes, ROWS, w.cols, x, M, w.cols, all, LDY, false});
            check_close(dtype_info(t)->word, all, want, M * LDY, CLOSE, 1);
            for (size_t m = 1; m <= PACKED_FEW; m++) { /* the same to the bit, whatever the company */
                float few[PACKED_FEW * LDY] = {0};
                k->dot(&(struct packed_rows){w.data, w.row_bytes, ROWS, w.cols, x, m, w.cols, few, LDY, false});
                assert_memory_equal(few, all, m * LDY * sizeof *few);
            }
        }
        free(v), free(x), free_matrix(&w);
    }
}

struct sides { /* both results of one matrix and m rows, and the space around them */
    size_t m, ldx, ldy;
    float *x, *y, *g, *dx;
};

static struct sides some_rows(uint64_t *seed, const struct matrix *w, size_t m)
{
    struct sides s = {.m = m, .ldx = w->cols + 3, .ldy = w->rows + 2};
    s.x = random_floats(seed, m * s.ldx, 1), s.dx = random_floats(seed, m * s.ldx, 1);
    s.g = random_floats(seed, m * s.ldy, 1), s.y = random_floats(seed, m * s.ldy, 1);
    return s;
}

static void free_sides(struct sides *s) { free(s->x), free(s->y), free(s->g), free(s->dx); }

/* What the products should make of s: the padding, and with `add` the old values, stay. */
static void expect(const struct matrix *w, const struct sides *s, bool add, double *y, double *dx)
{
    float *v = values_of(w);
    for (size_t i = 0; i < s->m * s->ldy; i++) y[i] = (double)s->y[i];
    for (size_t i = 0; i < s->m * s->ldx; i++) dx[i] = (double)s->dx[i];
    for (size_t i = 0; i < s->m; i++) {
        for (size_t r = 0; r < w->rows; r++) {
            double sum = add ? y[i * s->ldy + r] : 0;
            for (size_t c = 0; c < w->cols; c++) sum += (double)s->x[i * s->ldx + c] * (double)v[r * w->cols + c];
            y[i * s->ldy + r] = sum;
        }
        for (size_t c = 0; c < w->cols; c++) {
            double sum = add ? dx[i * s->ldx + c] : 0;
            for (size_t r = 0; r < w->rows; r++) sum += (double)s->g[i * s->ldy + r] * (double)v[r * w->cols + c];
            dx[i * s->ldx + c] = sum;
        }
    }
    free(v);
}

static void multiply(const struct matrix *w, struct sides *s, bool add, int threads)
{
    struct err e;
    struct scratch scratch = {0};
    struct par *par = par_new(threads, &e);
    assert_non_null(par);
    assert_true(matrix_nt(par, &scratch, s->m, s->x, s->ldx, w, s->y, s->ldy, add, &e));
    assert_true(matrix_nn(par, &scratch, s->m, s->g, s->ldy, w, s->dx, s->ldx, add, &e));
    par_free(par);
    mem_drop(scratch.data);
}

static void check_products(uint64_t *seed, enum dtype t, size_t rows, size_t cols, size_t m, int threads)
{
    struct matrix w = random_matrix(seed, t, rows, columns(t, cols), t == DTYPE_F32 ? 4 * below(seed, 2) : below(seed, 3));
    for (int add = 0; add < 2; add++) {
        struct sides s = some_rows(seed, &w, m);
        double *y = zero_doubles(m * s.ldy), *dx = zero_doubles(m * s.ldx);
        char what[64];
        expect(&w, &s, add, y, dx);
        multiply(&w, &s, add, threads);
        (void)snprintf(what, sizeof what, "%s, m %zu, %zu x %zu", dtype_info(t)->word, m, rows, w.cols);
        check_close(what, s.y, y, m * s.ldy, CLOSE, 1);
        check_close(what, s.dx, dx, m * s.ldx, CLOSE, 1);
        free(y), free(dx), free_sides(&s);
    }
    free_matrix(&w);
}

static void products_are_those_of_the_widened_rows(void **state)
{
    (void)state;
    static const size_t rows[] = {1, 2, 3, 5, 64, 131}, ms[] = {1, 2, 3, 4, 5, 8, 9, 17, 33, 300};
    uint64_t seed = 2;
    for (unsigned t = 0; t < DTYPE_COUNT; t++)
        for (size_t m = 0; m < sizeof ms / sizeof *ms; m++)
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
                check_products(&seed, t, rows[r], 1 + below(&seed, 150), ms[m], 1 + (int)below(&seed, 3));
}

/* Rows so wide, and so many, that they make several tiles. */
static void large_matrices_are_multiplied_by_tiles(void **state)
{
    (void)state;
    uint64_t seed = 3;
    check_products(&seed, DTYPE_BF16, 17, 300000, MATRIX_FEW + 1, 2);
    check_products(&seed, DTYPE_Q4_K, 3000, 1700, MATRIX_FEW + 1, 3);
}

static void few_rows_do_not_depend_on_threads_or_company(void **state)
{
    (void)state;
    enum { ROWS = 37 };
    uint64_t seed = 4;
    for (unsigned t = 0; t < DTYPE_COUNT; t++) {
        struct matrix w = random_matrix(&seed, t, ROWS, columns(t, 600), 0);
        struct sides s = some_rows(&seed, &w, MATRIX_FEW), one = s;
        float *y = random_floats(&seed, MATRIX_FEW * s.ldy, 1);
        memcpy(y, s.y, MATRIX_FEW * s.ldy * sizeof *y);
        struct sides first = s;
        first.y = y;
        multiply(&w, &first, false, 1);
        for (int threads = 1; threads <= 3; threads++) {
            multiply(&w, &s, false, threads);
            assert_memory_equal(s.y, y, MATRIX_FEW * s.ldy * sizeof *y);
        }
        one.m = 1;
        for (size_t i = 0; i < MATRIX_FEW; i++) {
            one.x = s.x + i * s.ldx, one.y = s.y + i * s.ldy;
            memset(one.y, 0, ROWS * sizeof *y);
            multiply(&w, &one, false, 2);
        }
        assert_memory_equal(s.y, y, MATRIX_FEW * s.ldy * sizeof *y);
        free(y), free_sides(&s), free_matrix(&w);
    }
}

static void a_slice_is_its_rows(void **state)
{
    (void)state;
    uint64_t seed = 5;
    struct matrix w = random_matrix(&seed, DTYPE_Q4_1, 9, 64, 1), s = matrix_slice(&w, 4, 3);
    float a[3 * 64], b[3 * 64];
    assert_int_equal(s.rows, 3);
    matrix_rows_widen(&w, 4, 3, a, 64);
    matrix_rows_widen(&s, 0, 3, b, 64);
    assert_memory_equal(a, b, sizeof a);
    free_matrix(&w);
}

static void no_memory_is_an_error(void **state)
{
    (void)state;
    struct err e;
    struct par *par = par_new(1, &e);
    struct scratch scratch = {0};
    float x = 0; /* never read: the scratch is asked for first */
    struct matrix vast = {DTYPE_BF16, &x, 1, SIZE_MAX / 2, SIZE_MAX - 1};
    assert_false(matrix_nt(par, &scratch, MATRIX_FEW + 1, &x, 0, &vast, &x, 0, false, &e));
    assert_int_equal(e.code, ERR_NO_MEMORY);
    assert_false(matrix_nn(par, &scratch, 1, &x, 0, &vast, &x, 0, false, &e));
    assert_int_equal(e.code, ERR_NO_MEMORY);
    assert_true(scratch.data == NULL && scratch.floats == 0);
    par_free(par);
}

static int start(void **state)
{
    (void)state;
    struct err e;
    return blas_start(2, &e) ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_widen_to_the_bit),
        cmocka_unit_test(every_instruction_set_widens_to_the_bit),
        cmocka_unit_test(every_half_widens_to_the_bit),
        cmocka_unit_test(every_instruction_set_multiplies),
        cmocka_unit_test(products_are_those_of_the_widened_rows),
        cmocka_unit_test(large_matrices_are_multiplied_by_tiles),
        cmocka_unit_test(few_rows_do_not_depend_on_threads_or_company),
        cmocka_unit_test(a_slice_is_its_rows),
        cmocka_unit_test(no_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, start, NULL);
}
