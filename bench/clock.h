/* What the benches in C share: a clock, medians, and giving up. */
#ifndef ENGRAM_BENCH_CLOCK_H
#define ENGRAM_BENCH_CLOCK_H

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/base/err.h"

/* Seconds, of the wall (CLOCK_MONOTONIC) or of this process (CLOCK_PROCESS_CPUTIME_ID). */
static inline double seconds(clockid_t clock)
{
    struct timespec t;
    (void)clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline double now(void) { return seconds(CLOCK_MONOTONIC); }

static inline int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts v. */
static inline double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}

static inline _Noreturn void die(const struct err *e)
{
    (void)fprintf(stderr, "bench: %s\n", e->text);
    exit(1);
}

#endif
