#include "matrix_few.h"

#include <assert.h>

#include "simd.h"

enum { PIECE = 512 }; /* a whole number of any type's blocks, small enough for the first cache */

KERNEL static void dot_piece(const float *w, size_t n, size_t m, const float *x, size_t ldx, v16 *sum)
{
    for (size_t i = 0; i < m; i++) {
        const float *xi = x + i * ldx;
        v16 s = sum[i];
        size_t c = 0;
        for (; c + LANES <= n; c += LANES) s += load16(w + c) * load16(xi + c);
        if (c < n) s += load_tail(w + c, (uint32_t)(n - c), 0) * load_tail(xi + c, (uint32_t)(n - c), 0);
        sum[i] = s;
    }
}

void matrix_few_rows(const struct matrix *w, size_t from, size_t to, size_t m, const float *x, size_t ldx,
                     float *y, size_t ldy, bool accumulate)
{
    const struct dtype_info *d = dtype_info(w->type);
    float piece[PIECE];
    assert(m <= MATRIX_FEW && PIECE % d->block == 0);
    for (size_t r = from; r < to; r++) {
        const unsigned char *row = (const unsigned char *)w->data + r * w->row_bytes;
        v16 sum[MATRIX_FEW] = {{0}};
        for (size_t c = 0; c < w->cols; c += PIECE) {
            size_t n = w->cols - c < PIECE ? w->cols - c : PIECE;
            dtype_widen(w->type, row + c / d->block * d->bytes, piece, n);
            dot_piece(piece, n, m, x + c, ldx, sum);
        }
        for (size_t i = 0; i < m; i++) {
            float *at = y + i * ldy + r;
            *at = (accumulate ? *at : 0.0f) + sum16(sum[i]);
        }
    }
}
