/* Numbers for tests: made from a seed, and compared. Nothing of the engine is used to make them. */
#ifndef ENGRAM_TEST_NUMBERS_H
#define ENGRAM_TEST_NUMBERS_H

#include <stddef.h>
#include <stdint.h>

/* The same numbers for the same seed: uniform in (-scale, scale). *seed moves on. */
double uniform(uint64_t *seed, double scale);
uint32_t below(uint64_t *seed, uint32_t n);
float *random_floats(uint64_t *seed, size_t n, double scale); /* free() it */
double *zero_doubles(size_t n);                               /* free() it */

double *widened(const float *x, size_t n);                    /* free() it */
/* f(x) = Σ c·y(x): what a backward pass differentiates when c is the gradient of y. */
double weighted(const double *y, const float *c, size_t n);

/* Fail the test, naming `what`, unless max |got − want| ≤ tolerance · max(|want|, least). */
void check_close(const char *what, const float *got, const double *want, size_t n, double tolerance,
                 double least);
/* max |a − b| over n. A NaN is infinitely far. */
double farthest(const float *a, const float *b, size_t n);

/* Central difference of f in *x. */
double slope(double (*f)(void *ctx), void *ctx, double *x, double step);

#endif
