/* Both ends of the model: ids to the residual stream, and the stream to logits.
 *
 *     x = embed[id] · embed_scale (+ pos_embed[pos])      hooks: hook_tokens, hook_embed, hook_pos_embed
 *     logits = c·tanh(W·norm(x) + b)/c)                   hooks: ln_final.*, unembed.hook_in, unembed.hook_out
 */
#ifndef ENGRAM_HEAD_H
#define ENGRAM_HEAD_H

#include "session.h"
#include "view.h"
#include "weight_grads.h"

/* x [n][d] ← the stream entering layer 0 for ids at positions first_pos.. of sequence `seq`. */
bool embed(struct session *s, const struct view *v, const uint32_t *ids, size_t n, uint32_t first_pos,
           const struct taps *taps, uint32_t seq, float *x, struct err *e) MUST_CHECK;

/* Whose rows are unembedded, for hooks; taps may be NULL. */
struct head_rows {
    const struct taps *taps;
    uint32_t seq;
    const uint32_t *pos; /* [n] */
};

/* logits [n][V] ← final norm and unembedding of x [n][d]. rows may be NULL: nobody listens. */
bool unembed(struct session *s, const struct view *v, const float *x, size_t n, const struct head_rows *rows,
             float *logits, struct err *e) MUST_CHECK;
/* Only some vocabulary entries: logits [n][n_ids]. */
bool unembed_ids(struct session *s, const struct view *v, const float *x, size_t n,
                 const uint32_t *ids, size_t n_ids, float *logits, struct err *e) MUST_CHECK;
/* dx [n][d] += gradient of x from that of its logits, which a soft-cap's is multiplied into. rows: who reads
 * gradients, or NULL. g: gradients of the final norm and the unembedding (a tied one's are the
 * embedding's), or NULL. */
bool unembed_backward(struct session *s, const struct view *v, const float *x, size_t n,
                      const struct head_rows *rows, float *d_logits, float *dx, const struct weight_grads *g,
                      struct err *e) MUST_CHECK;
/* g's embeddings += what the gradient dx [n][d] of embed's output says of them. */
void embed_backward(const struct view *v, const uint32_t *ids, size_t n, uint32_t first_pos, const float *dx,
                    const struct weight_grads *g);
/* Is that a hook of the final norm or the unembedding? Does anybody listen at one? */
bool head_hook(enum hook h);
bool head_listens(const struct taps *t);

/* log softmax(logits)[id], in float64. */
double log_prob(const float *logits, uint32_t n_vocab, uint32_t id);
uint32_t arg_max(const float *logits, uint32_t n_vocab); /* the lowest id among equals */

#endif
