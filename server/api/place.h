/* Where in the stream: the `pos`, `head` and `site` members of requests, resolved against one
 * input. Results are ascending lists without repeats, in the work's arena. Errors name the field
 * and the allowed range. Pure functions. */
#ifndef ENGRAM_PLACE_H
#define ENGRAM_PLACE_H

#include "core/hook.h"

struct places {
    const uint32_t *at;
    size_t n;
};

/* pos: an integer (negative counts from the end), a list, "all", "last" or {"from","to"}. n: the
 * input's tokens. NULL json: all. */
bool place_pos(const struct json *pos, uint32_t n, const char *field, struct arena *a,
               struct places *out, struct err *e) MUST_CHECK;
/* head: an integer or a list below the hook's heads. NULL json: {NULL, 0}, all of them. A head at
 * a hook without heads is refused. */
bool place_head(const struct json *head, const struct arch *arch, enum hook hook, const char *field,
                struct arena *a, struct places *out, struct err *e) MUST_CHECK;
bool place_site(const struct json *site, const struct arch *arch, const char *field,
                struct site *out, struct err *e) MUST_CHECK;

/* "field.member" or "member" where field is "". */
const char *place_field(char out[128], const char *field, const char *member);
/* Re-aim an error at a request field. Always false. */
bool place_blame(struct err *e, const char *field);

#endif
