/* Both ends of the model: ids to the residual stream, and the stream to logits. */
#ifndef ENGRAM_HEAD_H
#define ENGRAM_HEAD_H

#include "session.h"
#include "view.h"

/* x [n][d] ← embedding rows of ids. */
void embed(const struct view *v, const uint32_t *ids, size_t n, float *x);

/* logits [n][V] ← final norm and unembedding of x [n][d]. */
bool unembed(struct session *s, const struct view *v, const float *x, size_t n, float *logits,
             struct err *e) MUST_CHECK;
/* Only some vocabulary entries: logits [n][n_ids]. */
bool unembed_ids(struct session *s, const struct view *v, const float *x, size_t n,
                 const uint32_t *ids, size_t n_ids, float *logits, struct err *e) MUST_CHECK;
/* dx [n][d] += gradient of x from the gradient of its logits. */
bool unembed_backward(struct session *s, const struct view *v, const float *x, size_t n,
                      const float *d_logits, float *dx, struct err *e) MUST_CHECK;

/* log softmax(logits)[id], in float64. */
double log_prob(const float *logits, uint32_t n_vocab, uint32_t id);
uint32_t arg_max(const float *logits, uint32_t n_vocab); /* the lowest id among equals */

#endif
