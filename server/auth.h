/* Who asks: bearer tokens, kept only as SHA-256.
 *
 * A token file has one token a line, `name role sha256-of-token-in-hex`; blank lines and lines
 * beginning with # are skipped. Roles rise: reader < prober < editor < admin, each may do what the
 * ones before it may. Names and hashes are unique. Without a token file every caller is "local",
 * an unverified admin; daemon_new refuses that on anything but loopback.
 *
 * A presented token is hashed and compared with every row in constant time, so the answer's timing
 * tells neither a row nor a prefix.
 *
 *     struct auth *a = auth_open(path_or_NULL, &e);
 *     if (!auth_check(a, authorization_header_or_NULL, &who, &problem)) … 401
 *     auth_reload(a, &e);                 SIGHUP: all of the new file or all of the old one
 *
 * Threads: auth_check and auth_reload from any (a read-write lock inside).
 */
#ifndef ENGRAM_AUTH_H
#define ENGRAM_AUTH_H

#include "call.h"
#include "problem.h"

struct auth;

struct auth *auth_open(const char *token_file, struct err *e) MUST_CHECK;
void auth_close(struct auth *a);
bool auth_reload(struct auth *a, struct err *e) MUST_CHECK;
bool auth_uses_tokens(const struct auth *a);

/* False and 401 when tokens are in use and none, or no known one, was given. */
bool auth_check(struct auth *a, const char *authorization, struct principal *who,
                struct problem *p) MUST_CHECK;
/* False and 401 or 403 when `who` is below `need`. */
bool auth_allows(const struct principal *who, enum level need, struct problem *p) MUST_CHECK;

const char *level_word(enum level level);

#endif
