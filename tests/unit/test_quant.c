/* Element types against the `gguf` package and ggml (tests/golden/quant.bin) and against their
 * definition. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/file/quant.h"

static const uint32_t roundings = UINT32_MAX;

struct golden {
    unsigned char *bytes;
    size_t len, at;
};

static int load(void **state)
{
    static struct golden g;
    FILE *f = fopen("tests/golden/quant.bin", "rb");
    assert_non_null(f);
    g = (struct golden){.bytes = mem_new(1 << 20)};
    g.len = fread(g.bytes, 1, 1 << 20, f);
    (void)fclose(f);
    *state = &g;
    return 0;
}

static int unload(void **state)
{
    mem_drop(((struct golden *)*state)->bytes);
    return 0;
}

static const void *next(struct golden *g, size_t n)
{
    assert_true(n <= g->len - g->at);
    g->at += n;
    return g->bytes + g->at - n;
}

static void check_record(enum dtype t, const void *raw, const float *want, size_t n, size_t bytes)
{
    const struct dtype_info *d = dtype_info(t);
    assert_int_equal(n % d->block, 0);
    assert_int_equal(bytes, n / d->block * d->bytes);
    float *got = mem_new(n * sizeof *got);
    unsigned char *odd = mem_new(bytes + 1); /* the source may lie anywhere */
    memcpy(odd + 1, raw, bytes);
    dtype_widen(t, odd + 1, got, n);
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&got[i], &want[i], sizeof *got) == 0) continue;
        fail_msg("%s, element %zu: %a instead of %a", d->word, i, (double)got[i], (double)want[i]);
    }
    mem_drop(odd);
    mem_drop(got);
}

static void every_type_widens_as_the_reference_does(void **state)
{
    struct golden *g = *state;
    unsigned seen = 0;
    g->at = 0;
    for (;;) {
        uint32_t head[3];
        enum dtype t;
        memcpy(head, next(g, sizeof head), sizeof head);
        if (head[0] == roundings) break;
        assert_true(dtype_from_gguf(head[0], &t));
        const void *raw = next(g, head[2]);
        float *want = mem_new(head[1] * sizeof *want);
        memcpy(want, next(g, head[1] * sizeof *want), head[1] * sizeof *want);
        check_record(t, raw, want, head[1], head[2]);
        mem_drop(want);
        seen |= 1u << t;
    }
    assert_int_equal(seen, (1u << DTYPE_COUNT) - 1); /* no type goes unproven */
}

static void narrowing_rounds_to_nearest_even(void **state)
{
    struct golden *g = *state;
    uint32_t head[3] = {0};
    for (g->at = 0; head[0] != roundings;) {
        memcpy(head, next(g, sizeof head), sizeof head);
        if (head[0] != roundings) (void)next(g, head[2] + head[1] * sizeof(float));
    }
    assert_true(head[1] > 40);
    for (uint32_t i = 0; i < head[1]; i++) {
        float x;
        uint16_t want[2];
        memcpy(&x, next(g, sizeof x), sizeof x);
        memcpy(want, next(g, sizeof want), sizeof want);
        if (f32_to_f16(x) != want[0] || f32_to_bf16(x) != want[1])
            fail_msg("%a: f16 %04x (want %04x), bf16 %04x (want %04x)", (double)x, f32_to_f16(x),
                     want[0], f32_to_bf16(x), want[1]);
    }
    assert_int_equal(g->at, g->len);
}

/* The value of a 16-bit float by its definition: sign, exponent, fraction. */
static double defined(unsigned h, int fraction_bits, int bias)
{
    int exponent_max = (1 << (15 - fraction_bits)) - 1;
    int exponent = (int)(h >> fraction_bits) & exponent_max;
    double fraction = ldexp(h & ((1u << fraction_bits) - 1), -fraction_bits);
    double sign = h & 0x8000 ? -1 : 1;
    if (exponent == exponent_max) return fraction > 0 ? (double)NAN : sign * HUGE_VAL;
    return sign * (exponent ? ldexp(1 + fraction, exponent - bias) : ldexp(fraction, 1 - bias));
}

static void check_all(enum dtype t, float (*widen)(uint16_t), uint16_t (*narrow)(float),
                      int fraction_bits, int bias)
{
    for (unsigned h = 0; h < 65536; h++) {
        uint16_t src = (uint16_t)h;
        double want = defined(h, fraction_bits, bias);
        float one = widen(src), bulk;
        dtype_widen(t, &src, &bulk, 1);
        assert_memory_equal(&one, &bulk, sizeof one);
        if (isnan(want))
            assert_true(isnan(one));
        else if ((double)one != want || !signbit(one) != !signbit(want))
            fail_msg("%04x: %a instead of %a", h, (double)one, want);
        assert_int_equal(narrow(one), h); /* NaN payloads too */
    }
}

static void all_65536_halves_are_exact_and_come_back(void **state)
{
    (void)state;
    check_all(DTYPE_F16, f16_to_f32, f32_to_f16, 10, 15);
}

static void all_65536_bfloats_are_exact_and_come_back(void **state)
{
    (void)state;
    check_all(DTYPE_BF16, bf16_to_f32, f32_to_bf16, 7, 127);
}

static void a_nan_whose_payload_is_cut_stays_a_nan(void **state)
{
    (void)state;
    uint32_t bits = 0x7F800001;
    float x;
    memcpy(&x, &bits, sizeof x);
    assert_true(isnan(f16_to_f32(f32_to_f16(x))));
    assert_true(isnan(bf16_to_f32(f32_to_bf16(x))));
}

static void types_are_found_by_their_names_in_files(void **state)
{
    (void)state;
    enum dtype t;
    assert_true(dtype_from_gguf(3, &t) && t == DTYPE_Q4_1);
    assert_true(dtype_from_safetensors("BF16", &t) && t == DTYPE_BF16);
    assert_true(dtype_from_gguf(12, &t) && t == DTYPE_Q4_K);
    assert_false(dtype_from_gguf(9, &t)); /* Q8_1: ggml's own scratch format, never widened */
    assert_false(dtype_from_gguf(16, &t)); /* IQ2_XXS */
    assert_false(dtype_from_gguf(UINT32_MAX, &t));
    assert_false(dtype_from_safetensors("F64", &t));
    assert_false(dtype_from_safetensors("Q4_1", &t));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_widens_as_the_reference_does),
        cmocka_unit_test(narrowing_rounds_to_nearest_even),
        cmocka_unit_test(all_65536_halves_are_exact_and_come_back),
        cmocka_unit_test(all_65536_bfloats_are_exact_and_come_back),
        cmocka_unit_test(a_nan_whose_payload_is_cut_stays_a_nan),
        cmocka_unit_test(types_are_found_by_their_names_in_files),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
