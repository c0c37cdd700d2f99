/* Unicode's normalisation forms and lower case, as the reference tokenizer has them.
 *
 * utf8proc does the work; where its tables are younger than the reference's (a combining class,
 * composition or decomposition that did not exist then), the text is cut at the code point in
 * question, which the reference treats as an inert starter (unicode_nfc.def). Parts that are
 * normal already are copied without asking. One file includes utf8proc.h: nfc.c. Pure; any thread.
 *
 *     struct buf out = {0};
 *     if (!unicode_normal(FORM_NFC, text, len, &out, e)) ...
 */
#ifndef ENGRAM_NFC_H
#define ENGRAM_NFC_H

#include "core/base/mem.h"

enum unicode_form { FORM_NFC, FORM_NFD, FORM_NFKC, FORM_NFKD, FORM_COUNT };
/* Append the normalised text. Valid UTF-8 in and out. */
bool unicode_normal(enum unicode_form form, const char *text, size_t len, struct buf *out,
                    struct err *e) MUST_CHECK;
/* Append the text with each character's own lower case, whatever its neighbours. */
void unicode_lower(const char *text, size_t len, struct buf *out);

/* Append the text case-folded and in form C: two spellings of one answer become equal. */
bool nfc_casefold(const char *text, size_t len, struct buf *out, struct err *e) MUST_CHECK;
/* General category P* (punctuation), or Z* and the ASCII controls that are white space. */
bool is_punctuation(uint32_t codepoint);
bool is_white_space(uint32_t codepoint);

#endif
