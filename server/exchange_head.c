/* The head of a request: every check that needs no body. */
#include <assert.h>
#include <string.h>
#include <strings.h>

#include "clock.h"
#include "exchange_int.h"


static const struct {
    const char *text;
    bool once;
} header_rows[] = {
#define HEADER(name, text, once) {text, once},
#include "header.def"
#undef HEADER
};
static_assert(sizeof header_rows / sizeof *header_rows == HEADER_COUNT, "one row per header");

void exchange_header(struct exchange *x, const char *name, size_t name_len, const char *value,
                     size_t value_len)
{
    struct err e;
    guard_header(&x->guard, name, name_len, value, value_len);
    for (int h = 0; h < HEADER_COUNT; h++) {
        if (strlen(header_rows[h].text) != name_len ||
            strncasecmp(header_rows[h].text, name, name_len) != 0)
            continue;
        if (x->header[h]) x->header_twice = x->header_twice || header_rows[h].once;
        else x->header[h] = arena_text(&x->arena, value, value_len, &e);
    }
}

static bool is_unsafe(const char *method)
{
    return strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0 &&
           strcmp(method, "OPTIONS") != 0;
}

/* How to refuse on this path, known before anything else is. */
static enum dialect spoken(struct exchange *x)
{
    struct err e = {0};
    struct path path;
    if (!x->target || !path_parse(x->target, strcspn(x->target, "?"), &x->arena, &path, &e)) return DIALECT_OWN;
    const struct route *r = router_path(routes, n_routes, &path);
    return r ? r->dialect : DIALECT_OWN;
}

static bool find_route(struct exchange *x, struct problem *p)
{
    struct err e = {0};
    struct path path;
    struct matched m;
    size_t len = strcspn(x->target, "?");
    if (!path_parse(x->target, len, &x->arena, &path, &e)) return problem_from(p, &e);
    enum match found = router_match(routes, n_routes, x->method, &path, &m);
    if (found == MATCH_NOTHING) return problem_set(p, PROBLEM_NO_ROUTE, "see /openapi.json");
    if (found == MATCH_METHOD) {
        char *allow = arena_text(&x->arena, m.allow, strlen(m.allow), &e);
        if (allow) exchange_add_header(x, "Allow", allow);
        return problem_set(p, PROBLEM_METHOD, "allowed here: %s", m.allow);
    }
    x->call.route = m.route;
    x->dialect = m.route->dialect;
    memcpy(x->call.param, m.param, sizeof m.param);
    return true;
}

static bool check_caller(struct exchange *x, struct problem *p)
{
    enum level need = x->call.route->level;
    bool known = auth_check(x->daemon->auth, x->header[HEADER_AUTHORIZATION], &x->call.who, p);
    if (need != LEVEL_NONE && (!known || !auth_allows(&x->call.who, need, p))) return false;
    return !is_unsafe(x->method) || guard_origin(x->header[HEADER_FETCH_SITE],
                                                 x->header[HEADER_ORIGIN],
                                                 x->header[HEADER_HOST], p);
}

static bool check_body(struct exchange *x, struct problem *p)
{
    size_t limit = x->call.route->body_limit;
    if (x->declared > (limit ? limit : IGNORED_BODY))
        return problem_set(p, PROBLEM_BODY_TOO_LARGE, "%llu bytes declared; the limit is %zu",
                           (unsigned long long)x->declared, limit ? limit : IGNORED_BODY);
    if (x->call.route->lines && guard_is_lines(x->header[HEADER_CONTENT_TYPE])) return true;
    return !limit || !x->declared || guard_json(x->header[HEADER_CONTENT_TYPE], p);
}

static bool check_head(struct exchange *x, struct problem *p)
{
    if (!x->target) return problem_set(p, PROBLEM_BUSY, "no memory for the request");
    if (!guard_framing(&x->guard, &x->declared, p)) return false;
    if (x->header_twice)
        return problem_set(p, PROBLEM_BAD_REQUEST, "a header that may come once came twice");
    if (!guard_host(x->header[HEADER_HOST], &x->daemon->hosts, p)) return false;
    if (!find_route(x, p) || !check_caller(x, p)) return false;
    if (x->call.route->serves == SERVES_LATER)
        return problem_set(p, PROBLEM_LATER, "%s %s will come in a later version", x->method,
                           x->call.route->path);
    return check_body(x, p);
}

bool exchange_head(struct exchange *x, const char *method)
{
    struct err e;
    struct problem p;
    x->started_us = monotonic_us();
    x->method = arena_text(&x->arena, method, strlen(method), &e);
    if (!x->method) x->method = "";
    x->dialect = spoken(x);
    if (check_head(x, &p)) return true;
    exchange_reply_problem(x, &p);
    x->refused = true;
    /* A body that is not read must not be taken for the next request. */
    x->close = p.status == 400 || x->declared > 0 || x->guard.codings > 0;
    return false;
}

void exchange_body(struct exchange *x, const char *bytes, size_t n)
{
    if (x->call.route->body_limit) buf_put(&x->body, bytes, n);
}
