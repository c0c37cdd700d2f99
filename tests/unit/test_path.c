/* Raw targets: split before decoding, and nothing that a C string or a terminal would trip over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "server/path.h"

static void paths_are_split_then_decoded(void **state)
{
    (void)state;
    static const struct {
        const char *raw;
        size_t n;
        const char *segment[3];
    } cases[] = {
        {"/", 0, {NULL}},
        {"/a", 1, {"a"}},
        {"/a/", 2, {"a", ""}},
        {"//a", 2, {"", "a"}},
        {"/v1/models/x%20y", 3, {"v1", "models", "x y"}},
        {"/a%2fb/c", 2, {"a/b", "c"}},
        {"/a%2Fb", 1, {"a/b"}},
        {"/%25%32%30", 1, {"%20"}}, /* decoded once only */
        {"/a+b", 1, {"a+b"}},
        {"/%C3%A9", 1, {"\xC3\xA9"}},
        {"/../x", 2, {"..", "x"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena a;
        struct path p;
        struct err e = {0};
        arena_init(&a, 0);
        assert_true(path_parse(cases[i].raw, strlen(cases[i].raw), &a, &p, &e));
        assert_int_equal(p.n, cases[i].n);
        for (size_t k = 0; k < p.n; k++) assert_string_equal(p.segment[k], cases[i].segment[k]);
        arena_release(&a);
    }
}

static void bad_paths_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "a", "*", "http://x/", "/%00", "/a%00b", "/%0a", "/%1f",
                                      "/%7f", "/a\tb", "/%", "/%4", "/%zz", "/%4g", "/%ff",
                                      "/%C3", "/%C0%80", "/%ED%A0%80", "/\xff",
                                      "/1/2/3/4/5/6/7/8/9"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct arena a;
        struct path p;
        struct err e = {0};
        arena_init(&a, 0);
        if (path_parse(bad[i], strlen(bad[i]), &a, &p, &e)) print_error("passed: %s\n", bad[i]);
        assert_int_equal(e.code, i + 1 == sizeof bad / sizeof *bad ? ERR_NOT_FOUND : ERR_INVALID);
        assert_true(e.text[0] != '\0');
        arena_release(&a);
    }
}

static void escapes_may_not_reach_past_their_segment(void **state)
{
    (void)state;
    struct arena a;
    struct path p;
    struct err e = {0};
    arena_init(&a, 0);
    assert_false(path_parse("/a%4/1", 6, &a, &p, &e));
    assert_false(path_parse("/a%41", 4, &a, &p, &e)); /* the length ends inside the escape */
    assert_true(path_parse("/a%41", 5, &a, &p, &e));
    assert_string_equal(p.segment[0], "aA");
    arena_release(&a);
}

static const char *get(const struct json *q, const char *key)
{
    const struct json *v = json_get(q, key);
    if (!v) return NULL;
    assert_int_equal(v->type, JSON_STRING);
    assert_int_equal(v->len, strlen(v->text));
    return v->text;
}

static void queries_become_objects_of_strings(void **state)
{
    (void)state;
    struct arena a;
    struct err e = {0};
    arena_init(&a, 0);
    const char *raw = "limit=5&branch=a%26b+c&&flag&empty=&k%3D=v=w";
    const struct json *q = query_parse(raw, strlen(raw), &a, &e);
    assert_non_null(q);
    assert_int_equal(q->len, 5);
    assert_string_equal(get(q, "limit"), "5");
    assert_string_equal(get(q, "branch"), "a&b c");
    assert_string_equal(get(q, "flag"), "");
    assert_string_equal(get(q, "empty"), "");
    assert_string_equal(get(q, "k="), "v=w");
    q = query_parse("", 0, &a, &e);
    assert_non_null(q);
    assert_int_equal(q->len, 0);
    assert_null(query_parse("a=1&a=2", 7, &a, &e));
    assert_string_equal(e.field, "a");
    assert_null(query_parse("a=%00", 5, &a, &e));
    assert_null(query_parse("%ff=1", 5, &a, &e));
    arena_release(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_are_split_then_decoded), cmocka_unit_test(bad_paths_are_refused),
        cmocka_unit_test(escapes_may_not_reach_past_their_segment),
        cmocka_unit_test(queries_become_objects_of_strings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
