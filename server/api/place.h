/* Where in the stream: the `pos`, `head` and `site` members of requests, resolved against one
 * input. Positions and heads are ascending lists without repeats, sites in the order a pass comes by
 * them, all in the work's arena. Errors name the field and the allowed range. Pure functions. */
#ifndef ENGRAM_PLACE_H
#define ENGRAM_PLACE_H

#include "core/hook.h"
#include "input.h"

struct places {
    const uint32_t *at;
    size_t n;
};

struct named_input {
    const char *id;
    struct input in;
    const struct json *of; /* what has its "spans" and "subject"; or NULL */
    struct places top;  /* positions whose distribution is asked for */
};
/* The number of the input with that id. */
bool place_input(const struct named_input *in, size_t n, const struct json *id, const char *field, size_t *out,
                 struct err *e) MUST_CHECK;

/* pos: an integer (negative counts from the end), a list, "all", "last" or {"from","to"}. n: the
 * input's tokens. NULL json: all. */
bool place_pos(const struct json *pos, uint32_t n, const char *field, struct arena *a,
               struct places *out, struct err *e) MUST_CHECK;
/* The same in one input, where a word may also name a span of it (spans.h). */
bool place_pos_in(const struct json *pos, const struct model *m, const struct named_input *in, const char *field,
                  struct arena *a, struct places *out, struct err *e) MUST_CHECK;
/* head: an integer or a list below the hook's heads. NULL json: {NULL, 0}, all of them. A head at
 * a hook without heads is refused. */
bool place_head(const struct json *head, const struct arch *arch, enum hook hook, const char *field,
                struct arena *a, struct places *out, struct err *e) MUST_CHECK;
/* site: a name or its words in a list (core/site.h). */
bool place_site(const struct json *site, const struct arch *arch, const char *field,
                struct site *out, struct err *e) MUST_CHECK;

struct sites {
    const struct site *at;
    size_t n;
};
/* The same, or a pattern: at least one site. written: only those that can be written; a site that cannot
 * is refused. */
bool place_sites(const struct json *site, const struct arch *arch, bool written, const char *field,
                 struct arena *a, struct sites *out, struct err *e) MUST_CHECK;
bool place_is_pattern(const struct json *site);

/* "field.member" or "member" where field is "". */
const char *place_field(char out[128], const char *field, const char *member);
/* Re-aim an error at a request field. Always false. */
bool place_blame(struct err *e, const char *field);

#endif
