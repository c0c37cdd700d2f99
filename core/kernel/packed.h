/* What is done with packed numbers, for every element type of weight files, by vectors: widening them
 * and multiplying rows of them with a few rows of x. Widened values are those of dtype_widen to the
 * bit (of numbers; the payload of a NaN may differ, but no file with a NaN is ever opened).
 *
 * The kernels are one source, core/kernel/packed_kernels.inc, compiled for several instruction sets.
 * The best that the machine has is chosen at each call of packed_kernels: that is a table look-up.
 *
 * A sum is taken in one order, whatever the rows around it and the number of rows of x: element i is
 * added to lane i % 16, and the lanes at the end by halves.
 */
#ifndef ENGRAM_PACKED_H
#define ENGRAM_PACKED_H

#include "core/file/quant.h"

enum { PACKED_FEW = 8 }; /* rows of x for which a packed row is decoded once, at most */

/* n rows of packed numbers, row_bytes apart, times m rows of x: y[m][n]. */
struct packed_rows {
    const unsigned char *row;
    size_t row_bytes, n, cols;
    const float *x;
    size_t m, ldx;
    float *y;
    size_t ldy;
    bool accumulate;
};

struct packed_kernels {
    void (*widen)(const unsigned char *src, float *dst, size_t n); /* n: whole blocks */
    void (*dot)(const struct packed_rows *r);
};

const struct packed_kernels *packed_kernels(enum dtype t);

/* The same for one instruction set, the plainest first: NULL where this machine or this build has it
 * not. For tests. */
enum { PACKED_LEVELS = 3 };
const struct packed_kernels *packed_kernels_at(int level, enum dtype t);

#endif
