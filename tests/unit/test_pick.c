/* Which few are looked at again. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "probes/pick.h"

enum { N = 40 };

static double of(const void *ctx, size_t i) { return ((const double *)ctx)[i]; }

static void some(const double *x, size_t wanted, size_t expected, size_t first)
{
    size_t out[N + 1];
    for (uint64_t seed = 0; seed < 20; seed++) {
        assert_int_equal(pick_some(of, x, N, wanted, seed, out), expected);
        if (expected) assert_int_equal(out[0], first);
        for (size_t i = 0; i < expected; i++) {
            assert_true(out[i] < N && !(x[out[i]] < 0));
            for (size_t k = 0; k < i; k++) assert_int_not_equal(out[i], out[k]);
        }
    }
}

static void test_pick_some(void **state)
{
    double x[N];
    (void)state;
    for (size_t i = 0; i < N; i++) x[i] = i % 2 ? -1 : (double)(i * 7 % N);
    some(x, 5, 5, 34);      /* 34·7 mod 40 = 38, the largest of the even ones */
    some(x, N, N / 2, 34);  /* half of them are none to pick */
    some(x, 0, 0, 0);
    x[12] = (double)NAN;    /* no number is shown first */
    some(x, 3, 3, 12);
    for (size_t i = 0; i < N; i++) x[i] = -1;
    some(x, 3, 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pick_some)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
