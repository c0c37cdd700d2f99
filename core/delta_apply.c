/* The one place that adds a delta to weights. Built with -ffp-contract=off and free of BLAS: each
 * product and each sum is rounded to float32 in the written order, so the bytes are the same for
 * every compiler flag, thread count and machine. */
#include "delta.h"

#ifdef __FAST_MATH__
#error "deltas must be applied in strict arithmetic"
#endif

static void add_dense(const float *change, size_t n, float *w)
{
    for (size_t i = 0; i < n; i++) w[i] = w[i] + change[i];
}

/* Row by row: acc[j] = ((a0·b0j) + a1·b1j) + …, then w ← w + acc. */
static void add_lowrank(const struct delta_part *p, uint32_t rows, uint32_t cols, float *w)
{
    enum { WIDE = 256 };
    float acc[WIDE];
    for (size_t i = 0; i < rows; i++)
        for (size_t from = 0; from < cols; from += WIDE) {
            size_t n = cols - from < WIDE ? cols - from : WIDE;
            for (size_t j = 0; j < n; j++) acc[j] = 0.0f;
            for (size_t r = 0; r < p->rank; r++) {
                const float a = p->a[i * p->rank + r], *b = p->b + r * cols + from;
                for (size_t j = 0; j < n; j++) {
                    float product = a * b[j];
                    acc[j] = acc[j] + product;
                }
            }
            add_dense(acc, n, w + i * cols + from);
        }
}

void delta_apply(const struct delta_part *p, uint32_t rows, uint32_t cols, float *w)
{
    if (p->kind == DELTA_DENSE) add_dense(p->a, (size_t)rows * cols, w);
    else add_lowrank(p, rows, cols, w);
}
