#include "matrix.h"

#include <assert.h>

#include "blas.h"
#include "core/base/mem.h"
#include "packed.h"

/* A widened tile is written by all threads and read back by the product at once. It pays to make it
 * large, as long as the last cache still holds it: BLAS packs its other operand anew for every tile. */
enum { TILE_FLOATS = 1 << 22 };

struct matrix matrix_of(enum dtype type, const void *data, size_t rows, size_t cols)
{
    const struct dtype_info *d = dtype_info(type);
    assert(cols % d->block == 0);
    return (struct matrix){type, data, rows, cols, cols / d->block * d->bytes};
}

struct matrix matrix_slice(const struct matrix *w, size_t first, size_t n)
{
    assert(first <= w->rows && n <= w->rows - first);
    struct matrix s = *w;
    s.data = (const unsigned char *)w->data + first * w->row_bytes;
    s.rows = n;
    return s;
}

void matrix_rows_widen(const struct matrix *w, size_t first, size_t n, float *dst, size_t ld)
{
    assert(first <= w->rows && n <= w->rows - first);
    const unsigned char *row = (const unsigned char *)w->data + first * w->row_bytes;
    const struct packed_kernels *k = packed_kernels(w->type);
    for (size_t i = 0; i < n; i++) k->widen(row + i * w->row_bytes, dst + i * ld, w->cols);
}

/* ---- by tiles ---------------------------------------------------------------------------------- */

struct tile {
    const struct matrix *w;
    size_t first;
    float *dst; /* [rows of the tile][cols] */
};

static void widen_range(void *ctx, size_t from, size_t to, int thread)
{
    const struct tile *t = ctx;
    (void)thread;
    matrix_rows_widen(t->w, t->first + from, to - from, t->dst + from * t->w->cols, t->w->cols);
}

/* As few tiles as possible, of about the same height. */
static size_t tile_rows(const struct matrix *w)
{
    size_t most = TILE_FLOATS / w->cols ? TILE_FLOATS / w->cols : 1, tiles = (w->rows + most - 1) / most;
    return (w->rows + tiles - 1) / tiles;
}

size_t matrix_scratch_bytes(size_t rows, size_t cols)
{
    size_t most = TILE_FLOATS / cols ? TILE_FLOATS / cols : 1;
    return mem_floats_bytes((rows < most ? rows : most) * cols);
}

/* ---- a few rows -------------------------------------------------------------------------------- */

struct few {
    const struct matrix *w;
    struct packed_rows all; /* y and row of the whole matrix */
};

static void few_range(void *ctx, size_t from, size_t to, int thread)
{
    const struct few *f = ctx;
    struct packed_rows r = f->all;
    (void)thread;
    r.row += from * r.row_bytes;
    r.y += from;
    r.n = to - from;
    packed_kernels(f->w->type)->dot(&r);
}

/* ---- products ---------------------------------------------------------------------------------- */

/* A float32 matrix whose rows can be handed to BLAS where they lie. */
static const float *as_floats(const struct matrix *w)
{
    bool aligned = ((uintptr_t)w->data | w->row_bytes) % sizeof(float) == 0;
    return w->type == DTYPE_F32 && aligned ? w->data : NULL;
}

/* Calls `use` for each tile of w, widened: n rows from `first` on. */
struct by_tiles {
    void (*use)(const struct by_tiles *p, const float *tile, size_t first, size_t n);
    const struct matrix *w;
    size_t m, lda, ldc;
    const float *a;
    float *c;
    bool accumulate;
};

static bool each_tile(struct par *par, struct scratch *scratch, const struct by_tiles *p, struct err *e)
{
    size_t most = tile_rows(p->w);
    if (!scratch_grow(scratch, most * p->w->cols, e)) return false;
    for (size_t first = 0; first < p->w->rows; first += most) {
        size_t n = p->w->rows - first < most ? p->w->rows - first : most;
        struct tile t = {p->w, first, scratch->data};
        par_for(par, n, widen_range, &t);
        p->use(p, t.dst, first, n);
    }
    return true;
}

static void tile_nt(const struct by_tiles *p, const float *tile, size_t first, size_t n)
{
    size_t k = p->w->cols;
    gemm_nt(p->m, n, k, p->a, p->lda, tile, k, p->c + first, p->ldc, 1.0f, p->accumulate);
}

static void tile_nn(const struct by_tiles *p, const float *tile, size_t first, size_t n)
{
    size_t k = p->w->cols;
    gemm_nn(p->m, k, n, p->a + first, p->lda, tile, k, p->c, p->ldc, 1.0f, p->accumulate || first > 0);
}

bool matrix_nt(struct par *par, struct scratch *scratch, size_t m, const float *x, size_t ldx,
               const struct matrix *w, float *y, size_t ldy, bool accumulate, struct err *e)
{
    const float *plain = as_floats(w);
    assert(w->rows && w->cols);
    if (!m) return true;
    if (m <= MATRIX_FEW) {
        struct few f = {w, {w->data, w->row_bytes, w->rows, w->cols, x, m, ldx, y, ldy, accumulate}};
        par_for(par, w->rows, few_range, &f);
        return true;
    }
    if (plain) {
        gemm_nt(m, w->rows, w->cols, x, ldx, plain, w->row_bytes / sizeof *plain, y, ldy, 1.0f, accumulate);
        return true;
    }
    return each_tile(par, scratch, &(struct by_tiles){tile_nt, w, m, ldx, ldy, x, y, accumulate}, e);
}

bool matrix_nn(struct par *par, struct scratch *scratch, size_t m, const float *g, size_t ldg,
               const struct matrix *w, float *dx, size_t lddx, bool accumulate, struct err *e)
{
    const float *plain = as_floats(w);
    assert(w->rows && w->cols);
    if (!m) return true;
    if (plain) {
        gemm_nn(m, w->cols, w->rows, g, ldg, plain, w->row_bytes / sizeof *plain, dx, lddx, 1.0f, accumulate);
        return true;
    }
    return each_tile(par, scratch, &(struct by_tiles){tile_nn, w, m, ldg, lddx, g, dx, accumulate}, e);
}
