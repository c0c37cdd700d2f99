/* What is done to text before it is cut into words: a short list of steps, each over the whole of
 * the text that the one before left.
 *
 * A plan is read from the `normalizer` of a tokenizer.json, or made from what a GGUF file says. Only
 * regular expressions of normalize.def are ever run; another is ERR_UNSUPPORTED with its spelling.
 * Plans hold their texts, so they can be copied. A struct normalizer is immutable after _init; any
 * thread may use it.
 */
#ifndef ENGRAM_NORMALIZE_H
#define ENGRAM_NORMALIZE_H

#include "core/base/json.h"

enum normal_op {
    NORMAL_NFC, /* the first four in the order of enum unicode_form */
    NORMAL_NFD,
    NORMAL_NFKC,
    NORMAL_NFKD,
    NORMAL_LOWER,
    NORMAL_PREPEND, /* `put`, unless the text is empty */
    NORMAL_REPLACE, /* every `find` by `put` */
    NORMAL_PATTERN, /* every match of row `pattern` of normalize.def by `put` */
    NORMAL_STRIP,   /* white space, on the sides asked for */
};
enum { NORMAL_STEPS = 8, NORMAL_TEXT = 32 };
struct normal_step {
    unsigned char op, pattern;
    bool left, right;
    unsigned char find_len, put_len;
    char find[NORMAL_TEXT], put[NORMAL_TEXT];
};
struct normal_plan {
    struct normal_step step[NORMAL_STEPS];
    size_t n;
};
/* The `normalizer` of a tokenizer.json; NULL and null mean none. */
bool normal_plan_json(const struct json *normalizer, struct normal_plan *p, struct err *e) MUST_CHECK;
/* A step more; false when there are too many or a text is too long. */
bool normal_plan_add(struct normal_plan *p, enum normal_op op, const char *find, const char *put,
                     struct err *e) MUST_CHECK;
bool normal_plan_has(const struct normal_plan *p, enum normal_op op);
const char *normal_regex(unsigned char pattern);

struct pattern;
struct normalizer {
    struct normal_plan plan;
    struct pattern *pattern[NORMAL_STEPS]; /* NULL where the step is not NORMAL_PATTERN */
};
bool normalizer_init(struct normalizer *n, const struct normal_plan *plan, struct err *e) MUST_CHECK;
void normalizer_release(struct normalizer *n);
/* Append the normalised text. Valid UTF-8 in and out. joined: the text goes on where another ends, so
 * that what is done to a text's beginning is not done. */
bool normalize(const struct normalizer *n, const char *text, size_t len, bool joined, struct buf *out,
               struct err *e) MUST_CHECK;

#endif
