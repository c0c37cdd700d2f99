/* xoshiro256** and splitmix64 against published vectors: those of the rand_xoshiro crate for state
 * 1, 2, 3, 4, and of Rosetta Code's splitmix64; the seeded sequences from both algorithms as
 * published, run in another language. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/random.h"

static void test_published_vector(void **state)
{
    (void)state;
    static const uint64_t want[] = {11520u, 0u, 1509978240u, 1215971899390074240u, 1216172134540287360u, 607988272756665600u,
                                    16172922978634559625u, 8476171486693032832u, 10595114339597558777u, 2904607092377533576u};
    struct random r = {{1, 2, 3, 4}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) assert_true(random_u64(&r) == want[i]);
}

static void test_seeding(void **state)
{
    (void)state;
    static const uint64_t of_0[] = {0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4, 0x06c45d188009454f, 0xf88bb8a8724c81ec};
    static const uint64_t of_1234567[] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u, 4593380528125082431u};
    struct random r;
    random_init(&r, 0);
    assert_memory_equal(r.s, of_0, sizeof of_0);
    random_init(&r, 1234567);
    assert_memory_equal(r.s, of_1234567, sizeof of_1234567);
}

static void test_seeded_sequences(void **state)
{
    (void)state;
    static const struct { uint64_t seed, want[4]; } rows[] = {
        {0, {0x99ec5f36cb75f2b4, 0xbf6e1f784956452a, 0x1a5f849d4933e6e0, 0x6aa594f1262d2d2c}},
        {42, {0x15780b2e0c2ec716, 0x6104d9866d113a7e, 0xae17533239e499a1, 0xecb8ad4703b360a1}},
        {UINT64_MAX, {0x8f5520d52a7ead08, 0xc476a018caa1802d, 0x81de31c0d260469e, 0xbf658d7e065f3c2f}}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct random r;
        random_init(&r, rows[i].seed);
        for (int k = 0; k < 4; k++) assert_true(random_u64(&r) == rows[i].want[k]);
    }
}

/* The top 53 bits, as a fraction. */
static void test_unit(void **state)
{
    (void)state;
    struct random r, same;
    random_init(&r, 42);
    random_init(&same, 42);
    assert_true(random_unit(&r) == (double)(0x15780b2e0c2ec716u >> 11) / 9007199254740992.0);
    (void)random_u64(&same);
    double sum = 0;
    enum { N = 100000 };
    for (int i = 0; i < N; i++) {
        double x = random_unit(&r);
        assert_true(x >= 0 && x < 1 && x == (double)(random_u64(&same) >> 11) * 0x1p-53);
        sum += x;
    }
    assert_true(sum / N > 0.5 - 0.005 && sum / N < 0.5 + 0.005); /* five standard errors */
}

static void test_below(void **state)
{
    (void)state;
    struct random r;
    random_init(&r, 1);
    static const uint64_t limits[] = {1, 2, 3, 7, 10, 1u << 31, UINT64_MAX, (uint64_t)1 << 63, ((uint64_t)1 << 63) + 1};
    for (size_t k = 0; k < sizeof limits / sizeof *limits; k++)
        for (int i = 0; i < 1000; i++) assert_true(random_below(&r, limits[k]) < limits[k]);
    enum { N = 70000, SIDES = 7 };
    int count[SIDES] = {0};
    for (int i = 0; i < N; i++) count[random_below(&r, SIDES)]++;
    for (int i = 0; i < SIDES; i++) assert_in_range(count[i], N / SIDES - 500, N / SIDES + 500);
    /* Biased by the remainder, a third of this range would come up twice as often. */
    uint64_t wide = UINT64_MAX / 3 * 2;
    int low = 0;
    for (int i = 0; i < N; i++) low += random_below(&r, wide) < wide / 2;
    assert_in_range(low, N / 2 - 700, N / 2 + 700);
}

/* A permutation, each of the six of three equally often, the same for the same seed. */
static void test_shuffle(void **state)
{
    (void)state;
    enum { N = 60000 };
    struct random r, again;
    random_init(&r, 9);
    random_init(&again, 9);
    int seen[27] = {0}, kinds = 0;
    for (int i = 0; i < N; i++) {
        size_t v[3] = {0, 1, 2}, w[3] = {0, 1, 2};
        random_shuffle(&r, v, 3);
        random_shuffle(&again, w, 3);
        assert_memory_equal(v, w, sizeof v);
        assert_true(v[0] + v[1] + v[2] == 3 && v[0] != v[1] && v[1] != v[2]);
        seen[v[0] * 9 + v[1] * 3 + v[2]]++;
    }
    for (int i = 0; i < 27; i++)
        if (seen[i]) {
            assert_in_range(seen[i], N / 6 - 500, N / 6 + 500);
            kinds++;
        }
    assert_int_equal(kinds, 6);
    random_shuffle(&r, NULL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_vector), cmocka_unit_test(test_seeding), cmocka_unit_test(test_seeded_sequences),
        cmocka_unit_test(test_unit),             cmocka_unit_test(test_below),   cmocka_unit_test(test_shuffle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
