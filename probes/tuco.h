/* TuCo, the tuning contribution (arXiv 2506.23423): how much of what the model adds to its
 * residual stream comes from what was changed in it.
 *
 * Let f(x, l) be what block l adds to the stream x. The stream is that of `view`; both views'
 * blocks are evaluated on it, the keys and values of `against` computed from those same states:
 *
 *     PTC_l = f_against(x_l, l)     FTC_l = f_view(x_l, l) − f_against(x_l, l)
 *     TuCo  = ‖Σ_l FTC_l‖₁ / (‖Σ_l PTC_l‖₁ + ‖Σ_l FTC_l‖₁)      (0 when both are 0)
 *
 * at the last position (or each). Vectors are summed over layers before norms are taken; by_layer
 * entries are the L1 norms of that layer's own terms. Sums are float64 over the addends
 * themselves, so a view against itself is exactly 0, as is every layer whose weights are shared.
 *
 * One thread; ids borrowed. A step is one layer of at most RUN_ROWS positions of one prompt; a longer
 * prompt keeps both views' keys and values of that layer until it is through.
 */
#ifndef ENGRAM_TUCO_H
#define ENGRAM_TUCO_H

#include "core/run.h"

struct tuco_input {
    const uint32_t *ids;
    uint32_t n;
    bool all_positions; /* by_position wanted */
};

struct tuco_score {
    double tuco, ptc, ftc;     /* of the last position; ptc, ftc: L1 norms of the summed vectors */
    double *layer_ptc, *layer_ftc; /* [L], last position */
    double *position;          /* [n] TuCo of each position, NULL unless asked for */
    double check;              /* max |x_0 + P + F − x_L| / max |x_L| at the last position */
};

/* Of the prompt that needs most, and the answer. */
void tuco_plan(const struct arch *a, const struct tuco_input *in, size_t n, int threads, struct plan *p);

struct tuco;
struct tuco *tuco_new(struct view *view, struct view *against, const struct tuco_input *in, size_t n,
                      struct err *e) MUST_CHECK;
enum step tuco_step(struct tuco *t, struct session *s, struct err *e);
void tuco_free(struct tuco *t);
void tuco_progress(const struct tuco *t, size_t *done, size_t *total);
const struct tuco_score *tuco_result(const struct tuco *t, size_t i);

/* ‖ftc‖₁ / (‖ptc‖₁ + ‖ftc‖₁) of two vectors; 0 when both vanish. */
double tuco_ratio(const double *ptc, const double *ftc, size_t d, double *ptc_l1, double *ftc_l1);

#endif
