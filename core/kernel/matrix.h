/* A weight matrix as it lies in memory: [rows][cols], row-major, of any element type of weight files
 * (core/file/quant.h), and its two products with float32 rows:
 *
 *     matrix_nt   y[m][rows]  = x[m][cols] · Wᵀ       forward
 *     matrix_nn   dx[m][cols] = g[m][rows] · W        backward
 *
 * Forward, up to MATRIX_FEW rows of x are multiplied with the rows as they are stored, decoded in registers
 * (core/kernel/packed.h): only the packed bytes are read. That serves float32 as well. For more
 * rows of x float32 matrices go to core/kernel/blas.h where they lie, others are widened first, a tile
 * of rows at a time. What is multiplied is in every case the value dtype_widen gives, to the bit.
 *
 * Matrices side by side (q | k | v) may be of different types: multiply one after the other, each
 * into its columns of y; in the backward product the second and later ones accumulate.
 *
 * A matrix is borrowed memory. ld* are row strides in floats; accumulate adds to the result instead
 * of overwriting it; the result must not overlap the inputs. Only the compute thread may call the
 * products, as with BLAS. Up to MATRIX_FEW rows of x, matrix_nt's results do not depend on the thread
 * count nor on how many rows are multiplied together; matrix_nn's are BLAS's always.
 */
#ifndef ENGRAM_MATRIX_H
#define ENGRAM_MATRIX_H

#include "core/base/mem.h"
#include "core/file/quant.h"
#include "par.h"

enum { MATRIX_FEW = 32 }; /* here the two ways forward are about as fast */

struct matrix {
    enum dtype type;
    const void *data;
    size_t rows, cols; /* cols: a whole number of the type's blocks */
    size_t row_bytes;  /* from one row to the next */
};

/* Rows that follow each other without a gap. */
struct matrix matrix_of(enum dtype type, const void *data, size_t rows, size_t cols);
/* n rows from `first` on, as a matrix of their own. */
struct matrix matrix_slice(const struct matrix *w, size_t first, size_t n);

/* Widen n rows from `first` on into dst[n][ld]. */
void matrix_rows_widen(const struct matrix *w, size_t first, size_t n, float *dst, size_t ld);

size_t matrix_scratch_bytes(size_t rows, size_t cols); /* for matrices up to this one */
bool matrix_nt(struct par *par, struct scratch *scratch, size_t m, const float *x, size_t ldx,
               const struct matrix *w, float *y, size_t ldy, bool accumulate, struct err *e) MUST_CHECK;
bool matrix_nn(struct par *par, struct scratch *scratch, size_t m, const float *g, size_t ldg,
               const struct matrix *w, float *dx, size_t lddx, bool accumulate, struct err *e) MUST_CHECK;

#endif
