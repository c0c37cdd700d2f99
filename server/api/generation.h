/* What every route that generates has in common: how a request's sampling is read, and one decoder
 * driven step by step.
 *
 * Ownership: a generation owns its decoder and borrows the requests. The reading functions are pure;
 * steps belong to the compute thread.
 */
#ifndef ENGRAM_GENERATION_H
#define ENGRAM_GENERATION_H

#include "core/base/json.h"
#include "core/decode.h"
#include "server/work.h"

struct generation {
    const struct decode_request *q;
    size_t n;
    const struct view_pair *pair; /* over two views; or NULL */
    struct decoder *decoder; /* NULL before the first step */
};

enum step generation_step(struct generation *g, struct work *w, struct view *v, struct taps *taps, struct session *s,
                          struct err *e);
void generation_release(struct generation *g);
static inline const struct decode_result *generation_result(const struct generation *g, size_t i)
{
    return decoder_result(g->decoder, i);
}

/* temperature, top_p and top_k of a validated request. */
struct sampling generation_sampling(const struct json *request);
/* The request's `seed`; where there is none, one drawn if luck is needed, else -1. */
int64_t generation_seed(const struct json *request, const struct sampling *how);
/* `stop`, a text or a list of them, copied into the arena. */
bool generation_stops(const struct json *request, struct arena *a, const char *const **stop, size_t *n,
                      struct err *e) MUST_CHECK;

#endif
