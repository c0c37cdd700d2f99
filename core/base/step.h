/* Long work is a step function: it does a bounded piece (≤ 200 ms on the machines we aim at) and
 * says whether there is more. Whoever drives it may serve others, report progress, cancel or give
 * up between two steps; the work itself never looks at a clock or a flag.
 */
#ifndef ENGRAM_STEP_H
#define ENGRAM_STEP_H

#include "err.h"

enum step { STEP_MORE, STEP_DONE, STEP_FAIL };

/* Drive to the end (tests, tools, nested short work). False on STEP_FAIL. */
#define STEP_ALL(call)                                                                             \
    ({                                                                                             \
        enum step step_;                                                                           \
        do step_ = (call);                                                                         \
        while (step_ == STEP_MORE);                                                                \
        step_ == STEP_DONE;                                                                        \
    })

#endif
