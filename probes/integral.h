/* Integrated gradients of a metric over token embeddings (Sundararajan, Taly & Yan, arXiv 1703.01365), from the
 * embeddings of one prompt, or from zero, to those of another:
 *
 *     IG_i = (x_i − x'_i) · mean_k dM/dx_i ( x' + a_k (x − x') )         i: every number of every position
 *
 *     midpoint   a_k = (k − 1/2)/m      error falls as 1/m²
 *     left       a_k = (k − 1)/m        as 1/m        right   a_k = k/m
 *     gauss      Gauss-Legendre points, weighed
 *
 * Completeness: Σ IG → M(x) − M(x'). Steps m are doubled until the sum is within a hundredth of that, or until they
 * would pass max_steps. Embeddings are what hook_embed has; positions are added as they always are.
 *
 * norm_logit_diff is left as the difference; kl has no run to be compared with. Points of a path are sequences of one
 * tape, as many as fill it. Borrowed: ids and the metric. One thread; a step is a layer of a tape.
 */
#ifndef ENGRAM_INTEGRAL_H
#define ENGRAM_INTEGRAL_H

#include "core/base/step.h"
#include "core/plan.h"
#include "core/view.h"
#include "metric.h"

struct session;

enum integral_rule { RULE_MIDPOINT, RULE_LEFT, RULE_RIGHT, RULE_GAUSS };

struct integral_request {
    struct view *view;
    const uint32_t *to, *from; /* [n] ids; from NULL: zero embeddings */
    uint32_t n;
    const struct metric *metric;
    enum integral_rule rule;
    uint32_t steps, max_steps; /* max_steps of at most `steps`: no doubling */
};

struct integral_found {
    const double *values;      /* [n] by position */
    double total, at_to, at_from, residual; /* residual: total − (at_to − at_from) */
    uint32_t steps;
    bool complete;             /* within a hundredth */
    size_t rows;               /* rows times layers, forward and back */
};

const char *integral_rule_word(enum integral_rule r);
enum integral_rule integral_rule(const char *word); /* one of them */
/* Points a [m] in [0, 1] and their weights, which sum to 1. */
void integral_points(enum integral_rule rule, uint32_t m, double *a, double *weight);

void integral_plan(const struct integral_request *q, int threads, struct plan *p);
struct integral *integral_new(const struct integral_request *q, struct err *e) MUST_CHECK;
enum step integral_step(struct integral *g, struct session *s, struct err *e);
void integral_free(struct integral *g);
/* Rows times layers where steps are doubled to the end. */
size_t integral_rows(const struct integral_request *q, uint32_t n_layers);
/* After the end: keep nothing but the result. */
void integral_rest(struct integral *g);
struct integral_found integral_result(const struct integral *g);

#endif
