/* A linear map of the block as its weights lie in memory: y = x·Wᵀ + b, from one matrix or from up
 * to three side by side (q|k|v, gate|up) whose outputs follow each other. Matrices of neighbours
 * that share a type and follow each other in memory are one part, and so one product.
 *
 *     x [R][in],  y [R][out]      W [out][in], or [in][out] in input-major families
 *
 * Borrowed from a view; used by the compute thread only.
 */
#ifndef ENGRAM_LINEAR_H
#define ENGRAM_LINEAR_H

#include "session.h"

struct linear_part {
    struct matrix w;
    const float *bias; /* [out of the part] or NULL */
    uint32_t first, n; /* output columns */
};

struct linear {
    uint32_t in, out;
    bool input_major;
    unsigned n_parts;
    struct linear_part part[3];
};

/* y ← x·Wᵀ + b. */
bool linear_forward(struct session *s, const struct linear *l, const float *x, size_t ldx, size_t rows,
                    float *y, size_t ldy, struct err *e) MUST_CHECK;
/* dx ← dy·W. */
bool linear_backward(struct session *s, const struct linear *l, const float *dy, size_t lddy, size_t rows,
                     float *dx, size_t lddx, struct err *e) MUST_CHECK;
/* dw, laid out as all parts one after the other, += Σ over rows of dy ⊗ x. */
void linear_weight_grad(const struct linear *l, const float *dy, size_t lddy, const float *x, size_t ldx,
                        size_t rows, float *dw);
/* db [out] += Σ over rows of dy. */
void linear_bias_grad(const struct linear *l, const float *dy, size_t lddy, size_t rows, float *db);

/* The weights that make outputs [first, first + n), which lie in one part: w [n][in], in float32; and
 * their biases, NULL for none. */
void linear_outputs(const struct linear *l, uint32_t first, uint32_t n, float *w);
const float *linear_bias(const struct linear *l, uint32_t first, uint32_t n);
/* The weights that read inputs [first, first + n) of a map of one part: w [out][n], in float32. */
void linear_inputs(const struct linear *l, uint32_t first, uint32_t n, float *w);

#endif
