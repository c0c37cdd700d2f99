#include "listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static bool parse_port(const char *text, uint16_t *out)
{
    char *end;
    errno = 0;
    unsigned long v = strtoul(text, &end, 10);
    if (errno || end == text || *end || *text < '0' || *text > '9' || v > 65535) return false;
    *out = (uint16_t)v;
    return true;
}

bool listen_parse(const char *text, struct listener *out, struct err *e)
{
    *out = (struct listener){.fd = -1};
    const char *colon = strrchr(text, ':');
    size_t n = colon ? (size_t)(colon - text) : 0;
    struct in6_addr six;
    struct in_addr four;
    char bare[64];
    if (!n || n >= sizeof out->host || !parse_port(colon + 1, &out->port))
        return err_set(e, ERR_INVALID, "--listen takes HOST:PORT, not %s", text);
    (void)snprintf(out->host, sizeof out->host, "%.*s", (int)n, text);
    if (strcmp(out->host, "localhost") == 0) (void)snprintf(out->host, sizeof out->host, "127.0.0.1");
    if (inet_pton(AF_INET, out->host, &four) == 1) {
        out->loopback = (ntohl(four.s_addr) >> 24) == 127;
        return true;
    }
    if (out->host[0] == '[' && out->host[n - 1] == ']') {
        (void)snprintf(bare, sizeof bare, "%.*s", (int)n - 2, out->host + 1);
        if (inet_pton(AF_INET6, bare, &six) == 1) {
            out->loopback = IN6_IS_ADDR_LOOPBACK(&six);
            return true;
        }
    }
    return err_set(e, ERR_INVALID, "--listen takes an address (127.0.0.1, [::1]), not %s", out->host);
}

static bool failed(struct listener *l, struct err *e, const char *what)
{
    int why = errno;
    if (l->fd >= 0) (void)close(l->fd);
    l->fd = -1;
    return err_set(e, ERR_IO, "%s %s:%u: %s", what, l->host, l->port, strerror(why));
}

static socklen_t fill_address(const struct listener *l, struct sockaddr_storage *a)
{
    *a = (struct sockaddr_storage){0};
    struct sockaddr_in *four = (struct sockaddr_in *)a;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)a;
    if (l->host[0] != '[') {
        four->sin_family = AF_INET;
        four->sin_port = htons(l->port);
        (void)inet_pton(AF_INET, l->host, &four->sin_addr);
        return sizeof *four;
    }
    char bare[64];
    (void)snprintf(bare, sizeof bare, "%.*s", (int)strlen(l->host) - 2, l->host + 1);
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(l->port);
    (void)inet_pton(AF_INET6, bare, &six->sin6_addr);
    return sizeof *six;
}

bool listen_open(struct listener *l, struct err *e)
{
    struct sockaddr_storage a;
    socklen_t n = fill_address(l, &a);
    int yes = 1;
    l->fd = socket(a.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd < 0) return failed(l, e, "opening a socket for");
    (void)setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(l->fd, (struct sockaddr *)&a, n) != 0) return failed(l, e, "binding");
    if (listen(l->fd, SOMAXCONN) != 0) return failed(l, e, "listening on");
    n = sizeof a;
    if (getsockname(l->fd, (struct sockaddr *)&a, &n) != 0) return failed(l, e, "naming");
    l->port = ntohs(a.ss_family == AF_INET ? ((struct sockaddr_in *)&a)->sin_port
                                           : ((struct sockaddr_in6 *)&a)->sin6_port);
    (void)snprintf(l->address, sizeof l->address, "%s:%u", l->host, l->port);
    return true;
}
