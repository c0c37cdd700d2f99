/* A small interpreter of Jinja2: as much of it as chat templates use, and nothing else.
 *
 * The dialect is the one that transformers gives to chat templates: trim_blocks and lstrip_blocks,
 * break and continue, {% generation %}, raise_exception, tojson without escapes for HTML, the
 * immutable sandbox, undefined variables that print as nothing. Here it has
 *
 *   statements   text, {{ }}, {# #}, if/elif/else, for (with if, else, loop.*), set (of names, of
 *                tuples, of a namespace's attributes, of blocks), macro, filter, generation, break,
 *                continue
 *   expressions  literals, names, a.b, a[b], slices, calls, filters, `is` tests, arithmetic, ~,
 *                comparisons (chained), in, not in, and, or, not, x if c else y
 *   the rest     the tables in filter.c, test.c, method.c and function.c
 *
 * What a template cannot be read for (another statement, a syntax error) jinja_new refuses; what an
 * evaluation comes upon and we do not have, or Python would raise an error for, jinja_render
 * refuses: ERR_UNSUPPORTED, naming the line and the thing. Nothing is guessed: an output is what
 * Jinja2 would have given, byte for byte, or there is none. raise_exception is ERR_INVALID with the
 * template's own sentence.
 *
 * Templates come with model files and may be hostile. Bounded are the template's bytes, nesting,
 * steps (every node evaluated, and every sixteen bytes touched), memory and output: ERR_TOO_LARGE.
 * There is no way out of the interpreter: no file, no clock, no object of ours.
 *
 * Variables are the caller's. strftime_now exists only when the caller gives a date, so that the
 * same request gives the same text on every day; templates ask `strftime_now is defined`.
 *
 * A struct jinja is immutable after jinja_new: any thread may render it.
 */
#ifndef ENGRAM_JINJA_H
#define ENGRAM_JINJA_H

#include "value.h"

enum {
    JINJA_TEXT_MAX = 1 << 18,   /* bytes of a template */
    JINJA_STEPS_MAX = 1 << 24,
    JINJA_DEPTH_MAX = 200,      /* of nested statements, expressions and macros */
    JINJA_OUTPUT_MAX = 1 << 26, /* bytes, of any one text */
    JINJA_MEMORY = 64 << 20     /* bytes of one rendering, besides 64 for each byte given */
};

struct jinja;

struct jinja *jinja_new(const char *text, size_t len, struct err *e) MUST_CHECK;
void jinja_free(struct jinja *t);

struct jinja_variable {
    const char *name;
    struct value value;
};
struct jinja_input {
    const struct jinja_variable *variable;
    size_t n;
    size_t bytes;     /* given, in all texts */
    const char *date; /* one that jinja_is_date, or NULL */
};
bool jinja_is_date(const char *text); /* a day as "2024-07-26" */
struct sink { /* output: bytes and, as long, their origins (value.h) */
    struct buf text, own;
};
void sink_release(struct sink *s);

/* Append to out. On failure out may hold a part. */
bool jinja_render(const struct jinja *t, const struct jinja_input *in, struct sink *out,
                  struct err *e) MUST_CHECK;

#endif
