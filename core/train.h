/* Forward with memory and backward with scope: gradients of a loss at chosen positions with
 * respect to activations and to chosen weights, from the top down to one layer and no further.
 *
 * A tape holds sequences' activations of layers [from, L). With from > 0, or from_mid, it starts
 * from given residual rows: the layers below are frozen, so their output is computed once and
 * kept. Usage:
 *
 *     tape_new(sequences, from, …)    x ← rows entering layer `from` (or, from_mid, the stream
 *     after its attention)
 *     tape_forward(view)   step: one layer      the view may be another one each time: training
 *                          what tape_write gave fires in it
 *     tape_loss            cross-entropy and its gradient at the top; or tape_head, any other function's
 *     tape_backward        step: one layer      fires taps with gradients, adds to weight grads
 *
 * One thread. Sequences start at position 0.
 */
#ifndef ENGRAM_TRAIN_H
#define ENGRAM_TRAIN_H

#include "block.h"
#include "core/base/step.h"
#include "plan.h"

enum { TAPE_HEAD_ROWS = 64 }; /* scored rows whose logits are in hand at a time */

struct tape;

struct tape_seq {
    uint32_t n;              /* positions */
    const uint32_t *scored;  /* ascending positions whose logits are scored */
    const uint32_t *target;  /* [n_scored] the id each should predict (tape_loss) */
    size_t n_scored;
    const uint32_t *ids;     /* [n], or NULL: who reads gradients of embeddings */
};

/* A tape of so many rows from layer `from` up, its pass forward and back, and `scored` rows of logits. */
void tape_plan(const struct arch *a, size_t rows, size_t longest, size_t scored, uint32_t from, int threads,
               struct plan *p);
/* from_mid: x given to the tape is the stream without the MLP of layer `from`, whose attention is not
 * run; in a parallel model only together with tape_train_down. */
struct tape *tape_new(const struct arch *a, const struct tape_seq *seq, size_t n, uint32_t from,
                      bool from_mid, struct err *e) MUST_CHECK;
void tape_free(struct tape *t);
size_t tape_rows(const struct tape *t);
float *tape_input(struct tape *t); /* [R][d], to be filled before tape_forward */

/* Optional: replace the MLP's down-projection at layer `from` by this matrix, laid out as the model's (a
 * candidate being trained); post [R][m] is its kept input, so gate and up are not run either. */
void tape_train_down(struct tape *t, const float *down, const float *post);

/* Optional: add to these gradients of the embeddings (of a tape from layer 0), the final norm and the
 * unembedding in each backward pass. Borrowed. */
void tape_train_ends(struct tape *t, const struct weight_grads *ends);

/* Optional: fire these in each forward pass and come back through their writes in the backward one. Writes are at
 * hooks of layers from `from` up where block_back_through; those below are the business of whoever fills the
 * input. Borrowed. */
void tape_write(struct tape *t, struct taps *writes);

enum step tape_forward(struct tape *t, struct view *v, struct session *s, struct err *e);
/* The stream where the pass now stands, or on the way back its gradient: [R][d]. And what was kept of a layer. */
const float *tape_stream(const struct tape *t);
const struct saved *tape_saved(const struct tape *t, uint32_t layer);
/* Stand behind the layers below `layer` again, with that stream (`layer` being L, for another tape_head) or with
 * that gradient of it: what was kept serves any number of passes back. */
void tape_resume(struct tape *t, uint32_t layer, const float *x);
/* Starts the backward pass from any function of the logits at the scored positions: `loss` is called
 * for each with its sequence, its number among that sequence's scored ones and its logits [V], and
 * puts the gradient in their place. taps read gradients at the final norm and the unembedding. One step:
 * a few rows. */
typedef void (*tape_row_loss)(void *ctx, size_t seq, size_t k, float *logits);
enum step tape_head(struct tape *t, struct view *v, struct session *s, const struct taps *taps, tape_row_loss loss,
                    void *ctx, struct err *e);
/* The same from cross-entropy: mean over the scored positions of each sequence of −log p(target), then
 * mean over sequences (LocFT). nll, if not NULL, gets the sequences' own means. */
bool tape_loss(struct tape *t, struct view *v, struct session *s, const struct taps *taps, double *loss,
               double *nll, struct err *e) MUST_CHECK;
/* Between the head and the way back: multiply the gradients of each sequence by its weight [sequences]. For losses
 * that are no sum over rows, whose derivative by each sequence's score is known only when all rows are. */
void tape_weigh(struct tape *t, const double *weight);
/* grads[layer − from]: what is wanted of that layer, NULL for none at all. */
enum step tape_backward(struct tape *t, struct view *v, struct session *s,
                        const struct weight_grads *grads, const struct taps *taps, struct err *e);

#endif
