/* Products of at most MATRIX_FEW rows of x with packed weights, inside core/kernel/matrix.c: rows
 * [from, to) of w only, so that threads can share them. Each sum is taken in the same order whatever
 * the range and m. */
#ifndef ENGRAM_MATRIX_FEW_H
#define ENGRAM_MATRIX_FEW_H

#include "matrix.h"

void matrix_few_rows(const struct matrix *w, size_t from, size_t to, size_t m, const float *x, size_t ldx,
                     float *y, size_t ldy, bool accumulate);

#endif
