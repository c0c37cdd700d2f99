/* TuCo, the tuning contribution (arXiv 2506.23423): how much of what the model adds to its
 * residual stream comes from what was changed in it.
 *
 * Let f(x, l) be what block l adds to the stream x. The stream is that of `view`; both views'
 * blocks are evaluated on it (core/pair.h), the keys and values of `against` computed from those same states:
 *
 *     PTC_l = f_against(x_l, l)     FTC_l = f_view(x_l, l) − f_against(x_l, l)
 *     TuCo  = ‖Σ_l FTC_l‖₁ / (‖Σ_l PTC_l‖₁ + ‖Σ_l FTC_l‖₁)      (0 when both are 0)
 *
 * at the last position (or more). Layers' own terms: probes/tuco_sum.h. A view against itself is exactly 0, as is
 * every layer whose weights are shared, which is evaluated once.
 *
 * The views may be of two models of one description; ids and x_0 are those of `view`.
 *
 * One thread; ids and positions borrowed. A step is one layer of at most RUN_ROWS positions of one prompt.
 */
#ifndef ENGRAM_TUCO_H
#define ENGRAM_TUCO_H

#include "core/run.h"
#include "tuco_sum.h"

struct tuco_input {
    const uint32_t *ids;
    uint32_t n;
    bool all_positions;    /* TuCo of each… */
    const uint32_t *pos;   /* …or of these, ascending; NULL: only of the last */
    size_t n_pos;
    bool output_co;        /* another run, of against alone */
};

struct tuco_score {
    double tuco, ptc, ftc;     /* of the last position; ptc, ftc: L1 norms of the summed vectors */
    double beta_max;           /* largest β up to any layer, last position */
    double sequence_beta_max;  /* all_positions: the same of whole sequences' sums (proposition 4.2); else 0 */
    struct tuco_layer *layer;  /* [L], last position */
    double *position;          /* [n_positions] TuCo of each asked for; NULL where none is */
    size_t n_positions;
    double output_co;          /* where asked for */
    double check;              /* max |x_0 + P + F − x_L| / max |x_L| at the last position */
};

/* Of the prompt that needs most, and the answer. */
void tuco_plan(const struct view *view, const struct view *against, const struct tuco_input *in, size_t n, int threads,
               struct plan *p);

struct tuco;
struct tuco *tuco_new(struct view *view, struct view *against, const struct tuco_input *in, size_t n,
                      struct err *e) MUST_CHECK;
enum step tuco_step(struct tuco *t, struct session *s, struct err *e);
void tuco_free(struct tuco *t);
void tuco_progress(const struct tuco *t, size_t *done, size_t *total);
const struct tuco_score *tuco_result(const struct tuco *t, size_t i);

#endif
