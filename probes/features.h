/* Features of a sparse autoencoder (core/sae.h) at its site, and how much of the model its reconstruction keeps.
 *
 *     l0 = |{i : a_i ≠ 0}|,   error = ‖x − x̂‖² / ‖x‖²,   explained = 1 − ‖x − x̂‖² / ‖x − x̄‖²
 *
 * of each position; x̄ is the mean of x over all positions of all inputs that are asked for. In all: the mean l0, and the
 * same two with numerator and denominator summed over positions (one less the fraction of variance unexplained).
 *
 * splice: the loss L = mean of −log p(next token) over all positions but an input's last, of the run as it is; with x̂ in
 * the place of x at the positions asked for; and with zero there.  recovered = (L_zero − L_sae) / (L_zero − L_clean).
 * 1: the reconstruction is as good as x; 0: no better than nothing (arXiv 2404.16014, section 4). Nats, sums in float64.
 *
 * x is what the layers before the site make and what is put there changes none of it: so one run gives all x.
 *
 * Borrowed: ids, positions, features, the autoencoder. One thread drives it.
 */
#ifndef ENGRAM_FEATURES_H
#define ENGRAM_FEATURES_H

#include "core/run.h"
#include "core/sae.h"

enum { FEATURES_TOP = 256 /* most top_k */ };

struct features_input {
    const uint32_t *ids;
    uint32_t n;
    const uint32_t *pos; /* ascending */
    size_t n_pos;
};

struct features_request {
    struct view *view;
    const struct sae *sae;
    struct site site;
    const struct features_input *in;
    size_t n_in;
    uint32_t top_k;
    const uint32_t *feature; /* followed besides */
    size_t n_features;
    bool splice;
};

enum features_pass { PASS_CLEAN, PASS_SAE, PASS_ZERO, FEATURES_PASSES };

struct features_rows { /* of one input; row: its place in pos */
    uint32_t *top_id;    /* [row][top_k] the largest first, the lower number first among equals */
    float *top;          /* [row][top_k] */
    uint32_t *n_top;     /* [row] how many are not zero, at most top_k */
    uint32_t *l0;        /* [row] */
    double *error, *explained; /* [row]; NaN where the denominator is 0 */
    float *followed;     /* [feature][row] */
    double loss[FEATURES_PASSES]; /* mean over its own n − 1; NaN where there is none, or no splice */
};
struct features_sums {
    size_t rows, tokens;
    double l0, error, explained, loss[FEATURES_PASSES];
};
double features_recovered(const double loss[FEATURES_PASSES]); /* NaN where zero costs nothing */

void features_plan(const struct features_request *q, int threads, struct plan *p);

struct features;
struct features *features_new(const struct features_request *q, struct err *e) MUST_CHECK;
enum step features_step(struct features *f, struct session *s, struct err *e);
void features_free(struct features *f);
void features_progress(const struct features *f, size_t *done, size_t *total);
/* After STEP_DONE. */
const struct features_rows *features_result(const struct features *f, size_t input);
struct features_sums features_sums(const struct features *f);

#endif
