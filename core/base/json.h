/* A small strict JSON reader (RFC 8259): for model files, and as the pre-scanner of requests.
 *
 * Refuses what lenient parsers let through: nesting over 64, duplicate keys, invalid UTF-8
 * (including surrogate halves), NUL raw or escaped, raw control characters, numbers outside the
 * grammar (01, 1., +1, NaN) or outside float64, trailing bytes, a byte-order mark. Integers that
 * fit int64 are kept exactly.
 *
 * The tree lives in the caller's arena and dies with it. Strings are unescaped, NUL terminated
 * and may not contain NUL. Object members keep their order; look-up is exact and, in large
 * objects, hashed. Read-only after json_parse, so any thread may read it.
 */
#ifndef ENGRAM_JSON_H
#define ENGRAM_JSON_H

#include "mem.h"

enum json_type { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json {
    enum json_type type;
    bool boolean;
    bool is_int;        /* JSON_NUMBER: `integer` is exact */
    int64_t integer;
    double number;
    const char *text;   /* JSON_STRING */
    size_t len;         /* bytes of text, or number of children */
    const char *key;    /* of an object's member, else NULL */
    size_t key_len;
    struct json *child; /* first element or member */
    struct json *next;  /* sibling */
    struct json_index *index; /* private: hashed look-up of large objects */
};

enum { JSON_MAX_DEPTH = 64 };

/* Parse the whole text. NULL and a sentence with the byte offset on failure (ERR_INVALID). */
const struct json *json_parse(const char *text, size_t len, struct arena *a, struct err *e)
    MUST_CHECK;
/* At most what that takes of the arena: a bound from the text's punctuation, before anything is read. */
size_t json_bytes(const char *text, size_t len);
/* Member of an object, or NULL when absent, when `object` is NULL or is not an object. */
const struct json *json_get(const struct json *object, const char *key);
/* Is it that text? The member where it is true or false, else `otherwise`. */
bool json_is(const struct json *v, const char *text);
bool json_flag(const struct json *object, const char *key, bool otherwise);
/* True when the bytes are valid UTF-8 without NUL; else false and the offset of the first bad byte. */
bool utf8_valid(const char *text, size_t len, size_t *bad_offset);
/* Of any bytes: those at the end that start a character without finishing it, 0 to 3. */
size_t utf8_open(const char *text, size_t n);

#endif
