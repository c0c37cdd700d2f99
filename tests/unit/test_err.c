/* Errors hold sentences: whatever is put into one, it is whole characters, and ends where there is room. */
#include "core/base/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/json.h"

/* n dots, then characters of one to four bytes, over and over. */
static void long_text(char out[4096], size_t n)
{
    static const char *const characters[] = {"a", "\xC3\xA9", "\xE2\x98\x83", "\xF0\x9F\x98\x80"};
    size_t at = 0;
    for (; at < n; at++) out[at] = '.';
    for (size_t k = 0; at + 5 < 2048; k++) {
        const char *c = characters[k % 4];
        memcpy(out + at, c, strlen(c));
        at += strlen(c);
    }
    out[at] = '\0';
}

/* Wherever the end falls. */
static void each_text(void (*check)(const char *text))
{
    char text[4096];
    for (size_t n = 0; n < 12; n++) {
        long_text(text, n);
        check(text);
    }
}

static bool whole(const char *text)
{
    size_t bad;
    return utf8_valid(text, strlen(text), &bad);
}

static void check_set(const char *text)
{
    struct err e = {0};
    assert_false(err_field(&e, ERR_INVALID, text, "%s", text));
    assert_true(whole(e.text) && whole(e.field));
    assert_true(strlen(e.text) >= sizeof e.text - 4 && strlen(e.field) >= sizeof e.field - 4);
    assert_memory_equal(e.text, text, strlen(e.text));
    assert_memory_equal(e.field, text, strlen(e.field));
}

static void what_is_cut_is_cut_between_characters(void **state)
{
    (void)state;
    each_text(check_set);
}

static void check_while(const char *text)
{
    struct err e = {0};
    (void)err_set(&e, ERR_INVALID, "no");
    assert_false(err_while(&e, "%s", text));
    assert_true(whole(e.text));
    assert_true(strlen(e.text) >= sizeof e.text - 5 && e.text[strlen(e.text) - 1] == ')');
    assert_memory_equal(e.text, "no (while ", 10);
}

static void what_it_happened_in_is_cut_in_the_same_way(void **state)
{
    (void)state;
    each_text(check_while);
}

static void what_fits_is_left_alone(void **state)
{
    (void)state;
    struct err e = {0};
    (void)err_field(&e, ERR_INVALID, "facts[0].p\xC3\xA9", "caf\xC3\xA9 \xE2\x98\x83");
    (void)err_while(&e, "reading %s", "\xF0\x9F\x98\x80");
    assert_string_equal(e.field, "facts[0].p\xC3\xA9");
    assert_string_equal(e.text, "caf\xC3\xA9 \xE2\x98\x83 (while reading \xF0\x9F\x98\x80)");
    assert_int_equal(e.code, ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_cut_is_cut_between_characters),
        cmocka_unit_test(what_it_happened_in_is_cut_in_the_same_way),
        cmocka_unit_test(what_fits_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
