/* The pattern library, behind one door: compile a pattern, find its matches one after another.
 *
 * Patterns are the program's own (core/text/pretokenize.def), never a file's or a user's. They are
 * Unicode throughout: \s, \p{L} and case folding see characters. A struct pattern is immutable and
 * shared between threads; a struct pattern_scan holds one search and belongs to its thread. Match
 * effort is limited, so that no text can take the process: exceeding it is ERR_TOO_LARGE.
 *
 *     struct pattern_scan *s = pattern_scan_new(p, e);
 *     size_t from = 0, start, end;
 *     while (pattern_next(s, text, len, from, &start, &end, e)) from = end;
 *     pattern_scan_free(s);
 */
#ifndef ENGRAM_PCRE_H
#define ENGRAM_PCRE_H

#include "core/base/err.h"

struct pattern;
struct pattern_scan;

struct pattern *pattern_new(const char *regex, struct err *e) MUST_CHECK;
void pattern_free(struct pattern *p);

struct pattern_scan *pattern_scan_new(const struct pattern *p, struct err *e) MUST_CHECK;
void pattern_scan_free(struct pattern_scan *s);

/* The first match at or after `from` that is not empty. The text must be valid UTF-8 and `from` at
 * a character. No match: true, and *start == *end == len. */
bool pattern_next(struct pattern_scan *s, const char *text, size_t len, size_t from, size_t *start,
                  size_t *end, struct err *e) MUST_CHECK;

#endif
