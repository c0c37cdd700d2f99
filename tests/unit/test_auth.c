/* Tokens and roles. Hashes below are `printf %s TOKEN | sha256sum`. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/auth.h"

#define READER_HASH "3d0941964aa3ebdcb00ccef58b1bb399f9f898465e9886d5aec7f31090a0fb30" /* reader */
#define EDITOR_HASH "1553cc62ff246044c683a61e203e65541990e7fcd4af9443d22b9557ecc9ac54" /* editor */

static char path[] = "/tmp/engramd-tokens-XXXXXX";

static void write_file(const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static int make_file(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 || close(fd) != 0;
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

static void without_a_file_everybody_is_local(void **state)
{
    (void)state;
    struct err e = {0};
    struct problem p;
    struct principal who;
    struct auth *a = auth_open(NULL, &e);
    assert_non_null(a);
    assert_false(auth_uses_tokens(a));
    assert_true(auth_check(a, NULL, &who, &p));
    assert_string_equal(who.name, "local");
    assert_int_equal(who.level, LEVEL_ADMIN);
    assert_false(who.verified);
    auth_close(a);
}

static int check(struct auth *a, const char *header, struct principal *who)
{
    struct problem p = {0};
    return auth_check(a, header, who, &p) ? 200 : p.status;
}

static void tokens_name_their_caller(void **state)
{
    (void)state;
    struct err e = {0};
    struct principal who;
    write_file("# names\n\nann reader " READER_HASH "\n  bob\teditor " EDITOR_HASH "  \n");
    struct auth *a = auth_open(path, &e);
    assert_non_null(a);
    assert_int_equal(check(a, "Bearer reader", &who), 200);
    assert_string_equal(who.name, "ann");
    assert_int_equal(who.level, LEVEL_READER);
    assert_true(who.verified);
    assert_int_equal(check(a, "bearer  editor", &who), 200);
    assert_string_equal(who.name, "bob");
    assert_int_equal(who.level, LEVEL_EDITOR);
    static const char *const bad[] = {NULL, "", "Bearer", "Bearer ", "Bearer Reader", "reader",
                                      "Basic reader", "Bearer reader ", "Bearer " READER_HASH};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(check(a, bad[i], &who), 401);
        assert_int_equal(who.level, LEVEL_NONE);
    }
    auth_close(a);
}

static void roles_rise(void **state)
{
    (void)state;
    for (int have = LEVEL_NONE; have <= LEVEL_ADMIN; have++)
        for (int need = LEVEL_NONE; need <= LEVEL_ADMIN; need++) {
            struct principal who = {.name = "x", .level = (enum level)have};
            struct problem p = {0};
            bool allowed = auth_allows(&who, (enum level)need, &p);
            assert_int_equal(allowed, have >= need);
            if (!allowed) assert_int_equal(p.status, 403);
        }
}

static void bad_files_are_refused_by_line(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "# nothing\n",
        "ann reader\n",
        "ann chief " READER_HASH "\n",
        "ann none " READER_HASH "\n",
        "ann reader 1234\n",
        "ann reader " READER_HASH " more\n",
        "ann reader zz0941964aa3ebdcb00ccef58b1bb399f9f898465e9886d5aec7f31090a0fb30\n",
        "ann reader " READER_HASH "\nann editor " EDITOR_HASH "\n",
        "ann reader " READER_HASH "\nbob editor " READER_HASH "\n",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e = {0};
        write_file(bad[i]);
        assert_null(auth_open(path, &e));
        assert_int_equal(e.code, ERR_INVALID);
        assert_non_null(strstr(e.text, path));
    }
    struct err e = {0};
    assert_null(auth_open("/nonexistent/tokens", &e));
    assert_int_equal(e.code, ERR_IO);
}

static void reloading_is_all_or_nothing(void **state)
{
    (void)state;
    struct err e = {0};
    struct principal who;
    write_file("ann reader " READER_HASH "\n");
    struct auth *a = auth_open(path, &e);
    assert_non_null(a);
    write_file("bob editor " EDITOR_HASH "\nbroken\n");
    assert_false(auth_reload(a, &e));
    assert_int_equal(check(a, "Bearer reader", &who), 200);
    assert_int_equal(check(a, "Bearer editor", &who), 401);
    write_file("bob editor " EDITOR_HASH "\n");
    assert_true(auth_reload(a, &e));
    assert_int_equal(check(a, "Bearer reader", &who), 401);
    assert_int_equal(check(a, "Bearer editor", &who), 200);
    auth_close(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_file_everybody_is_local),
        cmocka_unit_test(tokens_name_their_caller), cmocka_unit_test(roles_rise),
        cmocka_unit_test(bad_files_are_refused_by_line),
        cmocka_unit_test(reloading_is_all_or_nothing),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
