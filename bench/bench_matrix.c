/* How fast matrices of each element type are multiplied, beside what this machine allows: bytes of
 * weights a second over the measured read bandwidth, and FLOP/s over those of SGEMM on float32
 * matrices of the same shape. Weights are cold, as in a real pass: there are more of them than the
 * cache holds.
 *
 *     build/bench_matrix [repeats]
 *
 * The bounds are measured in turn with what they bound, and medians of ratios are printed: the
 * machine may be noisy.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/clock.h"
#include "core/base/mem.h"
#include "core/kernel/blas.h"
#include "core/kernel/matrix.h"

enum { ROWS = 1536, COLS = 1536, MATRICES = 24, THREADS = 2, MOST_ROWS = 512, MOST_REPEATS = 31 };

struct bench {
    struct par *par;
    struct scratch scratch;
    unsigned char *weights; /* MATRICES of up to float32 */
    float *x, *y;
    int repeats;
    struct err e;
};

/* ---- bounds ------------------------------------------------------------------------------------ */

struct read_job {
    const unsigned char *p;
    float sum[THREADS];
};

static void read_range(void *ctx, size_t from, size_t to, int thread)
{
    struct read_job *j = ctx;
    typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));
    v16 a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t i = from; i < to; i++) { /* units of 256 bytes */
        const v16 *p = (const v16 *)(const void *)(j->p + 256 * i);
        a += p[0];
        b += p[1];
        c += p[2];
        d += p[3];
    }
    a += b + c + d;
    j->sum[thread] = a[0];
}

/* Seconds to read as many bytes as the matrices of a type have. */
static double time_read(struct bench *b, size_t bytes)
{
    struct read_job j = {.p = b->weights};
    double start = now();
    par_for(b->par, bytes / 256, read_range, &j);
    return now() - start;
}

static double time_products(struct bench *b, enum dtype t, size_t m, bool backward)
{
    struct matrix one = matrix_of(t, NULL, ROWS, COLS);
    double start = now();
    for (size_t i = 0; i < MATRICES; i++) {
        struct matrix w = matrix_of(t, b->weights + i * ROWS * one.row_bytes, ROWS, COLS);
        bool ok = backward ? matrix_nn(b->par, &b->scratch, m, b->x, ROWS, &w, b->y, COLS, false, &b->e)
                           : matrix_nt(b->par, &b->scratch, m, b->x, COLS, &w, b->y, ROWS, false, &b->e);
        if (!ok) die(&b->e);
    }
    return now() - start;
}

static double time_sgemm(struct bench *b, size_t m, bool backward)
{
    double start = now();
    for (size_t i = 0; i < MATRICES; i++) {
        const float *w = (const float *)(const void *)b->weights + i * ROWS * COLS;
        if (backward) gemm_nn(m, COLS, ROWS, b->x, ROWS, w, COLS, b->y, COLS, 1, false);
        else gemm_nt(m, ROWS, COLS, b->x, COLS, w, COLS, b->y, ROWS, 1, false);
    }
    return now() - start;
}

/* ---- figures ----------------------------------------------------------------------------------- */

/* Bytes that are small numbers of every type: exponents of 16-bit and 32-bit numbers in the middle. */
static void fill(unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) p[i] = i % 2 ? (unsigned char)(0x3C - i / 2 % 3) : (unsigned char)(i * 2654435761u >> 13);
}

static void report(struct bench *b, enum dtype t, size_t m, bool backward)
{
    const double flops = 2.0 * (double)m * ROWS * COLS * MATRICES;
    struct matrix one = matrix_of(t, NULL, ROWS, COLS);
    const size_t bytes = MATRICES * ROWS * one.row_bytes;
    double ours[MOST_REPEATS], of_read[MOST_REPEATS], of_gemm[MOST_REPEATS];
    for (int r = 0; r < b->repeats; r++) {
        double read = time_read(b, bytes), gemm = time_sgemm(b, m, backward);
        ours[r] = time_products(b, t, m, backward);
        of_read[r] = read / ours[r];
        of_gemm[r] = gemm / ours[r];
    }
    double s = median(ours, b->repeats);
    printf("%-7s %4zu %s %8.2f GB/s %4.0f %% of reading %8.1f GFLOP/s %6.2f x SGEMM\n", dtype_info(t)->word, m,
           backward ? "·W " : "·Wᵀ", (double)bytes / s / 1e9, 100 * median(of_read, b->repeats), flops / s / 1e9,
           median(of_gemm, b->repeats));
}

int main(int argc, char **argv)
{
    static const size_t ms[] = {1, 4, 8, 64, 512};
    struct bench b = {.repeats = 5};
    if (argc > 1) b.repeats = atoi(argv[1]) < 1 ? 1 : atoi(argv[1]) > MOST_REPEATS ? MOST_REPEATS : atoi(argv[1]);
    const size_t floats = (size_t)MATRICES * ROWS * COLS;
    if (!blas_start(THREADS, &b.e) || !(b.par = par_new(THREADS, &b.e))) die(&b.e);
    float *weights = mem_floats(floats, &b.e);
    b.weights = (unsigned char *)weights;
    b.x = mem_floats((size_t)MOST_ROWS * ROWS, &b.e), b.y = mem_floats((size_t)MOST_ROWS * ROWS, &b.e);
    if (!b.weights || !b.x || !b.y) die(&b.e);
    fill(b.weights, floats * sizeof(float));
    for (size_t i = 0; i < (size_t)MOST_ROWS * ROWS; i++) b.x[i] = (float)(i % 13) / 13;
    printf("%s, %d threads, %d matrices of %d x %d: reading at %.1f GB/s\n", blas_kernel(), THREADS, MATRICES, ROWS,
           COLS, (double)floats * sizeof(float) / time_read(&b, floats * sizeof(float)) / 1e9);
    for (unsigned t = 0; t < DTYPE_COUNT; t++)
        for (size_t i = 0; i < sizeof ms / sizeof *ms; i++) report(&b, t, ms[i], false);
    for (unsigned t = 0; t < DTYPE_COUNT; t++) report(&b, t, 512, true);
    mem_drop(weights);
    mem_drop(b.x);
    mem_drop(b.y);
    mem_drop(b.scratch.data);
    par_free(b.par);
    return 0;
}
