/* TuCo while generating: of each token, the TuCo (probes/tuco.h) of the position that says it. The stream is
 * that of `view`, whose text it is; each view keeps keys and values of its own.
 *
 * One thread; requests borrowed. Steps are the decoder's.
 */
#ifndef ENGRAM_TUCO_DECODE_H
#define ENGRAM_TUCO_DECODE_H

#include "core/decode.h"
#include "tuco_sum.h"

void tuco_decode_plan(const struct view *view, const struct decode_request *q, size_t n, int threads, struct plan *p);

struct tuco_decode;
struct tuco_decode *tuco_decode_new(struct view *view, struct view *against, const struct decode_request *q, size_t n,
                                    struct err *e) MUST_CHECK;
enum step tuco_decode_step(struct tuco_decode *t, struct session *s, struct err *e);
void tuco_decode_free(struct tuco_decode *t);
size_t tuco_decode_tokens(const struct tuco_decode *t); /* so far, of all */
const struct decode_result *tuco_decode_result(const struct tuco_decode *t, size_t i);
const double *tuco_decode_scores(const struct tuco_decode *t, size_t i); /* as many as its ids */

#endif
