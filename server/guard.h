/* The guard: what a request's head must look like before anything else reads it.
 *
 * The HTTP library accepts several shapes that let a second request hide inside the first one
 * (a declared length beside a chunked body, two lengths, unknown codings) or that reach a browser
 * user's loopback under a foreign name. The guard sees every header line once and says no. After
 * a framing refusal the connection is closed: what follows on it cannot be trusted.
 *
 *     struct guard g = {0};
 *     guard_header(&g, name, name_len, value, value_len);      for every header line
 *     if (!guard_framing(&g, &p)) … 400 and close
 *     if (!guard_host(&g, hosts, &p)) … 421
 *
 * Only exactly one Host, at most one Content-Length in plain digits, and no Transfer-Encoding
 * pass: a body has a declared length (411 otherwise). Header names are tokens, values hold no NUL
 * or control character.
 *
 * Pure functions; the guard borrows the header text.
 */
#ifndef ENGRAM_GUARD_H
#define ENGRAM_GUARD_H

#include <stdint.h>

#include "problem.h"

struct guard {
    unsigned hosts, lengths, codings, tokens; /* lines seen; tokens: Authorization */
    const char *host, *length, *coding;       /* the first of each */
    bool bad_header;                          /* a name or value with bytes that do not belong */
};

void guard_header(struct guard *g, const char *name, size_t name_len, const char *value,
                  size_t value_len);
/* body_bytes: the declared length, 0 where there is none. */
bool guard_framing(const struct guard *g, uint64_t *body_bytes, struct problem *p) MUST_CHECK;

/* Names this daemon answers to. `extra` (may be NULL) is the configured host, with or without
 * a port; without one any port goes, since a proxy may stand in front. */
struct host_names {
    uint16_t port;
    char listen[64];   /* the address listened on, as in a URL: "127.0.0.1", "[::1]" */
    const char *extra;
};
bool guard_host(const char *host, const struct host_names *names, struct problem *p) MUST_CHECK;

/* Unsafe methods only: refuse what a browser sends for another site. Absent headers are NULL. */
bool guard_origin(const char *fetch_site, const char *origin, const char *host,
                  struct problem *p) MUST_CHECK;
/* application/json, with or without parameters. */
bool guard_json(const char *content_type, struct problem *p) MUST_CHECK;
bool guard_is_lines(const char *content_type); /* application/x-ndjson */

#endif
