/* The bound of arithmetic in the benches: FLOP/s of float32 products of one block's shapes on so many rows, all
 * layers, weights cold as in a real pass. Median of `repeats`. */
#ifndef ENGRAM_BENCH_RATE_H
#define ENGRAM_BENCH_RATE_H

#include "bench/clock.h"
#include "core/arch.h"
#include "core/base/mem.h"
#include "core/kernel/blas.h"

enum { MOST_REPEATS = 31 };

static inline double gemm_rate(const struct arch *a, size_t rows, int repeats)
{
    enum { COLD_BLOCKS = 8 };
    struct err e = {0};
    size_t d = a->d_model, z = (size_t)a->n_heads * a->d_head, q = z + 2 * (size_t)a->n_kv_heads * a->d_head,
           m = a->d_mlp, u = arch_branches(a) * m, each = d * q + d * z + d * u + d * m;
    float *x = mem_floats(rows * (2 * m + d), &e), *y = mem_floats(rows * (2 * m + q), &e), *w = mem_floats(COLD_BLOCKS * each, &e);
    double t[MOST_REPEATS];
    if (!x || !y || !w) die(&e);
    for (size_t i = 0; i < rows * (2 * m + d); i++) x[i] = (float)(i % 13) / 13;
    for (size_t i = 0; i < COLD_BLOCKS * each; i++) w[i] = (float)(i % 11) / 11;
    for (int r = 0; r < repeats; r++) {
        double start = now();
        for (uint32_t l = 0; l < a->n_layers; l++) {
            const float *p = w + l % COLD_BLOCKS * each;
            gemm_nt(rows, q, d, x, d, p, d, y, q, 1, false);
            gemm_nt(rows, d, z, x, z, p + d * q, z, y, d, 1, false);
            gemm_nt(rows, u, d, x, d, p + d * (q + z), d, y, u, 1, false);
            gemm_nt(rows, d, m, x, m, p + d * (q + z + u), m, y, d, 1, false);
        }
        t[r] = now() - start;
    }
    mem_drop(x);
    mem_drop(y);
    mem_drop(w);
    return 2.0 * (double)rows * a->n_layers * (double)each / median(t, repeats);
}

#endif
