/* Shared by the three files of attention: short spans (attention.c), long ones (attention_long.c) and
 * backward (attention_backward.c). */
#ifndef ENGRAM_ATTENTION_INT_H
#define ENGRAM_ATTENTION_INT_H

#include "attention.h"
#include "softmax.h"

enum { LONG_SPAN = 48 }; /* rows from which packing keys and values pays */

struct shape { /* of one layer */
    uint32_t H, G, e, row; /* row: floats of a qkv row */
    uint32_t window;       /* positions a row sees, itself included; UINT32_MAX: all */
    float scale, softcap;
};

static inline struct shape shape_of(const struct arch *a, uint32_t layer)
{
    return (struct shape){.H = a->n_heads, .G = a->n_kv_heads, .e = a->d_head,
                          .row = (a->n_heads + 2 * a->n_kv_heads) * a->d_head,
                          .window = arch_windowed(a, layer) ? a->window : UINT32_MAX,
                          .scale = a->attn_scale, .softcap = a->attn_softcap};
}

static inline uint32_t kv_head(const struct shape *s, uint32_t head) { return head / (s->H / s->G); }

/* The first position that the row at `pos` sees. */
static inline uint32_t first_key(const struct shape *s, uint32_t pos)
{
    return pos >= s->window ? pos + 1 - s->window : 0;
}

/* Consecutive keys and values with a common stride: of a kv block, or the span's own rows. */
struct keys {
    const float *k, *v;
    size_t stride;
    uint32_t n;
};

/* Those of one key/value head from position `at` on, as many before `end` as lie together. */
static inline struct keys keys_at(const struct attention *a, const struct shape *s, const struct span *sp,
                                  uint32_t g, uint32_t at, uint32_t end)
{
    size_t width = (size_t)s->G * s->e;
    if (at >= sp->past_len) {
        const float *k = a->qkv + (size_t)(sp->first_row + at - sp->past_len) * s->row + (s->H + g) * s->e;
        return (struct keys){k, k + width, s->row, end - at};
    }
    uint32_t stop = (at / KV_BLOCK + 1) * KV_BLOCK;
    if (stop > sp->past_len) stop = sp->past_len;
    if (stop > end) stop = end;
    return (struct keys){kv_key(sp->past, a->layer, at) + g * s->e, kv_value(sp->past, a->layer, at) + g * s->e,
                         width, stop - at};
}

/* One row of scores or probabilities [0, n), of which [0, first) are masked, to the taps. */
static inline void fire_row(const struct attention *a, enum hook h, const struct span *sp, uint32_t pos,
                            uint32_t head, float *row, uint32_t first, uint32_t n, float masked)
{
    if (a->taps)
        taps_fire_source(a->taps, (struct site){h, a->layer}, sp->seq, pos, head, row, first, n, masked);
}

/* Scratch floats a long span needs, and its forward. */
size_t long_span_floats(const struct shape *s, const struct span *sp, int threads);
void long_span(const struct attention *a, const struct shape *s, const struct span *sp, struct par *par,
               float *scratch);

#endif
