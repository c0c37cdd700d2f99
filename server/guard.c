#include "guard.h"

#include <string.h>
#include <strings.h>

static bool is_token_char(unsigned char c)
{
    if (c >= '0' && c <= '9') return true;
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') return true;
    return c && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

static bool is_token(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!is_token_char((unsigned char)s[i])) return false;
    return n > 0;
}

static bool is_value(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f) return false;
    }
    return true;
}

static bool named(const char *name, size_t len, const char *want)
{
    return len == strlen(want) && strncasecmp(name, want, len) == 0;
}

static void count(unsigned *n, const char **first, const char *value)
{
    if ((*n)++ == 0) *first = value;
}

void guard_header(struct guard *g, const char *name, size_t name_len, const char *value,
                  size_t value_len)
{
    if (!is_token(name, name_len) || !is_value(value, value_len)) g->bad_header = true;
    if (named(name, name_len, "host")) count(&g->hosts, &g->host, value);
    else if (named(name, name_len, "content-length")) count(&g->lengths, &g->length, value);
    else if (named(name, name_len, "transfer-encoding")) count(&g->codings, &g->coding, value);
    else if (named(name, name_len, "authorization")) g->tokens++;
}

static bool parse_length(const char *s, uint64_t *out)
{
    uint64_t v = 0;
    if (!*s) return false;
    for (; *s; s++) {
        if (*s < '0' || *s > '9') return false;
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
            return false;
    }
    *out = v;
    return true;
}

bool guard_framing(const struct guard *g, uint64_t *body_bytes, struct problem *p)
{
    *body_bytes = 0;
    if (g->bad_header)
        return problem_set(p, PROBLEM_BAD_REQUEST, "a header holds bytes that do not belong there");
    if (g->hosts != 1)
        return problem_set(p, PROBLEM_BAD_REQUEST, "exactly one Host header is needed, not %u",
                           g->hosts);
    if (g->lengths > 1)
        return problem_set(p, PROBLEM_BAD_REQUEST, "more than one Content-Length");
    if (g->lengths && g->codings)
        return problem_set(p, PROBLEM_BAD_REQUEST,
                           "Content-Length and Transfer-Encoding exclude each other");
    if (g->tokens > 1) return problem_set(p, PROBLEM_BAD_REQUEST, "more than one Authorization");
    if (g->codings) {
        if (g->codings > 1 || strcasecmp(g->coding, "chunked") != 0)
            return problem_set(p, PROBLEM_BAD_REQUEST, "unknown Transfer-Encoding");
        return problem_set(p, PROBLEM_NO_LENGTH, "send the body with a Content-Length");
    }
    if (g->lengths && !parse_length(g->length, body_bytes))
        return problem_set(p, PROBLEM_BAD_REQUEST, "Content-Length is not a number");
    return true;
}

/* "name:port" or "[v6]:port" → the length of the name and the port (0: none, -1: malformed). */
static int split_port(const char *host, size_t *name_len)
{
    const char *colon = host[0] == '[' ? strchr(host, ']') : host;
    if (!colon) return -1;
    colon = strchr(colon, ':');
    *name_len = colon ? (size_t)(colon - host) : strlen(host);
    if (!colon) return 0;
    uint64_t port;
    if (!parse_length(colon + 1, &port) || port == 0 || port > 65535) return -1;
    return (int)port;
}

static bool same_name(const char *host, size_t len, const char *name)
{
    return name[0] && len == strlen(name) && strncasecmp(host, name, len) == 0;
}

static bool is_extra(const char *host, size_t len, int port, const char *extra)
{
    size_t extra_len;
    if (!extra || !*extra) return false;
    int extra_port = split_port(extra, &extra_len);
    if (extra_port < 0 || len != extra_len || strncasecmp(host, extra, len) != 0) return false;
    return extra_port == 0 || extra_port == port;
}

bool guard_host(const char *host, const struct host_names *names, struct problem *p)
{
    static const char *const loopback[] = {"localhost", "127.0.0.1", "[::1]"};
    size_t len = 0;
    int port = split_port(host, &len);
    if (port >= 0) {
        bool ours = same_name(host, len, names->listen);
        for (size_t i = 0; i < sizeof loopback / sizeof *loopback; i++)
            ours = ours || same_name(host, len, loopback[i]);
        if (ours && (port ? port : 80) == names->port) return true;
        if (is_extra(host, len, port, names->extra)) return true;
    }
    return problem_set(p, PROBLEM_MISDIRECTED,
                       "the Host header names none of this daemon's hosts (--host adds one)");
}

bool guard_origin(const char *fetch_site, const char *origin, const char *host, struct problem *p)
{
    if (fetch_site) {
        if (strcmp(fetch_site, "same-origin") == 0 || strcmp(fetch_site, "none") == 0) return true;
        return problem_set(p, PROBLEM_CROSS_SITE, "Sec-Fetch-Site is not same-origin");
    }
    if (!origin) return true; /* not a browser */
    const char *authority = strstr(origin, "://");
    if (authority && strcasecmp(authority + 3, host) == 0) return true;
    return problem_set(p, PROBLEM_CROSS_SITE, "Origin is not this host");
}

static bool is_media(const char *content_type, const char *name)
{
    size_t n = strlen(name);
    if (!content_type || strncasecmp(content_type, name, n) != 0) return false;
    const char *rest = content_type + n;
    while (*rest == ' ' || *rest == '\t') rest++;
    return *rest == '\0' || *rest == ';';
}

bool guard_is_lines(const char *content_type) { return is_media(content_type, "application/x-ndjson"); }

bool guard_json(const char *content_type, struct problem *p)
{
    return is_media(content_type, "application/json") ||
           problem_set(p, PROBLEM_MEDIA_TYPE, "send the body as Content-Type: application/json");
}
