/* A chat template as a flat list of steps, in one normal form, so that templates can be compared.
 *
 *   STEP_TEXT   literal output: text between tags and string literals, neighbours joined, escapes
 *               resolved, white space trimmed as Jinja would with trim_blocks and lstrip_blocks
 *   STEP_VALUE  {{ x }}, or one operand of {{ x + y }}: its tokens joined by single spaces
 *   STEP_TAG    {% x %}: its tokens joined by single spaces
 *
 * In values and tags a['name'] is written a . name and strings are single-quoted. What this
 * reader is not sure about (comments, raw carriage returns, rare escapes, `+%}`) makes the whole
 * template `readable == false`: unknown, never guessed. Owns its texts; one thread.
 */
#ifndef ENGRAM_JINJA_H
#define ENGRAM_JINJA_H

#include "core/base/mem.h"

enum step_kind { STEP_END, STEP_TEXT, STEP_VALUE, STEP_TAG };
struct jinja_step {
    enum step_kind kind;
    char *text;
};
enum { JINJA_STEPS = 32 }; /* a template of more is not one of the forms */
struct jinja {
    bool readable;
    size_t n;
    struct jinja_step step[JINJA_STEPS];
};
bool jinja_read(struct jinja *j, const char *template_text, struct err *e) MUST_CHECK;
void jinja_release(struct jinja *j);

#endif
