/* Log-probabilities: what a model thought of the tokens of a text, place after place.
 *
 * A place is one token and the logits it was, or might have been, chosen from. Kept of it are
 * log softmax(logits)[token], and the same of the n_top likeliest tokens: descending, ties by id.
 * Natural logarithms at temperature 1, whatever the sampling did. Exponentials in float32, sums in
 * float64: good to about 1e-6 and fast enough to stand beside the unembedding that made the logits.
 *
 * Ownership: a struct logprobs owns its lists. One thread; a batch is shared among the session's.
 */
#ifndef ENGRAM_LOGPROBS_H
#define ENGRAM_LOGPROBS_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/kernel/par.h"

enum { LOGPROBS_TOP = 64 }; /* the most alternatives of a place */

struct logprob {
    uint32_t id;
    double value;
};

struct logprobs {
    uint32_t n_top;
    size_t n, cap;
    double *value;       /* [n] of the token itself */
    struct logprob *top; /* [n][n_top] */
};

/* n more places: ids[i] and logits[i][n_vocab]. ERR_NONFINITE when a token's value is none. */
bool logprobs_add(struct logprobs *l, struct par *par, const float *logits, size_t n, uint32_t n_vocab,
                  const uint32_t *ids, struct err *e) MUST_CHECK;
void logprobs_release(struct logprobs *l);
static inline const struct logprob *logprobs_top(const struct logprobs *l, size_t place)
{
    return l->top + place * l->n_top;
}

#endif
