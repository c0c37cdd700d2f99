/* Does a generated answer say the target? Both are brought to a common form: Unicode NFC, case
 * folding, white space trimmed, punctuation at the edges removed (kept, where the target is nothing else).
 *
 *   match         the forms are equal
 *   prefix_match  the answer's begins with the target's, and the word ends there
 */
#ifndef ENGRAM_MATCH_H
#define ENGRAM_MATCH_H

#include "core/base/mem.h"

struct match {
    bool match, prefix_match;
};
bool answer_match(const char *answer, size_t answer_len, const char *target, size_t target_len,
                  struct match *out, struct err *e) MUST_CHECK;
/* Is the text anywhere in the target's form? */
bool target_holds(const char *target, size_t len, const char *text, bool *holds, struct err *e) MUST_CHECK;

#endif
