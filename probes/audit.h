/* How far estimates of a grid may be believed: some of its cells run as they are (probes/patch.h).
 *
 * Cells are picked among those where a pair may differ: the top by |mean estimate over pairs| (of GradDrop by mean
 * c(n)), and so many of the rest at random. Of each the exact mean over pairs of M(patched) − M(base) stands beside
 * the estimate, both of the first metric. What they say together:
 *
 *     rho      Spearman's, between estimates and exact values
 *     worst    the largest |exact| − |estimate|: what ranking by estimates hides (AtP*, arXiv 2403.00745, looks for
 *              those in the same way)
 *     share    Σ |exact| over the top, of that and of the rest's total, which is their number times the mean
 *              |exact| of the random picks; NaN without any
 *
 * Borrowed: the request and its grid, done. One thread; steps are a patch's.
 */
#ifndef ENGRAM_AUDIT_H
#define ENGRAM_AUDIT_H

#include "core/base/random.h"
#include "patch.h"

struct audit_request {
    struct patch_request patch;    /* whose grid was estimated */
    const struct patch_grid *grid; /* of estimates */
    const double *rank;            /* laid out as all its values: what to rank by in their place; or NULL */
    uint32_t top, random;
    uint64_t seed;
};

struct audit_cell {
    uint32_t layer, head, pos;
    bool random;
    double estimate, exact;
    size_t at; /* in a pair's grid */
};

struct audit_found {
    const struct audit_cell *cell; /* [n] the top first, from the largest down */
    size_t n, candidates;
    double rho, worst, share;      /* NaN where there is none */
    size_t worst_cell;
    const struct patch_grid *exact; /* its checks and cost; of the listed cells only */
};

/* Of an audit whose grid is to come. */
void audit_plan(const struct audit_request *q, int threads, struct plan *p);

struct audit;
/* Before the estimates are known: of the dearest cells it could pick. Only q->patch and the numbers are looked at. */
bool audit_forecast(const struct audit_request *q, struct patch_cost *out, struct err *e) MUST_CHECK;
struct audit *audit_new(const struct audit_request *q, struct err *e) MUST_CHECK;
enum step audit_step(struct audit *a, struct session *s, struct err *e);
void audit_free(struct audit *a);
const struct audit_found *audit_result(const struct audit *a);

#endif
