/* What a TuCo is to be compared with (arXiv 2506.23423 controls length; the rest is ours): draws, seeded, of
 *
 *     random delta      against plus, in each tensor of a layer that differs, Gaussian noise of the difference's
 *                       Frobenius norm, in the place of view; the same prompts
 *     random tokens     prompts of the same lengths, each token drawn anew from the vocabulary
 *     repeated token    the same, one token over and over
 *
 * Random deltas are built of one model's views only; each is a view of its own, dropped after its draw.
 *
 * One thread; inputs borrowed. A step is one tensor, or a step of TuCo.
 */
#ifndef ENGRAM_TUCO_CONTROL_H
#define ENGRAM_TUCO_CONTROL_H

#include "core/base/random.h"
#include "tuco.h"

enum tuco_control_kind { CONTROL_RANDOM_DELTA, CONTROL_RANDOM_TOKENS, CONTROL_REPEATED_TOKEN, TUCO_CONTROLS };

struct tuco_control_request {
    struct view *view, *against;
    const struct tuco_input *in; /* [n]; only the last positions count */
    size_t n;
    uint32_t draws[TUCO_CONTROLS]; /* 0: none of the kind */
    uint64_t seed;
};

/* How many tensors of layers differ; of views of one model. */
size_t tuco_control_tensors(const struct view *view, const struct view *against);
void tuco_control_plan(const struct tuco_control_request *q, int threads, struct plan *p);

struct tuco_control;
struct tuco_control *tuco_control_new(const struct tuco_control_request *q, struct err *e) MUST_CHECK;
enum step tuco_control_step(struct tuco_control *t, struct session *s, struct err *e);
void tuco_control_free(struct tuco_control *t);

struct tuco_spread {
    double mean, sd;   /* sd NaN of fewer than two */
    double percentile; /* 100 × share of draws below the score, ties by half */
    size_t n;
};
void tuco_control_spread(const struct tuco_control *t, enum tuco_control_kind kind, size_t prompt, double score,
                         struct tuco_spread *out);

#endif
