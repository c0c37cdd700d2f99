/* Numbers read back exactly and in the fewest digits (the reference is the C library: printf at
 * every length, strtof and strtod), and answers are JSON whatever happens. */
#include "server/json.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state * 2685821657736338717u;
}

/* Significant digits, leading and trailing zeros not counted. */
static int significant(const char *s)
{
    int n = 0, zeros = 0;
    for (; *s && *s != 'e'; s++) {
        if (*s < '0' || *s > '9' || (n == 0 && *s == '0')) continue;
        n++;
        zeros = *s == '0' ? zeros + 1 : 0;
    }
    return n - zeros;
}

/* Of the nearest decimals of each length. Beside a power of two a decimal that is not the nearest
 * may be shorter and still read back, so this is an upper bound. */
static int fewest_digits(double v, bool single)
{
    char text[40];
    for (int n = 1;; n++) {
        (void)snprintf(text, sizeof text, "%.*e", n - 1, v);
        if (single ? strtof(text, NULL) == (float)v : strtod(text, NULL) == v) return significant(text);
    }
}

static bool is_json_number(const char *s)
{
    struct arena a;
    struct err e;
    arena_init(&a, 0);
    const struct json *v = json_parse(s, strlen(s), &a, &e);
    bool yes = v && v->type == JSON_NUMBER;
    arena_release(&a);
    return yes;
}

static void check_f32(float v, bool all)
{
    char text[32];
    f32_text(v, text);
    float back = strtof(text, NULL), through = (float)strtod(text, NULL);
    assert_memory_equal(&back, &v, sizeof v);
    assert_memory_equal(&through, &v, sizeof v); /* readers go by way of a double */
    if (!all) return;
    assert_true(is_json_number(text));
    if (v != 0) assert_in_range(significant(text), 1, fewest_digits((double)v, true));
}

static void check_f64(double v, bool all)
{
    char text[32];
    f64_text(v, text);
    double back = strtod(text, NULL);
    assert_memory_equal(&back, &v, sizeof v);
    if (!all) return;
    assert_true(is_json_number(text));
    if (v != 0) assert_in_range(significant(text), 1, fewest_digits(v, false));
}

static void random_bits_read_back(void **state)
{
    (void)state;
    uint64_t seed = 0x9e3779b97f4a7c15u;
    for (int i = 0; i < 100000; i++) {
        uint64_t bits = next_random(&seed);
        uint32_t half = (uint32_t)bits;
        double d;
        float f;
        memcpy(&d, &bits, sizeof d);
        memcpy(&f, &half, sizeof f);
        if (isfinite(d)) check_f64(d, i % 16 == 0);
        if (isfinite(f)) check_f32(f, i % 16 == 0);
        check_f32((float)(bits >> 40) / 16777216.0f - 0.5f, i % 16 == 0); /* as activations are */
        check_f64((double)(int64_t)(bits % 2000001) / 1000 - 1000, i % 16 == 0);
    }
}

static void every_power_of_two_reads_back(void **state)
{
    (void)state;
    for (int q = -1074; q < 1024; q++) check_f64(ldexp(1, q), true);
    for (int q = -149; q < 128; q++) check_f32((float)ldexp(1, q), true);
    for (int p = -300; p < 300; p++) {
        char text[16];
        (void)snprintf(text, sizeof text, "1e%d", p);
        check_f64(strtod(text, NULL), true);
    }
}

static void specials(void **state)
{
    (void)state;
    static const struct { double v; const char *text; } rows[] = {
        {0.0, "0"}, {-0.0, "-0.0"}, {1, "1"}, {-2.5, "-2.5"}, {0.1, "0.1"}, {100, "100"},
        {0.30000000000000004, "0.30000000000000004"}, {1e22, "1e22"}, {1e23, "1e23"},
        {5e-324, "5e-324"}, {1.7976931348623157e308, "1.7976931348623157e308"},
        {0.00001, "0.00001"}, {1e-7, "1e-7"}, {123456789, "123456789"},
        {NAN, "null"}, {INFINITY, "null"}, {-INFINITY, "null"},
    };
    char text[32];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        f64_text(rows[i].v, text);
        assert_string_equal(text, rows[i].text);
    }
    f32_text(0.1f, text);
    assert_string_equal(text, "0.1");
    f32_text(3.4028235e38f, text);
    assert_string_equal(text, "3.4028235e38");
    f32_text(1e-45f, text);
    assert_string_equal(text, "1e-45");
    f32_text(NAN, text);
    assert_string_equal(text, "null");
}

enum { MANY = 100000 };

static void a_large_grid_is_cheap(void **state)
{
    (void)state;
    struct err e;
    float *v = mem_floats(MANY, &e);
    uint64_t seed = 7;
    assert_non_null(v);
    for (size_t i = 0; i < MANY; i++) v[i] = (float)(next_random(&seed) >> 40) / 1e5f - 80;
    clock_t start = clock();
    jout *o = jout_object();
    struct buf b = {0};
    jout_f32s(o, "values", v, MANY);
    assert_true(jout_print(o, &b, &e));
#ifndef ENGRAM_SANITIZED
    assert_true(clock() - start < CLOCKS_PER_SEC / 10);
#else
    (void)start;
#endif
    const char *p = strchr(b.data, '[') + 1;
    for (size_t i = 0; i < MANY; i++) {
        char *end;
        assert_true(strtof(p, &end) == v[i]);
        p = end + 1;
    }
    jout_free(o);
    buf_release(&b);
    mem_drop(v);
}

static void assert_prints(jout *root, const char *wanted)
{
    struct buf b = {0};
    struct err e;
    assert_true(jout_print(root, &b, &e));
    assert_string_equal(b.data, wanted);
    buf_release(&b);
    jout_free(root);
}

static void trees_print(void **state)
{
    (void)state;
    jout *o = jout_object(), *list = jout_put_array(o, "list");
    jout_int(list, NULL, INT64_C(9007199254740993));
    jout_int(list, NULL, INT64_MIN);
    jout_bool(list, NULL, true);
    jout_text(list, NULL, NULL);
    jout_f64s(o, "d", (const double[]){0.1, NAN}, 2);
    jout_u32s(o, "u", (const uint32_t[]){0, 4294967295u}, 2);
    jout_raw(jout_put_object(o, "inner"), "raw", "[1]");
    jout_f32s(o, "none", NULL, 0);
    assert_prints(o, "{\"list\":[9007199254740993,-9223372036854775808,true,null],"
                     "\"d\":[0.1,null],\"u\":[0,4294967295],\"inner\":{\"raw\":[1]},\"none\":[]}");
}

static void texts_are_escaped_and_repaired(void **state)
{
    (void)state;
    jout *o = jout_object();
    jout_text(o, "a\"b", "tab\t quote\" slash\\ bell\x07 caf\xC3\xA9");
    jout_text(o, "cut", "caf\xC3");
    assert_prints(o, "{\"a\\\"b\":\"tab\\t quote\\\" slash\\\\ bell\\u0007 caf\xC3\xA9\","
                     "\"cut\":\"caf\xEF\xBF\xBD\"}");
}

static void half_an_answer_is_none(void **state)
{
    (void)state;
    struct buf b = {0};
    struct err e = {0};
    jout *o = jout_object(), *list = jout_put_array(o, "list");
    jout_add(list, NULL, NULL); /* what a failed allocation comes to */
    assert_false(jout_print(o, &b, &e));
    assert_int_equal(e.code, ERR_NO_MEMORY);
    buf_release(&b);
    jout_free(o);
    assert_false(jout_print(NULL, &b, &e));
    jout_text(NULL, "key", "no parent: nothing happens");
    assert_null(jout_put_object(NULL, "key"));
    buf_release(&b);
}

static void requests_are_written_back(void **state)
{
    (void)state;
    static const char text[] = "{\"a\":[1,2.5,\"x\\n\",null,true],\"b\":{},\"big\":9007199254740993}";
    struct arena a;
    struct err e;
    struct buf b = {0};
    arena_init(&a, 0);
    const struct json *v = json_parse(text, strlen(text), &a, &e);
    assert_non_null(v);
    json_write(v, &b);
    assert_string_equal(b.data, text);
    buf_release(&b);
    arena_release(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_bits_read_back),
        cmocka_unit_test(every_power_of_two_reads_back),
        cmocka_unit_test(specials),
        cmocka_unit_test(a_large_grid_is_cheap),
        cmocka_unit_test(trees_print),
        cmocka_unit_test(texts_are_escaped_and_repaired),
        cmocka_unit_test(half_an_answer_is_none),
        cmocka_unit_test(requests_are_written_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
