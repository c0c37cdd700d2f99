/* Routing on a small table of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "server/router.h"

static const struct route table[] = {
    {.method = "GET", .path = "/"},
    {.method = "GET", .path = "/v1/runs"},
    {.method = "POST", .path = "/v1/runs"},
    {.method = "GET", .path = "/v1/runs/newest"},
    {.method = "GET", .path = "/v1/runs/{run}"},
    {.method = "DELETE", .path = "/v1/runs/{run}"},
    {.method = "GET", .path = "/v1/a/{x}/b/{y}"},
};

static enum match match(const char *method, const char *raw, struct matched *m, struct arena *a)
{
    struct path p;
    struct err e = {0};
    assert_true(path_parse(raw, strlen(raw), a, &p, &e));
    return router_match(table, sizeof table / sizeof *table, method, &p, m);
}

static void rows_are_found(void **state)
{
    (void)state;
    static const struct {
        const char *method, *raw;
        int row;
        const char *param[2];
    } cases[] = {
        {"GET", "/", 0, {NULL}},
        {"HEAD", "/", 0, {NULL}},
        {"GET", "/v1/runs", 1, {NULL}},
        {"POST", "/v1/runs", 2, {NULL}},
        {"GET", "/v1/runs/newest", 3, {NULL}}, /* literal before parameter */
        {"GET", "/v1/runs/run_1", 4, {"run_1", NULL}},
        {"HEAD", "/v1/runs/run_1", 4, {"run_1", NULL}},
        {"DELETE", "/v1/runs/a%2fb", 5, {"a/b", NULL}},
        {"GET", "/v1/a/1/b/2", 6, {"1", "2"}},
    };
    struct arena a;
    arena_init(&a, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct matched m;
        assert_int_equal(match(cases[i].method, cases[i].raw, &m, &a), MATCH_FOUND);
        assert_ptr_equal(m.route, &table[cases[i].row]);
        for (int k = 0; k < 2; k++) {
            if (!cases[i].param[k]) assert_null(m.param[k]);
            else assert_string_equal(m.param[k], cases[i].param[k]);
        }
    }
    arena_release(&a);
}

static void other_methods_hear_what_is_allowed(void **state)
{
    (void)state;
    struct arena a;
    struct matched m;
    arena_init(&a, 0);
    assert_int_equal(match("PUT", "/v1/runs", &m, &a), MATCH_METHOD);
    assert_string_equal(m.allow, "GET, HEAD, POST");
    assert_int_equal(match("POST", "/v1/runs/x", &m, &a), MATCH_METHOD);
    assert_string_equal(m.allow, "GET, HEAD, DELETE");
    assert_int_equal(match("get", "/v1/runs", &m, &a), MATCH_METHOD); /* methods have case */
    assert_int_equal(match("OPTIONS", "/", &m, &a), MATCH_METHOD);
    arena_release(&a);
}

static void everything_else_is_not_found(void **state)
{
    (void)state;
    static const char *const nothing[] = {"/v1", "/v1/", "/v1/runs/", "//v1/runs", "/v1//runs",
                                          "/v1/runs/x/y", "/V1/runs", "/v1/a/1/b", "/v1/a//b/2",
                                          "/v1%2fruns", "/v1/run", "/v1/runss"};
    struct arena a;
    struct matched m;
    arena_init(&a, 0);
    for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++) {
        if (match("GET", nothing[i], &m, &a) != MATCH_NOTHING) print_error("%s\n", nothing[i]);
        assert_int_equal(match("GET", nothing[i], &m, &a), MATCH_NOTHING);
        assert_null(m.route);
    }
    arena_release(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_found), cmocka_unit_test(other_methods_hear_what_is_allowed),
        cmocka_unit_test(everything_else_is_not_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
