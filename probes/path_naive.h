/* A few senders of a path patch once more by runs C and D as they are defined (path_patch.h), each a whole run with
 * its writes: q, k and v frozen hook by hook, the sender's output put in, what receivers read noted before it is
 * frozen. The sender that does most, and others at random. All C are ragged rows of one pass, then all D.
 *
 * Private to path patching; borrowed: all. One thread.
 */
#ifndef ENGRAM_PATH_NAIVE_H
#define ENGRAM_PATH_NAIVE_H

#include "path_carry.h"

enum { PATH_NAIVE_MOST = 16 };

size_t path_naive_senders(const struct path_request *q);
void path_naive_plan(const struct path_request *q, uint32_t n, int threads, struct plan *p);

struct path_naive;
/* Of one pair's senders numbered in `sender` [n]. runs: kept as path_patch.c says. ids: the base's. */
struct path_naive *path_naive_new(const struct path_request *q, const struct path_groups *g, const struct patch_runs *runs,
                                  const size_t *sender, size_t n, const uint32_t *ids, uint32_t n_ids, struct err *e) MUST_CHECK;
enum step path_naive_step(struct path_naive *v, struct session *s, struct err *e);
void path_naive_free(struct path_naive *v);
const float *path_naive_final(const struct path_naive *v, size_t i); /* [d] of run D at the metric's position */

#endif
