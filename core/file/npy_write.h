/* Writing NumPy's .npy: a header, then the elements in C order. (numpy.lib.format, version 1.0.)
 *
 *     6 bytes "\x93NUMPY" · version 1, 0 · length of the text, 2 bytes · the text, a Python dict of
 *     descr, fortran_order and shape, padded with spaces and one newline so that data begin at a
 *     multiple of 64
 *
 * Elements are little-endian float32, as this machine has them. Plain memory, one thread.
 */
#ifndef ENGRAM_NPY_WRITE_H
#define ENGRAM_NPY_WRITE_H

#include "core/base/mem.h"

/* Append the bytes that precede the data. */
void npy_header(struct buf *out, uint32_t n_dims, const uint64_t *shape);

#endif
