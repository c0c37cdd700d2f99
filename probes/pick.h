/* Which few of many to look at again: the one whose effect is largest, and others at random.
 *
 * An effect that is no number counts as the largest: it is shown. Those with an effect below 0 are none to pick.
 * Pure but for the random numbers.
 */
#ifndef ENGRAM_PICK_H
#define ENGRAM_PICK_H

#include <stddef.h>
#include <stdint.h>

/* `wanted` different ones of n into out, or all there are to pick; their number. */
size_t pick_some(double (*effect)(const void *ctx, size_t i), const void *ctx, size_t n, size_t wanted, uint64_t seed, size_t *out);

#endif
