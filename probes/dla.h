/* Direct logit attribution: which addends of the last stream make a logit, or the difference of two.
 *
 * The final stream is a sum of addends c (embedding, position, each head's result and the bias behind them, each
 * MLP's output), and the final norm is frozen at the run's own scale s (and mean), so the logit is a sum too:
 *
 *     u = W_U[t] − W_U[t'],  v = (g∘u) / s,   under LayerNorm less its mean          g: offset + gain
 *     contrib(c) = c·v        constants: β·u (the norm's bias) and b_U[t] − b_U[t']
 *     Σ contrib + constants = logit(t) − logit(t') before any final soft-cap
 *
 * (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; nostalgebraist 2020.) A head's row is
 * z_h·(W_O[h]ᵀ v'), a neuron's post_j·(W_down[j]ᵀ v'): v goes through the matrix once for all of them, no stack of
 * results is made. v' is v; where a norm stands behind the branch, (g'∘v)/s' with that norm frozen at its own scale
 * as well. Biases behind heads and neurons are rows of their own; a value bias is inside its heads' rows.
 *
 * Ownership: ids borrowed; results are the dla's. One thread drives it. Sums in float64.
 */
#ifndef ENGRAM_DLA_H
#define ENGRAM_DLA_H

#include "core/run.h"

enum { DLA_NO_FOIL = -1 };

struct dla_prompt {
    const uint32_t *ids;
    uint32_t n, pos;
    uint32_t answer;
    int64_t foil; /* or DLA_NO_FOIL */
};

enum dla_by {
#define DLA_BY(name, word) DLA_BY_##name,
#include "dla.def"
#undef DLA_BY
    DLA_BYS
};
enum dla_kind {
#define DLA_ROW(name, word) DLA_##name,
#include "dla.def"
#undef DLA_ROW
    DLA_KINDS
};
const char *dla_word(enum dla_kind k);
bool dla_by_parse(const char *word, enum dla_by *out);

struct dla_request {
    struct view *view;
    const struct dla_prompt *prompt;
    size_t n;
    enum dla_by by;
};

struct dla_row {
    enum dla_kind kind;
    uint32_t layer, unit; /* unit: the head or neuron; layer and unit 0 where the kind has none */
};

struct dla_result {
    const struct dla_row *row;
    size_t n_rows;
    const double *value;  /* [row][prompt] */
    const double *total;  /* [prompt] the model's own logit (difference), before any final soft-cap */
    const double *sum;    /* [prompt] of the rows */
    const double *scale;  /* [prompt] the final norm's */
};

size_t dla_rows(const struct arch *a, enum dla_by by); /* how many */
void dla_plan(const struct dla_request *q, int threads, struct plan *p);

struct dla;
struct dla *dla_new(const struct dla_request *q, struct err *e) MUST_CHECK;
enum step dla_step(struct dla *d, struct session *s, struct err *e);
void dla_free(struct dla *d);
void dla_progress(const struct dla *d, size_t *done, size_t *total);
struct dla_result dla_result(const struct dla *d); /* after STEP_DONE */

#endif
