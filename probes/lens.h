/* Logit lens: what the model would say if a layer's stream were its last.
 *
 *     lens[l,p] = softmax(U(norm_final(x[l,p])))        x: resid_post, or another vector of the stream's width
 *
 * (nostalgebraist 2020, "interpreting GPT: the logit lens"; a learned map in front of the norm would make it the
 * tuned lens of arXiv 2303.08112, which is not offered.) Of each layer and position are kept: the likeliest tokens;
 * entropy −Σ p log p; KL(final ‖ lens) = Σ q (log q − log p) with q the model's own distribution there; and for
 * asked tokens logit, log p and rank (1: the likeliest; among equals the lower id is first). Logits are those after
 * any final soft-cap. Nats. Sums in float64.
 *
 * Rows go through the model's own unembedding, LENS_ROWS positions of one layer at a time, as a trace's do: of the
 * last layer's resid_post the logits are the model's, bit for bit. All logits are never kept.
 *
 * Borrowed: ids, positions, layers, tokens. One thread drives it.
 */
#ifndef ENGRAM_LENS_H
#define ENGRAM_LENS_H

#include "trace.h"

enum { LENS_ROWS = 64, LENS_TOP = 64 /* most top_k */ };

struct lens_input {
    const uint32_t *ids;
    uint32_t n;
    const uint32_t *pos; /* ascending */
    size_t n_pos;
};

struct lens_request {
    struct view *view;
    const struct lens_input *in;
    size_t n_in;
    enum hook at;          /* a PLAIN hook of a layer, of the stream's width */
    const uint32_t *layer;
    size_t n_layers;
    uint32_t top_k;        /* at most LENS_TOP and the vocabulary */
    const uint32_t *token;
    size_t n_tokens;
};

struct lens_cells { /* of one input; cell: layer · n_pos + position, of the request's lists */
    uint32_t *top_id;      /* [cell][top_k] */
    float *top_logit;
    double *top_prob;
    double *entropy, *kl;  /* [cell]; NaN where logits are not finite, and then the top means nothing */
    float *logit;          /* [token][cell] */
    double *logprob;
    uint32_t *rank;
};

void lens_plan(const struct lens_request *q, int threads, struct plan *p);

struct lens;
struct lens *lens_new(const struct lens_request *q, struct err *e) MUST_CHECK;
enum step lens_step(struct lens *l, struct session *s, struct err *e);
void lens_free(struct lens *l);
void lens_progress(const struct lens *l, size_t *done, size_t *total);
const struct lens_cells *lens_result(const struct lens *l, size_t input); /* after STEP_DONE */

#endif
