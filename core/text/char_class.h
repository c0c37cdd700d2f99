/* What kind of character a code point is, as the reference's patterns and digit splitter have it:
 * one byte of flags for each, so that a scanner looks once and decides.
 *
 * The table is laid out from ranges (unicode_class.def, measured from the reference itself by
 * tools/unicode_classes.py), takes a megabyte, and is read-only afterwards: any thread.
 */
#ifndef ENGRAM_CHAR_CLASS_H
#define ENGRAM_CHAR_CLASS_H

#include "codepoint.h"

enum {
    CLASS_HEAD = 1,    /* \p{Lu} \p{Lt} \p{Lm} \p{Lo} \p{M}: what may begin a capitalised word */
    CLASS_TAIL = 2,    /* \p{Ll} \p{Lm} \p{Lo} \p{M}: what may follow there */
    CLASS_LETTER = 4,  /* \p{L} */
    CLASS_NUMBER = 8,  /* \p{N} */
    CLASS_SPACE = 16,  /* \s */
    CLASS_PUNCTUATION = 32, /* \p{P} */
    CLASS_DIGIT = 64,  /* Rust's is_numeric */
    CLASS_NEWLINE = 128, /* \r \n */
};

unsigned char *char_class_new(struct err *e) MUST_CHECK; /* of every code point; mem_drop */

#endif
