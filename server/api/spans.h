/* Named spans: parts of a text by what they say, and the tokens they are.
 *
 *     "spans": {"city": "Paris", "second": {"text": "Rome", "occurrence": 2}, "start": [0, 5]}, "subject": "Paris"
 *
 * A span is a substring (its first occurrence, or the one that is asked for), or [from, to) in characters of
 * the text; of messages, the text is the rendered one. Its tokens are those that share a byte with it:
 * [first, last + 1) of the input's ids, a beginning-of-sequence token counted but never in a span.
 *
 *     last, all     the last token, every token; always there
 *     subject       where there is a `subject`: its first occurrence
 *     NAME          a member of `spans`
 *     NAME_first, NAME_last    the first and last token of one of these
 *
 * Pure; any thread.
 */
#ifndef ENGRAM_SPANS_H
#define ENGRAM_SPANS_H

#include "input.h"
#include "ledger/ledger.h"

/* Is it a map of spans, as far as that shows without a text? NULL is. */
bool spans_check(const struct json *spans, const char *field, struct err *e) MUST_CHECK;
/* The tokens [*from, *to) that `name` means in an input; `of` is the object that has `spans` and `subject`, or
 * NULL. An unknown name is refused with those there are. */
bool span_tokens(const struct model *m, const struct input *in, const struct json *of, const char *name,
                 const char *field, uint32_t *from, uint32_t *to, struct err *e) MUST_CHECK;

#endif
