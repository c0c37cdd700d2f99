/* Two halves of a table of rows, whole groups each: what is chosen on one is measured on the other (cross-validation
 * of selection; Kriegeskorte et al. 2009 on the bias of doing both on the same rows).
 *
 * Groups are shuffled by the seed; the first half of them, rounded up, is half 0. Not split: half 0 is all rows and
 * half 1 the same. Rows of a half keep their order; its groups are numbered anew from 0.
 *
 * Ownership: halves own their lists. Pure but for the random numbers.
 */
#ifndef ENGRAM_HALVES_H
#define ENGRAM_HALVES_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

enum { HALVES_LEAST = 4 }; /* groups: with fewer, a half were one group */

struct half {
    size_t *row;     /* [n] numbers of rows, ascending */
    uint32_t *group; /* [n] below n_groups */
    size_t n, n_groups;
};
/* group NULL: each row is its own. split needs at least two groups. */
bool halves_make(struct half out[2], const uint32_t *group, size_t n, size_t n_groups, bool split, uint64_t seed,
                 struct err *e) MUST_CHECK;
void halves_release(struct half h[2]);
size_t halves_bytes(size_t n, size_t n_groups); /* of both */

#endif
