#include "attention.h"

#include <math.h>
#include <string.h>

#include "attention_int.h"
#include "simd.h"

/* ---- rows ------------------------------------------------------------------------------------ */

KERNEL static void scores(const float *q, const struct keys *s, uint32_t e, float scale, float *out)
{
    for (uint32_t j = 0; j < s->n; j++) out[j] = scale * dot(q, s->k + j * s->stride, e);
}

KERNEL static void mix(const float *p, const struct keys *s, uint32_t e, float *z)
{
    uint32_t i = 0;
    for (; i + LANES <= e; i += LANES) {
        v16 acc = load16(z + i);
        for (uint32_t j = 0; j < s->n; j++) acc += p[j] * load16(s->v + j * s->stride + i);
        store16(z + i, acc);
    }
    for (; i < e; i++)
        for (uint32_t j = 0; j < s->n; j++) z[i] += p[j] * s->v[j * s->stride + i];
}

/* One query row and head, by dot products over the blocks of the past that it sees and the span's own
 * rows. p: room for all positions up to the row's. */
static void one_row(const struct attention *a, const struct shape *s, const struct span *sp,
                    uint32_t i, uint32_t head, float *p)
{
    uint32_t g = kv_head(s, head), pos = sp->past_len + i, n = pos + 1, first = first_key(s, pos);
    const float *q = a->qkv + (size_t)(sp->first_row + i) * s->row + head * s->e;
    float *z = a->z + (size_t)(sp->first_row + i) * s->H * s->e + head * s->e;
    struct keys k;
    for (uint32_t at = first; at < n; at += k.n) {
        k = keys_at(a, s, sp, g, at, n);
        scores(q, &k, s->e, s->scale, p + at);
    }
    softcap_row(p + first, n - first, s->softcap);
    fire_row(a, HOOK_ATTN_SCORES, sp, pos, head, p, first, n, -INFINITY);
    softmax_row(p + first, n - first);
    fire_row(a, HOOK_PATTERN, sp, pos, head, p, first, n, 0.0f);
    memset(z, 0, s->e * sizeof *z);
    for (uint32_t at = first; at < n; at += k.n) {
        k = keys_at(a, s, sp, g, at, n);
        mix(p + at, &k, s->e, z);
    }
}

/* ---- short spans: all (row, head) pairs in parallel ------------------------------------------- */

struct short_job {
    const struct attention *a;
    struct shape shape;
    uint32_t longest; /* positions of the longest short span: row of the scratch */
    float *scratch;   /* one row per thread */
};

static bool is_long(const struct attention *a, const struct span *s)
{
    return s->n_rows >= LONG_SPAN && !a->taps; /* taps see rows one at a time */
}

static void short_range(void *ctx, size_t from, size_t to, int thread)
{
    const struct short_job *j = ctx;
    float *p = j->scratch + (size_t)thread * j->longest;
    size_t at = 0; /* rows of short spans before this span */
    for (size_t i = 0; i < j->a->n_spans && at < to; i++) {
        const struct span *sp = &j->a->span[i];
        if (is_long(j->a, sp)) continue;
        for (uint32_t r = 0; r < sp->n_rows; r++, at++)
            if (at >= from && at < to)
                for (uint32_t h = 0; h < j->shape.H; h++) one_row(j->a, &j->shape, sp, r, h, p);
    }
}

/* With few rows (decoding) the heads are what can be shared out. */
static void head_range(void *ctx, size_t from, size_t to, int thread)
{
    const struct short_job *j = ctx;
    float *p = j->scratch + (size_t)thread * j->longest;
    for (size_t i = 0; i < j->a->n_spans; i++) {
        const struct span *sp = &j->a->span[i];
        if (is_long(j->a, sp)) continue;
        for (uint32_t r = 0; r < sp->n_rows; r++)
            for (size_t h = from; h < to; h++) one_row(j->a, &j->shape, sp, r, (uint32_t)h, p);
    }
}

/* ---- all spans ---------------------------------------------------------------------------------- */

size_t attention_bytes(const struct arch *a, size_t longest, int threads)
{
    struct shape s = shape_of(a, 0);
    const struct span sp = {.n_rows = longest < UINT32_MAX / 2 ? (uint32_t)longest : UINT32_MAX / 2};
    s.window = UINT32_MAX; /* a windowed layer takes less */
    size_t rows = longest * (size_t)threads, spans = long_span_floats(&s, &sp, threads);
    return mem_floats_bytes(longest < LONG_SPAN || rows > spans ? rows : spans);
}

bool attention_forward(const struct attention *a, struct par *par, struct scratch *scratch,
                       struct err *e)
{
    struct short_job job = {.a = a, .shape = shape_of(a->arch, a->layer)};
    size_t need = 0, short_rows = 0;
    for (size_t i = 0; i < a->n_spans; i++) {
        const struct span *sp = &a->span[i];
        uint32_t total = sp->past_len + sp->n_rows;
        if (is_long(a, sp)) {
            size_t floats = long_span_floats(&job.shape, sp, par_threads(par));
            if (floats > need) need = floats;
        } else {
            short_rows += sp->n_rows;
            if (total > job.longest) job.longest = total;
        }
    }
    size_t rows_need = (size_t)job.longest * (size_t)par_threads(par);
    if (!scratch_grow(scratch, need > rows_need ? need : rows_need, e)) return false;
    job.scratch = scratch->data;
    /* Taps write counters: one thread, so that what they report is exact. */
    if (short_rows && a->taps) head_range(&job, 0, job.shape.H, 0);
    else if (short_rows >= 4 * (size_t)par_threads(par)) par_for(par, short_rows, short_range, &job);
    else if (short_rows) par_for(par, job.shape.H, head_range, &job);
    for (size_t i = 0; i < a->n_spans; i++)
        if (is_long(a, &a->span[i])) long_span(a, &job.shape, &a->span[i], par, scratch->data);
    return true;
}
