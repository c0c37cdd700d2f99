/* The guard against smuggling, foreign names and foreign sites. The table is the list of inputs
 * that the packaged HTTP library accepts though it should not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "server/guard.h"

struct line {
    const char *name, *value;
};

static int framing(const struct line *lines, uint64_t *bytes)
{
    struct guard g = {0};
    struct problem p = {0};
    for (const struct line *l = lines; l->name; l++)
        guard_header(&g, l->name, strlen(l->name), l->value, strlen(l->value));
    return guard_framing(&g, bytes, &p) ? 200 : p.status;
}

static void heads_are_refused_or_pass(void **state)
{
    (void)state;
    static const struct {
        struct line line[5];
        int status;
        uint64_t bytes;
    } cases[] = {
        {{{"Host", "a"}}, 200, 0},
        {{{"host", "a"}, {"CONTENT-LENGTH", "12"}}, 200, 12},
        {{{"Host", "a"}, {"Content-Length", "12"}, {"Transfer-Encoding", "chunked"}}, 400, 0},
        {{{"Host", "a"}, {"Transfer-Encoding", "chunked"}, {"Content-Length", "0"}}, 400, 0},
        {{{"Host", "a"}, {"Content-Length", "12"}, {"Content-Length", "13"}}, 400, 0},
        {{{"Host", "a"}, {"Content-Length", "12"}, {"Content-Length", "12"}}, 400, 0},
        {{{"Host", "a"}, {"Content-Length", "12, 12"}}, 400, 0},
        {{{"Host", "a"}, {"Content-Length", "+12"}}, 400, 0},
        {{{"Host", "a"}, {"Content-Length", "-1"}}, 400, 0},
        {{{"Host", "a"}, {"Content-Length", "0x10"}}, 400, 0},
        {{{"Host", "a"}, {"Content-Length", ""}}, 400, 0},
        {{{"Host", "a"}, {"Content-Length", "18446744073709551616"}}, 400, 0},
        {{{"Host", "a"}, {"Transfer-Encoding", "gzip, chunked"}}, 400, 0},
        {{{"Host", "a"}, {"Transfer-Encoding", "identity"}}, 400, 0},
        {{{"Host", "a"}, {"Transfer-Encoding", "chunked"}, {"Transfer-Encoding", "chunked"}}, 400, 0},
        {{{"Host", "a"}, {"Transfer-Encoding", "chunked"}}, 411, 0},
        {{{"Host", "a"}, {"Host", "a"}}, 400, 0},
        {{{"Accept", "x"}}, 400, 0},
        {{{"Host ", "a"}}, 400, 0},
        {{{"Host", "a"}, {"X Y", "b"}}, 400, 0},
        {{{"Host", "a"}, {"X", "b\rc"}}, 400, 0},
        {{{"Host", "a"}, {"X", "tab\tis fine"}}, 200, 0},
        {{{"Host", "a"}, {"Authorization", "x"}, {"authorization", "y"}}, 400, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t bytes = 99;
        int status = framing(cases[i].line, &bytes);
        if (status != cases[i].status) print_error("case %zu\n", i);
        assert_int_equal(status, cases[i].status);
        if (status == 200) assert_int_equal(bytes, cases[i].bytes);
    }
}

static void a_nul_inside_a_value_is_seen(void **state)
{
    (void)state;
    struct guard g = {0};
    struct problem p = {0};
    uint64_t bytes;
    guard_header(&g, "Host", 4, "a", 1);
    guard_header(&g, "X", 1, "b\0c", 3);
    assert_false(guard_framing(&g, &bytes, &p));
    assert_int_equal(p.status, 400);
}

static int host(const char *text, const struct host_names *n)
{
    struct problem p = {0};
    return guard_host(text, n, &p) ? 200 : p.status;
}

static void only_our_names_are_answered(void **state)
{
    (void)state;
    struct host_names n = {.port = 8642, .listen = "127.0.0.1"};
    static const char *const ours[] = {"localhost:8642", "LocalHost:8642", "127.0.0.1:8642",
                                       "[::1]:8642"};
    static const char *const others[] = {"localhost", "localhost:80", "evil.example:8642",
                                         "127.0.0.1:8643", "127.0.0.1.evil.example:8642", "",
                                         "[::1]", "[::1:8642", "localhost:8642x", "localhost:",
                                         "localhost:8642:1", "::1:8642", "user@localhost:8642"};
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) assert_int_equal(host(ours[i], &n), 200);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        if (host(others[i], &n) != 421) print_error("%s\n", others[i]);
        assert_int_equal(host(others[i], &n), 421);
    }
    n.port = 80;
    assert_int_equal(host("localhost", &n), 200);
}

static void a_configured_host_is_answered_too(void **state)
{
    (void)state;
    struct host_names n = {.port = 8642, .listen = "10.0.0.5", .extra = "models.example"};
    assert_int_equal(host("models.example", &n), 200);
    assert_int_equal(host("models.example:443", &n), 200);
    assert_int_equal(host("10.0.0.5:8642", &n), 200);
    assert_int_equal(host("xmodels.example", &n), 421);
    n.extra = "models.example:9000";
    assert_int_equal(host("models.example:9000", &n), 200);
    assert_int_equal(host("models.example:443", &n), 421);
}

static int origin(const char *site, const char *from, const char *to)
{
    struct problem p = {0};
    return guard_origin(site, from, to, &p) ? 200 : p.status;
}

static void other_sites_may_not_write(void **state)
{
    (void)state;
    const char *h = "localhost:8642";
    assert_int_equal(origin(NULL, NULL, h), 200);
    assert_int_equal(origin("same-origin", "http://evil.example", h), 200);
    assert_int_equal(origin("none", NULL, h), 200);
    assert_int_equal(origin("cross-site", NULL, h), 403);
    assert_int_equal(origin("same-site", "http://localhost:8642", h), 403);
    assert_int_equal(origin(NULL, "http://localhost:8642", h), 200);
    assert_int_equal(origin(NULL, "http://localhost:9999", h), 403);
    assert_int_equal(origin(NULL, "http://evil.example", h), 403);
    assert_int_equal(origin(NULL, "null", h), 403);
}

static int media(const char *type)
{
    struct problem p = {0};
    return guard_json(type, &p) ? 200 : p.status;
}

static void bodies_are_json(void **state)
{
    (void)state;
    assert_int_equal(media("application/json"), 200);
    assert_int_equal(media("Application/JSON; charset=utf-8"), 200);
    assert_int_equal(media("application/json ;charset=utf-8"), 200);
    assert_int_equal(media(NULL), 415);
    assert_int_equal(media("text/plain"), 415);
    assert_int_equal(media("application/jsonx"), 415);
    assert_int_equal(media("application/x-www-form-urlencoded"), 415);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_are_refused_or_pass), cmocka_unit_test(only_our_names_are_answered),
        cmocka_unit_test(a_nul_inside_a_value_is_seen),
        cmocka_unit_test(a_configured_host_is_answered_too),
        cmocka_unit_test(other_sites_may_not_write), cmocka_unit_test(bodies_are_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
