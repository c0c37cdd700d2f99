/* Readouts: can a label be read from an activation? What others call probes (Alain & Bengio, arXiv 1610.01644).
 *
 * Features x [n][d] are standardised by the training rows, z = (x − mean) / sd (population; a constant feature's sd
 * is 1), which stays with the readout. Labels are 0 … C−1; two classes have one score s (class 1 where s > 0), more have
 * one each (the largest wins).
 *
 *     logistic    min  mean log-loss(W·z + b) + λ/2 |W|²     b is free; L-BFGS to a gradient norm of 1e-6, float64
 *     ridge       min  mean |y − W·z − b|² + λ |W|²          closed form; y: one-hot, of two classes ±1
 *     mass_mean   s_c = μ_c·z − |μ_c|²/2                     the nearest mean (arXiv 2310.06824); whitened: with Σ_w + λI,
 *                 s_c = μ_c·Σ⁻¹·z − μ_c·Σ⁻¹·μ_c/2 + log π_c  Fisher's discriminant (LDA)
 *     mlp         W₂·relu(W₁·z + b₁) + b₂                    mean log-loss + λ/2 (|W₁|² + |W₂|²), Adam, seeded, float32
 *     sparse      logistic on the k features whose class means differ most (arXiv 2305.01610)
 *
 * A fit is a step function: L-BFGS and Adam a few passes a step. Scores are float64.
 *
 * Ownership: x, labels and rows are borrowed for the life of a fit; a readout owns its arrays. Worker thread (BLAS).
 */
#ifndef ENGRAM_READOUT_H
#define ENGRAM_READOUT_H

#include "core/base/step.h"
#include "core/plan.h"
#include "core/session.h"

enum readout_kind {
#define READOUT(name, word, likely) READOUT_##name,
#include "readout.def"
#undef READOUT
    READOUT_KINDS
};
const char *readout_word(enum readout_kind k);
bool readout_parse(const char *word, enum readout_kind *out);

enum { READOUT_CLASSES = 64, READOUT_HIDDEN = 1024 };

struct readout_spec {
    enum readout_kind kind;
    double lambda;      /* ≥ 0 */
    bool whiten, raw;   /* raw: features are not standardised */
    uint32_t k;         /* sparse */
    uint32_t hidden, epochs; /* mlp */
    double lr;
    uint64_t seed;
};
/* Do its scores have a log-loss? */
bool readout_likely(const struct readout_spec *s);

struct readout_data {
    const float *x;
    size_t ld, d;           /* row stride and width */
    const uint32_t *label;  /* of every row of x */
    uint32_t classes;
    const uint32_t *row;    /* [n] the rows that are used */
    size_t n;
};

struct readout {
    enum readout_kind kind;
    uint32_t classes, outputs; /* outputs: 1 for two classes */
    size_t d;
    uint32_t hidden;           /* 0: linear */
    double *mean, *scale;      /* [d] */
    double *w, *b;             /* [outputs][hidden or d], [outputs] */
    double *w1, *b1;           /* [hidden][d], [hidden] */
    uint32_t *feature, n_features; /* sparse: which, the strongest first */
    bool converged;
    uint32_t passes;           /* over the training rows */
    double gradient;           /* its norm at the end; NaN for closed forms */
};

void readout_plan(const struct readout_spec *s, size_t n, size_t d, uint32_t classes, struct plan *p);

struct readout_fit;
struct readout_fit *readout_fit_new(const struct readout_spec *s, const struct readout_data *data, struct err *e) MUST_CHECK;
enum step readout_fit_step(struct readout_fit *f, struct session *s, struct err *e);
struct readout *readout_take(struct readout_fit *f); /* after STEP_DONE */
void readout_fit_free(struct readout_fit *f);
void readout_free(struct readout *r);
/* All zero, its parts as large as that kind's are: to be filled from what was kept. hidden and k as in spec. */
struct readout *readout_new(const struct readout_spec *s, size_t d, uint32_t classes, struct err *e) MUST_CHECK;

/* score [outputs] of one row. */
void readout_score(const struct readout *r, const float *x, double *score);
uint32_t readout_label(const struct readout *r, const double *score);
/* p [classes], by the logistic or the softmax. */
void readout_prob(const struct readout *r, const double *score, double *p);
/* out [d]: the unit vector, in the space of x, along which the score of that class grows: of two classes W/sd, of more
 * (W_c − mean W)/sd. False for an mlp and where it is zero. */
bool readout_direction(const struct readout *r, uint32_t class, double *out);

#endif
