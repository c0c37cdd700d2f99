/* Raw request targets: split first, decode after.
 *
 * The library would decode %2f before routing and cut a path at %00, so it is told not to decode
 * at all. A target "/v1/runs/run%5f1?limit=2" is split on '/' while still raw; then each segment
 * is decoded by itself, so a decoded slash is only a character of that segment. Refused with a
 * sentence: NUL and control bytes (raw or decoded), bad escapes, invalid UTF-8, more segments than
 * any route has.
 *
 * Query strings become a flat JSON object of strings, ready for the route's validator: names and
 * values decoded, '+' a space, a name given twice refused.
 *
 * Ownership: everything lives in the caller's arena. Pure functions, no shared state.
 */
#ifndef ENGRAM_PATH_H
#define ENGRAM_PATH_H

#include "core/base/json.h"

enum { PATH_SEGMENTS = 8 };

struct path {
    size_t n;
    const char *segment[PATH_SEGMENTS]; /* decoded, NUL terminated; "" for an empty one */
};

/* "/" has no segments; "/a/" has two, the last one empty. */
bool path_parse(const char *raw, size_t len, struct arena *a, struct path *out,
                struct err *e) MUST_CHECK;
/* The text after '?'; an empty one gives an empty object. */
const struct json *query_parse(const char *raw, size_t len, struct arena *a,
                               struct err *e) MUST_CHECK;

#endif
