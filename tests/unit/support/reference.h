/* The model once more: plain float64 loops written from the formulas, sharing nothing with the
 * engine but the names of the weights. One sequence, no cache, no batches. Slow, and meant to be
 * read beside the definition of the Llama block:
 *
 *     n = rms(x)·gain   q,k,v = Wn   turn q,k by position   p = softmax(q·k/√e)   z = p·v
 *     x ← x + Wo z      n = rms(x)·gain      x ← x + Wdown (silu(Wgate n) · Wup n)
 *
 * A hook sees every value under the names of core/hook.def and may change it. Layouts: [pos][…],
 * heads side by side; the pattern [H][n][n] with zeros right of the diagonal. Weights are copies:
 * a test may move one and look at what follows.
 */
#ifndef ENGRAM_TEST_REFERENCE_H
#define ENGRAM_TEST_REFERENCE_H

#include "core/hook.h"
#include "core/view.h"

struct reference {
    const struct model *model;
    double **weight; /* by index into the model's table of tensors, [rows][cols] */
    void (*hook)(void *ctx, enum hook h, uint32_t layer, double *value, size_t n_values);
    void *ctx;
};

/* The hooks it shows. */
enum { REFERENCE_HOOKS = 13 };
extern const enum hook reference_hooks[REFERENCE_HOOKS];

struct reference *reference_new(const struct view *v);
void reference_free(struct reference *r);
double *reference_weight(const struct reference *r, enum role role, uint32_t layer);

void reference_embed(const struct reference *r, const uint32_t *ids, uint32_t n, double *x);
/* x [n][d] in place through one block. */
void reference_block(const struct reference *r, uint32_t layer, double *x, uint32_t n);
/* logits [n][V] of x [n][d]. */
void reference_head(const struct reference *r, const double *x, uint32_t n, double *logits);
/* All of it; final [n][d] (may be NULL) is the stream before the last norm. */
void reference_run(const struct reference *r, const uint32_t *ids, uint32_t n, double *final, double *logits);
/* Logits of the last position only, [V]. */
void reference_last(const struct reference *r, const uint32_t *ids, uint32_t n, double *logits);
/* −log p(id). */
double reference_nll(const double *logits, uint32_t V, uint32_t id);

#endif
