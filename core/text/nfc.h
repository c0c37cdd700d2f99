/* Unicode normalisation form C, as the reference tokenizer has it.
 *
 * utf8proc does the work; where its tables are younger than the reference's (a combining class or
 * composition that did not exist then), the text is cut at the code point in question, which the
 * reference treats as an inert starter (core/text/codepoint.h, cp_nfc_inert). One file includes
 * utf8proc.h: nfc.c. Pure; any thread.
 *
 *     struct buf out = {0};
 *     if (!nfc(text, len, &out, e)) ...
 */
#ifndef ENGRAM_NFC_H
#define ENGRAM_NFC_H

#include "core/base/mem.h"

/* Append the normalised text. Valid UTF-8 in and out. */
bool nfc(const char *text, size_t len, struct buf *out, struct err *e) MUST_CHECK;

/* Append the text case-folded and in form C: two spellings of one answer become equal. */
bool nfc_casefold(const char *text, size_t len, struct buf *out, struct err *e) MUST_CHECK;
/* General category P* (punctuation), or Z* and the ASCII controls that are white space. */
bool is_punctuation(uint32_t codepoint);
bool is_white_space(uint32_t codepoint);

#endif
