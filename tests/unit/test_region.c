/* The algebra of regions, against sets of numbers kept one by one; and the spaces of a model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "probes/region.h"

#define TINY "tests/golden/tiny/gqa_tied"
enum { N = 97, TRIALS = 3000 };

typedef bool bits[N];
static uint64_t seed = 42;
static uint32_t draw(uint32_t below)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 40) % below;
}

/* Some intervals in no order, overlapping. */
static void random_region(struct region *r, bits b)
{
    struct err e;
    memset(b, 0, sizeof(bits));
    *r = (struct region){0};
    for (uint32_t i = draw(12); i > 0; i--) {
        uint32_t from = draw(N), to = from + draw(N / 6);
        if (to > N) to = N;
        assert_true(region_add(r, from, to, &e));
        for (uint32_t k = from; k < to; k++) b[k] = true;
    }
    region_settle(r);
}

static void expect(const struct region *r, const bits b)
{
    uint64_t size = 0;
    for (uint32_t k = 0; k < N; k++) {
        size += b[k];
        assert_int_equal(region_has(r, k), b[k]);
    }
    assert_int_equal(region_size(r), size);
    for (size_t i = 0; i < r->n; i++) { /* canonical */
        assert_true(r->at[i].from < r->at[i].to);
        if (i) assert_true(r->at[i - 1].to < r->at[i].from);
    }
}

static void test_operations_are_those_of_sets(void **state)
{
    struct err e;
    uint64_t first[2] = {0, N};
    const struct region_space s = {.unit = REGION_LAYER, .n_lanes = 1, .first = first};
    (void)state;
    for (int t = 0; t < TRIALS; t++) {
        struct region a, b, got;
        bits in_a, in_b, want;
        random_region(&a, in_a);
        random_region(&b, in_b);
        expect(&a, in_a);
        assert_true(region_union(&a, &b, &got, &e));
        for (int k = 0; k < N; k++) want[k] = in_a[k] || in_b[k];
        expect(&got, want);
        region_release(&got);
        assert_true(region_intersect(&a, &b, &got, &e));
        for (int k = 0; k < N; k++) want[k] = in_a[k] && in_b[k];
        expect(&got, want);
        region_release(&got);
        assert_true(region_minus(&a, &b, &got, &e));
        for (int k = 0; k < N; k++) want[k] = in_a[k] && !in_b[k];
        expect(&got, want);
        region_release(&got);
        assert_true(region_complement(&s, &a, &got, &e));
        for (int k = 0; k < N; k++) want[k] = !in_a[k];
        expect(&got, want);
        region_release(&got);
        region_release(&a);
        region_release(&b);
    }
}

static void test_the_laws(void **state)
{
    struct err e;
    uint64_t first[2] = {0, N};
    const struct region_space s = {.unit = REGION_LAYER, .n_lanes = 1, .first = first};
    (void)state;
    for (int t = 0; t < TRIALS / 3; t++) {
        struct region a, b, not_a, not_b, x, y, z;
        bits ignored;
        random_region(&a, ignored);
        random_region(&b, ignored);
        assert_true(region_complement(&s, &a, &not_a, &e) && region_complement(&s, &b, &not_b, &e));
        /* De Morgan, both ways */
        assert_true(region_union(&a, &b, &x, &e) && region_complement(&s, &x, &y, &e) && region_intersect(&not_a, &not_b, &z, &e));
        assert_true(region_equal(&y, &z));
        region_release(&x), region_release(&y), region_release(&z);
        assert_true(region_intersect(&a, &b, &x, &e) && region_complement(&s, &x, &y, &e) && region_union(&not_a, &not_b, &z, &e));
        assert_true(region_equal(&y, &z));
        region_release(&x), region_release(&y), region_release(&z);
        /* idempotence, complement twice, a ∖ b = a ∩ bᶜ */
        assert_true(region_union(&a, &a, &x, &e) && region_intersect(&a, &a, &y, &e) && region_complement(&s, &not_a, &z, &e));
        assert_true(region_equal(&x, &a) && region_equal(&y, &a) && region_equal(&z, &a));
        region_release(&x), region_release(&y), region_release(&z);
        assert_true(region_minus(&a, &b, &x, &e) && region_intersect(&a, &not_b, &y, &e) && region_minus(&a, &a, &z, &e));
        assert_true(region_equal(&x, &y) && z.n == 0);
        region_release(&x), region_release(&y), region_release(&z);
        region_release(&a), region_release(&b), region_release(&not_a), region_release(&not_b);
    }
}

static void test_spaces_have_every_part_once(void **state)
{
    struct err e;
    struct model *m = model_open(TINY, "tiny", NULL, NULL, &e);
    (void)state;
    assert_non_null(m);
    uint64_t elements = 0;
    for (size_t i = 0; i < m->n_tensors; i++) elements += m->tensors[i].n_elements;
    const uint64_t want[] = {[REGION_LAYER] = m->arch.n_layers, [REGION_HEAD] = (uint64_t)m->arch.n_layers * m->arch.n_heads,
                             [REGION_NEURON] = (uint64_t)m->arch.n_layers * m->arch.d_mlp, [REGION_TENSOR] = elements};
    for (int u = 0; u < REGION_UNITS; u++) {
        struct region_space s;
        enum region_unit back;
        assert_true(region_unit_parse(region_unit_word((enum region_unit)u), &back) && (int)back == u);
        assert_true(region_space_init(&s, m, (enum region_unit)u, 5, &e));
        if (u <= REGION_TENSOR) assert_int_equal(s.first[s.n_lanes], want[u]);
        if (u == REGION_POSITION) assert_int_equal(s.first[s.n_lanes], 5);
        for (size_t lane = 0; lane < s.n_lanes; lane++) {
            if (s.first[lane] == s.first[lane + 1]) continue; /* a site this model lacks */
            assert_int_equal(region_lane(&s, s.first[lane]), lane);
            assert_int_equal(region_lane(&s, s.first[lane + 1] - 1), lane);
        }
        region_space_release(&s);
    }
    model_drop(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operations_are_those_of_sets),
        cmocka_unit_test(test_the_laws),
        cmocka_unit_test(test_spaces_have_every_part_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
