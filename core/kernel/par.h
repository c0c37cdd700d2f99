/* A few helper threads for the parts of a pass that are no matrix product. They belong to one
 * session; the session's own thread takes part. Work is cut into as many ranges as threads, so
 * results do not depend on timing.
 *
 * par_for returns when every range is done. fn gets half-open [from, to) and a thread number
 * below par_threads, for private scratch. Not re-entrant. Helpers sleep between calls.
 */
#ifndef ENGRAM_PAR_H
#define ENGRAM_PAR_H

#include "core/base/err.h"

struct par;
struct par *par_new(int threads, struct err *e) MUST_CHECK; /* threads ≥ 1, the caller included */
void par_free(struct par *p);
int par_threads(const struct par *p);
void par_for(struct par *p, size_t n, void (*fn)(void *ctx, size_t from, size_t to, int thread),
             void *ctx);

#endif
