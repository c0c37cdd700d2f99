/* Fitting parameters that live in the stream (probes/stream.h) to a loss, the model's weights frozen.
 *
 *     ce      mean over examples of the mean over target tokens of −log p(target)
 *     dpo     mean over couples of −log σ(β·[(log π(c) − log π(r)) − (log π_ref(c) − log π_ref(r))]),
 *             log-probabilities summed over target tokens (arXiv 2305.18290); examples 2i and 2i+1 are the chosen
 *             and the rejected of couple i; the reference is the model with θ as it was given
 *     metric  mean over examples of a metric (probes/metric.h) at the one scored position, or of minus it
 *
 *     + λ·Σ|θ| over every parameter, its slope λ·sign(θ), sign(0) = 0
 *
 * Each update: gradients of a batch, clipped to a global norm (torch's rule: times clip/(norm + 1e-6) when that is
 * below 1), then Adam without decay or plain descent, at lr·(1 − update/updates). A mask's parameters are put back
 * into [0, 1] after each. Batches are drawn anew each epoch from the seed. The recipe is LoFiT's (arXiv 2406.01563).
 *
 * Layers below the lowest unit are run once and their output kept. Batches are cut into passes of about FIT_ROWS
 * rows, whose gradients add up. The same seed and thread count give the same bits.
 *
 * Borrowed: everything in the request, until fit_free. One thread. One step: a layer of a pass, or some of its logits.
 */
#ifndef ENGRAM_FIT_H
#define ENGRAM_FIT_H

#include "core/base/step.h"
#include "core/view.h"
#include "core/session.h"
#include "metric.h"
#include "stream.h"

enum { FIT_ROWS = 256 };
enum fit_loss { FIT_CE, FIT_DPO, FIT_METRIC };

struct fit_example {
    const uint32_t *ids;
    uint32_t n;
    const uint32_t *scored;      /* [n_scored] ascending positions */
    const uint32_t *target;      /* [n_scored] the token each should predict; metric: NULL */
    size_t n_scored;             /* metric: 1 */
    const struct metric *metric; /* metric: one with a gradient */
    bool turned;                 /* metric: of this example minus it */
    const double *reference;     /* [V] log-probabilities, of kl */
    const float *const *source;  /* of masks: struct stream_text */
    uint32_t n_source;
};

struct fit_request {
    struct view *view;
    struct stream_params *params; /* as they are is where the fit begins; changed in place */
    const struct fit_example *example;
    size_t n;                     /* dpo: even */
    enum fit_loss loss;
    bool maximise;                /* metric */
    double task;                  /* factor of the loss, not of the penalty */
    double lr, l1, clip, beta;    /* clip 0: none */
    uint32_t epochs, batch;       /* batch: examples, or couples */
    bool descent;                 /* plain gradient descent in the place of Adam */
    uint64_t seed;
};

/* The kept stream, a pass's tape and writes, the optimiser; not params. */
void fit_plan(const struct fit_request *q, int threads, struct plan *p);

struct fit;
struct fit *fit_new(const struct fit_request *q, struct err *e) MUST_CHECK;
enum step fit_step(struct fit *f, struct session *s, struct err *e);
void fit_free(struct fit *f);
void fit_progress(const struct fit *f, size_t *done, size_t *total); /* rows times layers */
/* The loss before each update, without and with the penalty; *n updates so far. */
const double *fit_losses(const struct fit *f, size_t *n);
const double *fit_totals(const struct fit *f, size_t *n);
size_t fit_updates(const struct fit_request *q); /* there will be */

/* −log σ(h): DPO's loss of a couple whose margin is h. */
double fit_couple_loss(double h);

#endif
