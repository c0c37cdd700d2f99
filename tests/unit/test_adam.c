/* Adam against torch.optim.Adam (float64) and against what the first step must be. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/kernel/adam.h"
#include "core/base/mem.h"
#include "support/golden.h"
#include "support/numbers.h"

/* torch 2.13: Adam([w], lr=0.01), float64, four steps with these gradients. */
static void test_against_torch(void **state)
{
    (void)state;
    enum { N = 5, STEPS = 4 };
    static const float grads[STEPS][N] = {{0.1f, -2, 1e-4f, 0, 5}, {0.3f, 1, -1e-4f, 0, -5}, {-0.2f, 0.5f, 2e-4f, 1, 4}, {0.05f, 0, 0, -1, 0}};
    static const double want[STEPS][N] = {
        {0.4900000009999999, -1.24000000005, 2.99000099990001, 0.0, -0.00899999998},
        {0.480822190220559, -1.237336629670243, 2.9905272630631674, 0.0, -0.008473684191578951},
        {0.4782431522889793, -1.236722741046967, 2.985545193821072, -0.006388135883394713, -0.011266725466185087},
        {0.47537880866123866, -1.2362198808413283, 2.9814642305580548, -0.005977113315067581, -0.013554614926317012}};
    for (int threads = 1; threads <= 3; threads++) {
        struct err e = {0};
        struct adam a;
        struct par *par = par_new(threads, &e);
        float w[N] = {0.5f, -1.25f, 3.0f, 0.0f, 1e-3f};
        must(par && adam_init(&a, N, 0.01, &e), e);
        assert_true(a.beta1 == 0.9 && a.beta2 == 0.999 && a.eps == 1e-8);
        for (int s = 0; s < STEPS; s++) {
            adam_step(&a, par, grads[s], w);
            assert_int_equal(a.step, s + 1);
            for (int i = 0; i < N; i++)
                if (!(fabs((double)w[i] - want[s][i]) < 5e-7)) /* float32 near 3, twice per step */
                    fail_msg("step %d, weight %d: %.9g, %.9g expected", s + 1, i, (double)w[i], want[s][i]);
        }
        adam_release(&a);
        par_free(par);
    }
}

/* First step: each weight moves by lr·|g|/(|g| + eps), against the sign of its gradient, whatever
 * the gradient's size; a weight without gradient stays to the bit. */
static void test_first_step(void **state)
{
    (void)state;
    enum { N = 100 };
    struct err e = {0};
    uint64_t seed = 1;
    struct adam a;
    struct par *par = par_new(2, &e);
    must(par && adam_init(&a, N, 5e-4, &e), e);
    float w[N], g[N], was[N];
    for (int i = 0; i < N; i++) {
        was[i] = w[i] = (float)uniform(&seed, 0.1);
        g[i] = i == 50 ? 0 : (float)(uniform(&seed, 1) * pow(10, -(i % 9)));
    }
    adam_step(&a, par, g, w);
    for (int i = 0; i < N; i++) {
        double size = fabs((double)g[i]), want = -5e-4 * size / (size + 1e-8) * (g[i] > 0 ? 1 : -1);
        if (i == 50) assert_true(w[i] == was[i]);
        else assert_true(fabs((double)w[i] - (double)was[i] - want) < 1e-8);
    }
    adam_release(&a);
    par_free(par);
}

/* A constant gradient moves by lr at every step: both corrections cancel exactly. */
static void test_constant_gradient(void **state)
{
    (void)state;
    struct err e = {0};
    struct adam a;
    struct par *par = par_new(1, &e);
    must(par && adam_init(&a, 1, 1e-3, &e), e);
    float w = 0, g = 0.37f;
    for (int s = 1; s <= 1000; s++) {
        adam_step(&a, par, &g, &w);
        assert_true(fabs((double)w + 1e-3 * s) < 1e-6 * s);
    }
    adam_release(&a);
    par_free(par);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_torch),
        cmocka_unit_test(test_first_step),
        cmocka_unit_test(test_constant_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
