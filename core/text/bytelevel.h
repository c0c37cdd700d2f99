/* GPT-2's alphabet: every byte as one printable character, so that a vocabulary is a list of
 * strings. Printable Latin-1 stands for itself; the 68 others are U+0100 and up, in byte order.
 * Pure functions over a constant rule; no state.
 *
 * A token all of whose characters are in the alphabet means the bytes they stand for; any other
 * token means its own UTF-8.
 */
#ifndef ENGRAM_BYTELEVEL_H
#define ENGRAM_BYTELEVEL_H

#include "core/base/mem.h"

uint32_t bytelevel_char(unsigned char byte);
/* The byte a character stands for, or -1. */
int bytelevel_byte(uint32_t cp);
/* The bytes of a token into out, which has room for len; returns how many. Valid UTF-8 in. */
size_t bytelevel_decode(const char *token, size_t len, char *out);
/* Append the alphabet's spelling of the bytes. */
void bytelevel_encode(const char *bytes, size_t len, struct buf *out);

#endif
