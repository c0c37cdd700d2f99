/* How much arithmetic the compute thread does in a second: what turns a forecast's operations into time.
 *
 * As finished work has shown, the newest weighing most; before any has, as one product of a block's shapes
 * shows. A forecast is about this machine as busy as it is, and never more than an estimate.
 *
 * Threads: rate_seen and rate_now on the compute thread, rate_known anywhere. Zeroed at first.
 */
#ifndef ENGRAM_RATE_H
#define ENGRAM_RATE_H

#include <stdatomic.h>

#include "core/arch.h"

struct rate {
    _Atomic double flops_per_s; /* 0: not known yet */
};

void rate_seen(struct rate *r, double flops, double seconds);
double rate_known(const struct rate *r);
/* Measures where nothing is known: some hundredths of a second. */
bool rate_now(struct rate *r, const struct arch *a, double *out, struct err *e) MUST_CHECK;

#endif
