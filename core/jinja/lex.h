/* A template's text cut into tokens, with Jinja's rules for white space around tags.
 *
 * Line ends become "\n" and the last one is dropped. TOKEN_TEXT is what is printed as it stands,
 * already trimmed: by a minus sign on either side, by trim_blocks (the newline after a tag) and by
 * lstrip_blocks (the blanks before a tag that begins its line). Comments are gone. Names and
 * numbers are spans of the source; strings have their escapes resolved.
 *
 * What the texts of tokens point to lives in `keep`, the tokens themselves in `brief`; the last is
 * TOKEN_END.
 */
#ifndef ENGRAM_JINJA_LEX_H
#define ENGRAM_JINJA_LEX_H

#include "value.h"

enum token_type {
    TOKEN_TEXT, TOKEN_TAG, TOKEN_TAG_END, TOKEN_PRINT, TOKEN_PRINT_END, TOKEN_NAME, TOKEN_STRING,
    TOKEN_INT, TOKEN_FLOAT, TOKEN_OP, TOKEN_END
};
#define OP2(a, b) ((unsigned)(a) | (unsigned)(b) << 8)
/* Comparisons by words, spelled like operators. */
#define OP_IN OP2('i', 'n')
#define OP_NOT_IN OP2('n', 'i')

struct token {
    enum token_type type;
    unsigned op; /* of TOKEN_OP: its character, or OP2 of its two */
    unsigned line;
    struct text text;
};
bool jinja_lex(const char *source, size_t len, struct arena *keep, struct arena *brief,
         struct token **tokens, struct err *e) MUST_CHECK;

/* White space as Python's str.isspace and \s have it. */
bool is_python_space(uint32_t cp);
size_t python_space_left(const char *s, size_t len);  /* bytes of it at the start */
size_t python_space_right(const char *s, size_t len); /* … at the end */

#endif
