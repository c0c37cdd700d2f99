/* Grouped-query causal attention over ragged rows, optionally windowed and soft-capped.
 *
 * A span is a run of consecutive rows of one sequence. Row i of a span sits at position
 * past_len + i and attends to the positions of `past` (shared by any number of spans) and to the
 * span's own rows 0..i; in a windowed layer only to the last `window` positions, itself included.
 * Query head h reads key/value head h / (H/G).
 *
 *     s = q · kᵀ · scale,  s ← c·tanh(s/c) where there is a soft-cap,
 *     p = softmax(s),      z = p · v              (softmax in float32, row maximum removed)
 *
 * Hooks: HOOK_ATTN_SCORES sees s (soft-capped; −inf where masked), HOOK_PATTERN sees p (0 where
 * masked). In backward they read the gradients with respect to these.
 *
 * qkv rows are [q H·e | k G·e | v G·e] after rotary. Long spans go through matrix products per head
 * and block of queries, short ones through dot products; both are parallel over heads and rows.
 */
#ifndef ENGRAM_ATTENTION_H
#define ENGRAM_ATTENTION_H

#include "core/hook.h"
#include "kv.h"
#include "par.h"

struct span {
    uint32_t seq;            /* which sequence, for taps */
    uint32_t first_row, n_rows;
    const struct kv *past;   /* NULL when past_len is 0 */
    uint32_t past_len;
    struct kv *keep;         /* where the rows' keys and values are appended, or NULL */
};

struct attention {
    const struct arch *arch;
    const struct span *span;
    size_t n_spans;
    uint32_t layer;          /* decides the window too */
    const float *qkv;        /* [R][(H+2G)e] */
    float *z;                /* [R][H·e] */
    const struct taps *taps; /* taps of scores and pattern; NULL for none */
};

/* Scratch of a pass whose longest span ends at that position. */
size_t attention_bytes(const struct arch *a, size_t longest, int threads);
bool attention_forward(const struct attention *a, struct par *par, struct scratch *scratch,
                       struct err *e) MUST_CHECK;
/* Backward for spans without a past. dz [R][H·e] → d_qkv [R][(H+2G)e] (before rotary is undone,
 * overwritten). Probabilities are recomputed from qkv. */
size_t attention_backward_bytes(size_t longest); /* scratch, where the longest span has so many rows */
bool attention_backward(const struct attention *a, const float *dz, float *d_qkv,
                        struct scratch *scratch, struct err *e) MUST_CHECK;

#endif
