#include "numbers.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

/* Knuth's MMIX multiplier; the high bits are the good ones. */
static uint64_t next(uint64_t *seed) { return *seed = *seed * 6364136223846793005u + 1442695040888963407u; }

double uniform(uint64_t *seed, double scale)
{
    return scale * ((double)(next(seed) >> 11) * 0x1p-52 - 1);
}

uint32_t below(uint64_t *seed, uint32_t n) { return (uint32_t)((next(seed) >> 33) % n); }

float *random_floats(uint64_t *seed, size_t n, double scale)
{
    float *v = malloc((n + 1) * sizeof *v);
    assert_non_null(v);
    for (size_t i = 0; i < n; i++) v[i] = (float)uniform(seed, scale);
    return v;
}

double *zero_doubles(size_t n)
{
    double *v = calloc(n + 1, sizeof *v);
    assert_non_null(v);
    return v;
}

void check_close(const char *what, const float *got, const double *want, size_t n, double tolerance,
                 double least)
{
    double top = least;
    for (size_t i = 0; i < n; i++) top = fmax(top, fabs(want[i]));
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= tolerance * top))
            fail_msg("%s: element %zu of %zu is %.9g, %.9g expected (largest %.3g)", what, i, n,
                     (double)got[i], want[i], top);
}

double farthest(const float *a, const float *b, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double off = fabs((double)a[i] - (double)b[i]);
        if (!(off <= worst)) worst = isnan(off) ? HUGE_VAL : off;
    }
    return worst;
}

double slope(double (*f)(void *ctx), void *ctx, double *x, double step)
{
    double at = *x, up, down;
    *x = at + step;
    up = f(ctx);
    *x = at - step;
    down = f(ctx);
    *x = at;
    return (up - down) / (2 * step);
}

double *widened(const float *x, size_t n)
{
    double *y = zero_doubles(n);
    for (size_t i = 0; i < n; i++) y[i] = (double)x[i];
    return y;
}

double weighted(const double *y, const float *c, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) s += y[i] * (double)c[i];
    return s;
}
