/* Shared by the three files of attention: short spans (attention.c), long ones (attention_long.c) and
 * backward (attention_backward.c). */
#ifndef ENGRAM_ATTENTION_INT_H
#define ENGRAM_ATTENTION_INT_H

#include <math.h>

#include "attention.h"
#include "softmax.h"

enum { LONG_SPAN = 48 }; /* rows from which packing keys and values pays */

struct shape {
    uint32_t H, G, e, row; /* row: floats of a qkv row */
    float scale;           /* 1/sqrt(e) */
};

static inline struct shape shape_of(const struct arch *a)
{
    return (struct shape){a->n_heads, a->n_kv_heads, a->d_head,
                          (a->n_heads + 2 * a->n_kv_heads) * a->d_head, 1.0f / sqrtf((float)a->d_head)};
}

static inline uint32_t kv_head(const struct shape *s, uint32_t head) { return head / (s->H / s->G); }

/* Key of the span's row 0 for one key/value head; its value lies G·e further. */
static inline const float *own_k(const struct attention *a, const struct shape *s, const struct span *sp,
                                 uint32_t g)
{
    return a->qkv + (size_t)sp->first_row * s->row + (s->H + g) * s->e;
}

bool attention_scratch_for(struct attention_scratch *s, size_t floats, struct err *e) MUST_CHECK;

/* Scratch floats a long span needs, and its forward. */
size_t long_span_floats(const struct shape *s, const struct span *sp, int threads);
void long_span(const struct attention *a, const struct shape *s, const struct span *sp, struct par *par,
               float *scratch);

#endif
