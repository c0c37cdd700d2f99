/* Code points: UTF-8 forwards and backwards, and the classes that token ids depend on.
 *
 * The classes are those of the reference tokenizer, not of whatever Unicode version a library on
 * this machine happens to carry (docs/decisions/unicode-tables.md): the tables behind them are
 * measured from it by tools/unicode_classes.py.
 *
 *   cp_word, cp_space               Rust's \w and \s: added tokens (digits are in char_class.h)
 *   cp_stand_in                     for the pattern library: a code point of the same UTF-8 length
 *                                   that it puts where the reference puts this one
 *
 * Everything is pure and constant. cp_next and cp_before expect valid UTF-8; utf8_repair
 * takes any bytes.
 */
#ifndef ENGRAM_CODEPOINT_H
#define ENGRAM_CODEPOINT_H

#include "core/base/mem.h"

/* Bytes of the character at the start of s, which holds left >= 1 bytes. */
size_t cp_next(const char *s, size_t left, uint32_t *cp);
/* Bytes of the character that ends at s + end, end >= 1. */
size_t cp_before(const char *s, size_t end, uint32_t *cp);
size_t cp_put(char out[4], uint32_t cp);

bool cp_word(uint32_t cp);
bool cp_space(uint32_t cp);
uint32_t cp_stand_in(uint32_t cp); /* itself for nearly all */
/* The text with every code point's stand-in, in fresh memory; *out is NULL where that is itself. */
bool cp_stand_in_text(const char *text, size_t len, char **out, struct err *e) MUST_CHECK;

/* Append the bytes with every maximal broken part replaced by one U+FFFD. */
void utf8_repair(const char *bytes, size_t len, struct buf *out);

#endif
