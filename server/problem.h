/* Everything that can go wrong, as an application/problem+json body (RFC 9457).
 *
 *     {"type":"invalid","title":"Invalid request","status":400,"detail":"…","field":"facts[0].prompt"}
 *
 * Two sources, one table (server/problem.def): refusals of the transport (framing, tokens, limits)
 * and errors of the engine and of handlers (core/base/err.h), which know no HTTP; here each error kind
 * gets its status. `type` is stable and public, `detail` is a sentence for people, `field` names
 * the request field to blame and is left out where there is none.
 *
 * Ownership: a struct problem is plain memory. Threads: pure functions.
 */
#ifndef ENGRAM_PROBLEM_H
#define ENGRAM_PROBLEM_H

#include "core/base/mem.h"

enum problem_kind {
#define PROBLEM(name, type, status, title) PROBLEM_##name,
#include "problem.def"
#undef PROBLEM
    PROBLEM_COUNT
};

struct problem {
    int status;
    const char *type, *title; /* static */
    char detail[640];
    char field[128];
    int retry_after_s; /* 0: no Retry-After */
    enum err_code cause; /* ERR_NONE: a refusal of the transport, or not known any more */
};

/* Always false, so that a refusal is one line. */
bool problem_set(struct problem *p, enum problem_kind kind, const char *fmt, ...) PRINTF_LIKE(3, 4);
bool problem_from(struct problem *p, const struct err *e);

int problem_status(enum err_code code);
void problem_write(const struct problem *p, struct buf *out);

#endif
