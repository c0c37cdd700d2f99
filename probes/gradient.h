/* Gradients of a metric with respect to activations, of one input as it is: no writes.
 *
 *     reference    kl only: another prompt or another view, run for its distribution
 *     below        the layers under the lowest site asked for are run once and not kept
 *     forward      the others are kept                            a step is a layer
 *     head         the metric at its positions, and back to the stream
 *     backward     down to that site's layer and no further
 *
 * A metric of several positions is the mean over them; the answer of `loss` is there the input's next
 * token. Values are laid out as a trace's reads are; where nothing reaches a hook the gradient is 0.
 *
 * Ownership: a gradient borrows everything its request names until gradient_free; results belong to
 * it. One thread.
 */
#ifndef ENGRAM_GRADIENT_H
#define ENGRAM_GRADIENT_H

#include "metric.h"
#include "trace.h"

struct gradient_request {
    struct view *view;
    const struct trace_input *in;     /* the inputs that places and `reference` count */
    const struct trace_place *at;     /* all of one input */
    size_t n_at;
    struct metric metric;             /* m.pos is not looked at */
    const uint32_t *pos;              /* ascending; of loss none is the last */
    size_t n_pos;
    struct { /* kl: */
        struct view *view;
        uint32_t input;
        const uint32_t *pos; /* as many as pos */
    } reference;
};

/* Why there is none at that hook; NULL where there is. */
const char *gradient_absent(enum hook h);
/* What it holds while it runs, and (kept) what of that until it is freed. */
void gradient_plan(const struct gradient_request *q, int threads, struct plan *running, struct plan *kept);

struct gradient;
struct gradient *gradient_new(const struct gradient_request *q, struct err *e) MUST_CHECK;
enum step gradient_step(struct gradient *g, struct session *s, struct err *e);
void gradient_free(struct gradient *g);

/* Rows times layers, forward and back: all of a request, and run so far. */
struct gradient_cost {
    size_t forward, backward;
};
struct gradient_cost gradient_cost(const struct gradient_request *q);
struct gradient_cost gradient_done(const struct gradient *g);

double gradient_value(const struct gradient *g); /* of the metric */
/* d metric / d the values of place `at`, and how many. */
const float *gradient_values(const struct gradient *g, size_t at, size_t *n);

#endif
