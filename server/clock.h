/* Clocks of the daemon, in microseconds. The engine never looks at one.
 *
 * monotonic_us measures durations and deadlines; it never steps back and means nothing outside
 * the process. wall_us is UTC since 1970: for records and log lines, never for arithmetic.
 *
 * Threads: any. No state.
 *
 * Units: every time in server/ carries its unit in its name (_us, _s).
 */
#ifndef ENGRAM_CLOCK_H
#define ENGRAM_CLOCK_H

#include <stdint.h>
#include <time.h>

enum { US_PER_S = 1000000 };

static inline int64_t clock_read_us(clockid_t id)
{
    struct timespec t;
    (void)clock_gettime(id, &t);
    return (int64_t)t.tv_sec * US_PER_S + t.tv_nsec / 1000;
}

static inline int64_t monotonic_us(void) { return clock_read_us(CLOCK_MONOTONIC); }
static inline int64_t wall_us(void) { return clock_read_us(CLOCK_REALTIME); }

#endif
