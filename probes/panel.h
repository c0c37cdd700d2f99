/* Several metrics of many final rows of the stream at once: rows are unembedded a few at a time, over the
 * whole vocabulary only where a metric needs it, and each metric is computed from those logits.
 *
 * norm_logit_diff is left as the difference (probes/metric.h). One thread; borrowed.
 */
#ifndef ENGRAM_PANEL_H
#define ENGRAM_PANEL_H

#include "core/plan.h"
#include "core/session.h"
#include "core/view.h"
#include "metric.h"

enum { PANEL_ROWS = 64 };

struct panel {
    struct view *view;
    const struct metric *metric;
    size_t n_metrics;
    const double *reference; /* [V] log-probabilities; kl only */
};

void panel_plan(const struct arch *a, const struct metric *metric, size_t n_metrics, struct plan *p);
/* Of unembedding one row. */
double panel_flops(const struct arch *a, const struct metric *metric, size_t n_metrics);
/* out [n][n_metrics] of rows x [n][d]. */
bool panel_read(const struct panel *p, struct session *s, const float *x, size_t n, double *out, struct err *e) MUST_CHECK;
/* The reference [V] that the row x [d] gives. */
bool panel_reference(struct view *v, struct session *s, const float *x, double *out, struct err *e) MUST_CHECK;

#endif
