/* The JSON reader: what it takes, what it refuses and where it points, and exact values. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/json.h"

#define TEN(x)        x x x x x x x x x x
#define SIXTY_FOUR(x) TEN(x) TEN(x) TEN(x) TEN(x) TEN(x) TEN(x) x x x x

struct row {
    const char *text;
    size_t len;
    const char *why; /* a piece of the sentence; NULL: accepted */
};
#define YES(text)                                                                                  \
    {                                                                                              \
        text, sizeof(text) - 1, NULL                                                               \
    }
#define NO(text, why)                                                                              \
    {                                                                                              \
        text, sizeof(text) - 1, why                                                                \
    }

static const struct row rows[] = {
    YES("null"),
    YES(" true\n"),
    YES("\tfalse\r\n"),
    YES("{}"),
    YES("[]"),
    YES("\"\""),
    YES("[ ]"),
    YES("{ \"a\" : [ 1 , 2 ] }"),
    YES("{\"\":1}"),
    YES("[{},{}]"),
    NO("", "byte 0: the text ends"),
    NO("  ", "byte 2: the text ends"),
    NO("nul", "byte 0: expected a value"),
    NO("True", "expected a value"),
    NO("nullx", "byte 4: text after the end"),
    NO("{} {}", "byte 3: text after the end"),
    NO("[1]]", "byte 3: text after the end"),
    NO("1 2", "text after the end"),
    NO("\xEF\xBB\xBF{}", "byte-order mark"),
    NO("{}\0", "byte 2: a NUL byte"),
    NO("// x\n1", "expected a value"),
    NO("\f1", "expected a value"),
    NO("\xC2\xA0"
       "1",
       "expected a value"),
    NO("'a'", "expected a value"),

    NO("[1,]", "byte 3: expected a value"),
    NO("[,1]", "byte 1: expected a value"),
    NO("[1 2]", "byte 3: expected ',' or ']'"),
    NO("[1", "byte 2: expected ','"),
    NO("[", "byte 1: the text ends"),
    NO("[1}", "byte 2: expected ',' or ']'"),
    NO("{\"a\":1,}", "byte 7: expected a key"),
    NO("{a:1}", "byte 1: expected a key"),
    NO("{1:1}", "expected a key"),
    NO("{\"a\" 1}", "byte 5: expected ':'"),
    NO("{\"a\":}", "byte 5: expected a value"),
    NO("{\"a\"}", "byte 4: expected ':'"),
    NO("{\"a\":1]", "byte 6: expected ',' or '}'"),
    NO("{", "byte 1: expected a key"),

    YES(SIXTY_FOUR("[") SIXTY_FOUR("]")),
    NO(SIXTY_FOUR("[") "[]" SIXTY_FOUR("]"), "byte 64: nested deeper than 64"),
    YES(SIXTY_FOUR("{\"a\":") "1" SIXTY_FOUR("}")),
    NO("{\"a\":" SIXTY_FOUR("[") SIXTY_FOUR("]") "}", "byte 68: nested deeper"),
    YES("[" SIXTY_FOUR("[],") "[]]"), /* wide is not deep */

    NO("{\"a\":1,\"a\":2}", "object at byte 0: the key \"a\" appears twice"),
    NO("[{\"a\":1,\"b\":2,\"\\u0061\":3}]", "object at byte 1: the key \"a\""),
    NO("{\"\":1,\"\":1}", "the key \"\" appears twice"),
    YES("{\"a\":1,\"A\":2,\"a \":3}"),
    YES("[{\"a\":1},{\"a\":1}]"),
    YES("{\"a\":{\"a\":1}}"),

    YES("0"),
    YES("-0"),
    YES("-0.0"),
    YES("1e5"),
    YES("1E+05"),
    YES("1.5e-3"),
    YES("0.0"),
    YES("0e0"),
    YES("9223372036854775807"),
    YES("123456789012345678901234567890"),
    YES("1.7976931348623157e308"),
    YES("1e-400"),
    YES("5e-324"),
    NO("01", "byte 0: a malformed number"),
    NO("-01", "malformed number"),
    NO("00", "malformed number"),
    NO("1.", "malformed number"),
    NO(".5", "expected a value"),
    NO("1.e3", "malformed number"),
    NO("1e", "malformed number"),
    NO("1e+", "malformed number"),
    NO("-", "malformed number"),
    NO("+1", "expected a value"),
    NO("--1", "malformed number"),
    NO("1e400", "outside the range"),
    NO("-1e400", "outside the range"),
    NO("1.8e308", "outside the range"),
    NO("NaN", "expected a value"),
    NO("Infinity", "expected a value"),
    NO("-Infinity", "malformed number"),
    NO("0x10", "text after"),
    NO("1_000", "text after"),
    NO("[1.5.5]", "expected ',' or ']'"),
    NO("1e5.5", "text after"),
    NO(TEN(TEN("9")) TEN(TEN("9")) TEN(TEN("9")) TEN(TEN("9")), "outside the range"),

    YES("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e9\\u20AC\\ud83d\\ude00\""),
    YES("\"\\u001f\""),
    YES("\"\x7F\""),
    YES("\"h\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\""),
    YES("\"\xEF\xBF\xBF\""),
    YES("\"\xEF\xBB\xBF\""),
    YES("\"\xF4\x8F\xBF\xBF\""),
    YES("\"\\uFFFF\""),
    NO("\"abc", "byte 0: a string without its closing quote"),
    NO("\"", "without its closing quote"),
    NO("\"\\", "without its closing quote"),
    NO("\"\\\"", "without its closing quote"),
    NO("\"a\nb\"", "byte 2: a raw control character"),
    NO("\"\t\"", "raw control character"),
    NO("\"\x1F\"", "raw control character"),
    NO("\"a\0b\"", "byte 2: a NUL byte"),
    NO("\"ab\\u0000\"", "byte 3: an escaped NUL"),
    NO("\"\\x41\"", "byte 1: unknown escape"),
    NO("\"\\a\"", "unknown escape"),
    NO("\"\\u12\"", "unknown escape"),
    NO("\"\\u12G4\"", "unknown escape"),
    NO("\"\\U0041\"", "unknown escape"),
    NO("\"\\u 041\"", "unknown escape"),
    NO("\"\\u+041\"", "unknown"),
    NO("\"\\ud800\"", "byte 1: half of a surrogate"),
    NO("\"\\udc00\"", "half of a surrogate"),
    NO("\"\\ud800\\ud800\"", "half of a surrogate"),
    NO("\"\\ud800x\"", "half of a surrogate"),
    NO("\"\\ud83d\\u0041\"", "half of a surrogate"),
    NO("\"\\udc00\\ud800\"", "half of a surrogate"),
    NO("{\"\\ud800\":1}", "byte 2: half of a surrogate"),
    NO("\"\xC3\"", "byte 1: not valid UTF-8"),
    NO("\"\x80\"", "not valid UTF-8"),
    NO("\"\xC0\xAF\"", "not valid UTF-8"),
    NO("\"\xE0\x80\xAF\"", "not valid UTF-8"),
    NO("\"\xED\xA0\x80\"", "not valid UTF-8"),
    NO("\"\xF4\x90\x80\x80\"", "not valid UTF-8"),
    NO("\"\xF8\x88\x80\x80\x80\"", "not valid UTF-8"),
    NO("\"\xFF\"", "not valid UTF-8"),
    NO("\"\xE2\x82\"", "not valid UTF-8"),
    NO("\"\xF0\x9F\x98\"", "not valid UTF-8"),
    NO("\"12345678\xFF\"", "byte 9: not valid UTF-8"),
};

/* A copy without a byte to spare, so that a sanitizer sees a step too far. */
static const struct json *parse(const char *text, size_t len, struct arena *a, struct err *e)
{
    char *exact = malloc(len ? len : 1);
    assert_non_null(exact);
    if (len) memcpy(exact, text, len);
    const struct json *v = json_parse(exact, len, a, e);
    free(exact);
    return v;
}

static void texts_are_taken_or_refused_by_the_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct row *r = &rows[i];
        struct arena a;
        struct err e = {0};
        arena_init(&a, 0);
        const struct json *v = parse(r->text, r->len, &a, &e);
        if (!r->why && !v) fail_msg("row %zu (%s) refused: %s", i, r->text, e.text);
        if (r->why && v) fail_msg("row %zu (%s) accepted", i, r->text);
        if (r->why && !strstr(e.text, r->why)) fail_msg("row %zu (%s): %s", i, r->text, e.text);
        assert_int_equal(e.code, r->why ? ERR_INVALID : ERR_NONE);
        arena_release(&a);
    }
}

static void every_cut_of_a_text_is_refused(void **state)
{
    (void)state;
    static const char text[] =
        "{\"k\":[1.5e3,-2,true,null,\"\\u20ac\\ud83d\\ude00\xC3\xA9\"],\"m\":{\"n\":false}}";
    for (size_t n = 0; n < sizeof text - 1; n++) {
        struct arena a;
        struct err e;
        arena_init(&a, 0);
        assert_null(parse(text, n, &a, &e));
        arena_release(&a);
    }
}

struct fixture {
    struct arena a;
    struct err e;
};

static int begin(void **state)
{
    struct fixture *f = mem_new(sizeof *f);
    arena_init(&f->a, 0);
    *state = f;
    return 0;
}

static int end(void **state)
{
    struct fixture *f = *state;
    arena_release(&f->a);
    mem_drop(f);
    return 0;
}

static const struct json *must_parse(struct fixture *f, const char *text)
{
    const struct json *v = parse(text, strlen(text), &f->a, &f->e);
    if (!v) fail_msg("%s: %s", text, f->e.text);
    return v;
}

static void integers_are_exact_to_the_ends_of_int64(void **state)
{
    static const struct {
        const char *text;
        bool is_int;
        int64_t integer;
        double number;
    } cases[] = {
        {"9223372036854775807", true, INT64_MAX, 0x1p63},
        {"-9223372036854775808", true, INT64_MIN, -0x1p63},
        {"9223372036854775808", false, 0, 0x1p63},
        {"-9223372036854775809", false, 0, -0x1p63},
        {"9007199254740993", true, 9007199254740993, 0x1p53}, /* no double has it */
        {"0", true, 0, 0},
        {"-7", true, -7, -7},
        {"1.0", false, 0, 1},
        {"1e2", false, 0, 100},
        {"0.1", false, 0, 0.1},
        {"0.30000000000000004", false, 0, 0.1 + 0.2},
        {"2.2250738585072011e-308", false, 0, 2.2250738585072011e-308},
        {"0." TEN("000000") "1234567890123456789", false, 0, 1.234567890123456789e-61},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct json *v = must_parse(*state, cases[i].text);
        assert_int_equal(v->type, JSON_NUMBER);
        assert_int_equal(v->is_int, cases[i].is_int);
        if (v->is_int) assert_true(v->integer == cases[i].integer);
        if (v->number != cases[i].number) fail_msg("%s: %a", cases[i].text, v->number);
    }
    assert_true(signbit(must_parse(*state, "-0")->number));
}

static void strings_are_unescaped_to_utf8(void **state)
{
    const struct json *v =
        must_parse(*state, "\"a\\n\\\"\\u00e9\\u20AC\\ud83d\\uDE00\\/\xC3\xA9z\"");
    static const char want[] = "a\n\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80/\xC3\xA9z";
    assert_int_equal(v->type, JSON_STRING);
    assert_int_equal(v->len, sizeof want - 1);
    assert_string_equal(v->text, want);
}

static void members_keep_their_order_and_answer_by_name(void **state)
{
    const struct json *v = must_parse(*state, "{\"z\":1,\"a\":[true,null,\"x\"],\"Z\":{}}");
    assert_int_equal(v->len, 3);
    assert_string_equal(v->child->key, "z");
    assert_string_equal(v->child->next->key, "a");
    assert_string_equal(v->child->next->next->key, "Z");
    assert_null(v->child->next->next->next);
    const struct json *a = json_get(v, "a");
    assert_int_equal(a->type, JSON_ARRAY);
    assert_int_equal(a->len, 3);
    assert_true(a->child->boolean);
    assert_int_equal(a->child->next->type, JSON_NULL);
    assert_null(a->child->key);
    assert_int_equal(json_get(v, "Z")->type, JSON_OBJECT);
    assert_null(json_get(v, "zz"));
    assert_null(json_get(v, ""));
    assert_null(json_get(a, "a"));
    assert_null(json_get(NULL, "a"));
    assert_null(json_get(v->child, "a"));
}

static void objects_on_both_sides_of_the_index_are_searched_alike(void **state)
{
    struct fixture *f = *state;
    for (int n = 1; n <= 40; n++) {
        struct buf b = {0};
        for (int i = 0; i < n; i++) buf_printf(&b, "%s\"key%d\":%d", i ? "," : "{", i, i);
        buf_text(&b, "}");
        const struct json *v = must_parse(f, b.data);
        for (int i = 0; i < n; i++) {
            char key[16];
            (void)snprintf(key, sizeof key, "key%d", i);
            assert_int_equal(json_get(v, key)->integer, i);
        }
        assert_null(json_get(v, "key"));
        assert_null(json_get(v, "key40"));
        b.data[b.len - 1] = ','; /* one more, a repetition of the last */
        buf_printf(&b, "\"key%d\":0}", n - 1);
        assert_null(json_parse(b.data, b.len, &f->a, &f->e));
        assert_non_null(strstr(f->e.text, "appears twice"));
        buf_release(&b);
    }
}

static void a_long_key_in_an_error_is_cut_between_characters(void **state)
{
    struct fixture *f = *state;
    static const char text[] =
        "{\"a" TEN(TEN("\xE2\x82\xAC")) "\":1,\"a" TEN(TEN("\xE2\x82\xAC")) "\":2}";
    size_t bad;
    assert_null(json_parse(text, sizeof text - 1, &f->a, &f->e));
    assert_non_null(strstr(f->e.text, "appears twice"));
    assert_true(utf8_valid(f->e.text, strlen(f->e.text), &bad));
}

static void a_budget_is_an_error_not_a_crash(void **state)
{
    (void)state;
    static const char text[] = "{\"a\":[1,2,3],\"b\":\"cc\",\"d\":{\"e\":[[]]}}";
    size_t budget = 16;
    for (;; budget += 16) {
        struct arena a;
        struct err e;
        arena_init(&a, budget);
        const struct json *v = json_parse(text, sizeof text - 1, &a, &e);
        arena_release(&a);
        if (v) break;
        assert_int_equal(e.code, ERR_NO_MEMORY);
    }
    assert_true(budget > 160);
}

/* utf8_valid against the definition: encode every code point, and every pair of bytes by hand. */
static void utf8_is_told_from_its_imitations(void **state)
{
    (void)state;
    size_t bad = 0;
    for (uint32_t c = 1; c <= 0x10FFFF; c++) {
        unsigned char s[4];
        size_t n = 0;
        if (c < 0x80) {
            s[n++] = (unsigned char)c;
        } else if (c < 0x800) {
            s[n++] = (unsigned char)(0xC0 | c >> 6);
        } else if (c < 0x10000) {
            s[n++] = (unsigned char)(0xE0 | c >> 12);
            s[n++] = (unsigned char)(0x80 | (c >> 6 & 0x3F));
        } else {
            s[n++] = (unsigned char)(0xF0 | c >> 18);
            s[n++] = (unsigned char)(0x80 | (c >> 12 & 0x3F));
            s[n++] = (unsigned char)(0x80 | (c >> 6 & 0x3F));
        }
        if (c >= 0x80) s[n++] = (unsigned char)(0x80 | (c & 0x3F));
        bool surrogate = c >= 0xD800 && c <= 0xDFFF;
        assert_int_equal(utf8_valid((const char *)s, n, &bad), !surrogate);
    }
    for (unsigned v = 0; v < 65536; v++) {
        unsigned char s[2] = {(unsigned char)(v >> 8), (unsigned char)v};
        bool plain = s[0] && s[0] < 0x80 && s[1] && s[1] < 0x80;
        bool pair = s[0] >= 0xC2 && s[0] <= 0xDF && (s[1] & 0xC0) == 0x80;
        assert_int_equal(utf8_valid((const char *)s, 2, &bad), plain || pair);
    }
    for (size_t at = 0; at < 20; at++) { /* the offset, whatever its place in a stride of eight */
        char s[20];
        memset(s, 'a', sizeof s);
        s[at] = at % 2 ? '\0' : '\xFF';
        assert_false(utf8_valid(s, sizeof s, &bad));
        assert_int_equal(bad, at);
    }
    assert_true(utf8_valid("", 0, &bad));
}

/* Compared pair by pair, 200 000 members would take 2 * 10^10 steps: the test would be seen to
 * hang. */
static void a_large_object_is_no_slower_than_its_bytes(void **state)
{
    enum { MEMBERS = 200000 };
    struct buf b = {0};
    for (int i = 0; i < MEMBERS; i++) buf_printf(&b, "%s\"member-%06d\":%d", i ? "," : "{", i, i);
    buf_text(&b, "}");
    const struct json *v = must_parse(*state, b.data);
    assert_int_equal(v->len, MEMBERS);
    for (const struct json *m = v->child; m; m = m->next) assert_ptr_equal(json_get(v, m->key), m);
    buf_release(&b);
}

/* What a text takes is known from its punctuation, and not wildly more than it does take. */
static void what_a_text_takes_is_known_before(void **state)
{
    enum { MOST = 3, REPEATS = 3000 };
    static const char *const parts[] = {
        "0", "[]", "{}", "\"\"", "\"a text\"", "[0,1,2]", "{\"k\":0}", "null", "[[[[0]]]]",
        "0.1234567890123456789012345678901234567890123456789012345678901234567890",
        "{\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"e\":5,\"f\":6,\"g\":7,\"h\":8,\"i\":9,\"j\":10,\"k\":11,\"l\":12}"};
    (void)state;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        struct arena a;
        struct err e = {0};
        struct buf b = {0};
        buf_text(&b, "[");
        for (int k = 0; k < REPEATS; k++) buf_printf(&b, "%s%s", k ? "," : "", parts[i]);
        buf_text(&b, "]");
        size_t bound = json_bytes(b.data, b.len);
        arena_init(&a, 0);
        assert_non_null(json_parse(b.data, b.len, &a, &e));
        if (a.used_bytes > bound || bound > MOST * a.used_bytes)
            fail_msg("%s: %zu bytes, foreseen %zu", parts[i], a.used_bytes, bound);
        arena_release(&a);
        buf_release(&b);
    }
}

int main(void)
{
#define IN_ARENA(t) cmocka_unit_test_setup_teardown(t, begin, end)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_taken_or_refused_by_the_table),
        cmocka_unit_test(every_cut_of_a_text_is_refused),
        IN_ARENA(integers_are_exact_to_the_ends_of_int64),
        IN_ARENA(strings_are_unescaped_to_utf8),
        IN_ARENA(members_keep_their_order_and_answer_by_name),
        IN_ARENA(objects_on_both_sides_of_the_index_are_searched_alike),
        IN_ARENA(a_long_key_in_an_error_is_cut_between_characters),
        cmocka_unit_test(a_budget_is_an_error_not_a_crash),
        cmocka_unit_test(utf8_is_told_from_its_imitations),
        cmocka_unit_test(what_a_text_takes_is_known_before),
        IN_ARENA(a_large_object_is_no_slower_than_its_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
