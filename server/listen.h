/* The listening socket: parse HOST:PORT, bind, and say what was bound.
 *
 * HOST is an IPv4 address, an IPv6 address in brackets, or localhost (127.0.0.1). Names are not
 * looked up. Port 0 lets the kernel choose; the real port is read back.
 *
 * Ownership: the descriptor is the caller's. Threads: none.
 */
#ifndef ENGRAM_LISTEN_H
#define ENGRAM_LISTEN_H

#include <stdint.h>

#include "core/base/err.h"

struct listener {
    int fd;
    bool loopback;
    uint16_t port;
    char host[64];     /* as in a URL: "127.0.0.1", "[::1]" */
    char address[80];  /* host:port */
};

bool listen_parse(const char *text, struct listener *out, struct err *e) MUST_CHECK; /* fd -1 */
bool listen_open(struct listener *l, struct err *e) MUST_CHECK;

#endif
