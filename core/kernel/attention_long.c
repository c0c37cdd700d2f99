/* Attention of long spans (prefill): blocks of queries against packed keys and values.
 *
 * Keys are packed transposed, [e][positions], and values [positions][e], both padded to whole
 * vectors, so that scores and mixtures are the same small product: four rows by up to 64 columns kept in
 * registers. A block of queries computes scores for the positions any of its rows can see, softmaxes each
 * row's own and mixes; blocks of all heads are shared out over the threads, without a barrier between
 * them. What lies before the first row's window is neither packed nor read.
 */
#include <string.h>

#include "attention_int.h"
#include "simd.h"

enum { QUERY_BLOCK = 32, COLUMNS = 64, ROWS = 4 };

static uint32_t padded(uint32_t n) { return (n + LANES - 1) / LANES * LANES; }

struct packed { /* of one span and layer; columns and rows are positions from `base` on */
    const struct attention *a;
    const struct shape *s;
    const struct span *sp;
    uint32_t base, total;    /* first position packed; positions packed */
    uint32_t wide_n, wide_e; /* padded positions and head width */
    float *k;                /* [G][e][wide_n] */
    float *v;                /* [G][total][wide_e] */
    float *scores;           /* per thread [QUERY_BLOCK][wide_n] */
};

static uint32_t base_of(const struct shape *s, const struct span *sp)
{
    return first_key(s, sp->past_len) / LANES * LANES;
}

size_t long_span_floats(const struct shape *s, const struct span *sp, int threads)
{
    uint32_t total = sp->past_len + sp->n_rows - base_of(s, sp);
    return (size_t)s->G * (s->e * (size_t)padded(total) + (size_t)total * padded(s->e)) +
           (size_t)threads * QUERY_BLOCK * padded(total);
}

/* Vectors of 16 positions, so that each writes whole lines of the transposed keys. */
static void pack_range(void *ctx, size_t first, size_t end, int thread)
{
    const struct packed *p = ctx;
    const struct shape *s = p->s;
    (void)thread;
    for (size_t block = first; block < end; block++)
        for (uint32_t g = 0; g < s->G; g++)
            for (uint32_t i = 0; i < LANES; i++) {
                uint32_t at = (uint32_t)block * LANES + i;
                float *column = p->k + (size_t)g * s->e * p->wide_n + at;
                if (at >= p->total) {
                    for (uint32_t c = 0; c < s->e; c++) column[(size_t)c * p->wide_n] = 0.0f;
                    continue;
                }
                struct keys from = keys_at(p->a, s, p->sp, g, p->base + at, p->base + at + 1);
                for (uint32_t c = 0; c < s->e; c++) column[(size_t)c * p->wide_n] = from.k[c];
                float *row = p->v + ((size_t)g * p->total + at) * p->wide_e;
                memcpy(row, from.v, s->e * sizeof *row);
                memset(row + s->e, 0, (p->wide_e - s->e) * sizeof *row);
            }
}

/* c[ROWS][16·vectors] = scale · a[ROWS][k] · b[k][16·vectors], sums kept in registers. */
INLINE void product(const float *const a[ROWS], uint32_t k, const float *b, size_t ldb,
                    float *const c[ROWS], const int vectors, float scale)
{
    v16 sum[ROWS][COLUMNS / LANES] = {{{0}}};
    for (uint32_t i = 0; i < k; i++, b += ldb)
        for (int j = 0; j < vectors; j++) {
            v16 column = load16(b + j * LANES);
            for (int r = 0; r < ROWS; r++) sum[r][j] += a[r][i] * column;
        }
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < vectors; j++) store16(c[r] + j * LANES, sum[r][j] * scale);
}

/* Any number of rows and (padded) columns. c has room for the padding; spare rows repeat the last. */
KERNEL static void multiply(const float *a, size_t lda, uint32_t rows, uint32_t k, const float *b, size_t ldb,
                            float *c, size_t ldc, uint32_t columns, float scale)
{
    for (uint32_t r = 0; r < rows; r += ROWS)
        for (uint32_t j = 0; j < columns; j += COLUMNS) {
            const float *ar[ROWS];
            float *cr[ROWS];
            for (uint32_t i = 0; i < ROWS; i++) {
                uint32_t row = r + i < rows ? r + i : rows - 1;
                ar[i] = a + row * lda;
                cr[i] = c + row * ldc + j;
            }
            switch (columns - j < COLUMNS ? (columns - j) / LANES : COLUMNS / LANES) {
            case 1: product(ar, k, b + j, ldb, cr, 1, scale); break;
            case 2: product(ar, k, b + j, ldb, cr, 2, scale); break;
            case 3: product(ar, k, b + j, ldb, cr, 3, scale); break;
            default: product(ar, k, b + j, ldb, cr, 4, scale); break;
            }
        }
}

/* Scores of positions from `low` on: the first that the block's first row sees, rounded down to a whole
 * vector of keys. Values are mixed from that first one on. */
static void query_block(const struct packed *p, uint32_t head, uint32_t first, float *scores)
{
    const struct shape *s = p->s;
    uint32_t g = kv_head(s, head), left = p->sp->n_rows - first, rows = left < QUERY_BLOCK ? left : QUERY_BLOCK;
    uint32_t pos = p->sp->past_len + first, low = first_key(s, pos) / LANES * LANES, skip = first_key(s, pos) - low,
             seen = pos + rows - low, wide = padded(seen);
    size_t z_row = (size_t)s->H * s->e, row0 = p->sp->first_row + first;
    const float *k = p->k + (size_t)g * s->e * p->wide_n + (low - p->base),
                *v = p->v + ((size_t)g * p->total + (low - p->base) + skip) * p->wide_e;
    float mixed[QUERY_BLOCK][COLUMNS];
    multiply(p->a->qkv + row0 * s->row + head * s->e, s->row, rows, s->e, k, p->wide_n, scores, p->wide_n, wide,
             s->scale);
    for (uint32_t r = 0; r < rows; r++) {
        float *row = scores + (size_t)r * p->wide_n;
        uint32_t from = first_key(s, pos + r) - low, n = pos + r + 1 - low;
        softcap_row(row + from, n - from, s->softcap);
        softmax_row(row + from, n - from);
        if (from) memset(row, 0, from * sizeof *row);
        memset(row + n, 0, (wide - n) * sizeof *row);
    }
    for (uint32_t c = 0; c < s->e; c += COLUMNS) {
        uint32_t width = s->e - c < COLUMNS ? s->e - c : COLUMNS;
        multiply(scores + skip, p->wide_n, rows, seen - skip, v + c, p->wide_e, &mixed[0][0], COLUMNS, padded(width),
                 1.0f);
        for (uint32_t r = 0; r < rows; r++)
            memcpy(p->a->z + (row0 + r) * z_row + head * s->e + c, mixed[r], width * sizeof(float));
    }
}

static uint32_t blocks_of(const struct packed *p) { return (p->sp->n_rows + QUERY_BLOCK - 1) / QUERY_BLOCK; }

/* Blocks in head-major order: each thread gets whole heads, and with them equal shares of the triangle. */
static void block_range(void *ctx, size_t from, size_t to, int thread)
{
    const struct packed *p = ctx;
    uint32_t blocks = blocks_of(p);
    for (size_t i = from; i < to; i++)
        query_block(p, (uint32_t)(i / blocks), (uint32_t)(i % blocks) * QUERY_BLOCK,
                    p->scores + (size_t)thread * QUERY_BLOCK * p->wide_n);
}

void long_span(const struct attention *a, const struct shape *s, const struct span *sp, struct par *par,
               float *scratch)
{
    uint32_t base = base_of(s, sp), total = sp->past_len + sp->n_rows - base;
    struct packed p = {.a = a, .s = s, .sp = sp, .base = base, .total = total, .wide_n = padded(total),
                       .wide_e = padded(s->e), .k = scratch};
    p.v = p.k + (size_t)s->G * s->e * p.wide_n;
    p.scores = p.v + (size_t)s->G * total * p.wide_e;
    par_for(par, p.wide_n / LANES, pack_range, &p);
    par_for(par, (size_t)blocks_of(&p) * s->H, block_range, &p);
}
