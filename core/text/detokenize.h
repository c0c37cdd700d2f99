/* From tokens back to text: what a tokenizer.json calls its decoder.
 *
 * Two kinds. Byte-level: a token is bytes in GPT-2's alphabet. By pieces: a token is text in which
 * marks stand for spaces, "<0x0A>" may stand for a byte, and a space at the ends of the whole text
 * may be the tokenizer's own. A plan says which; pieces are worked out once, when a tokenizer is
 * made, and the whole text's ends when ids are decoded.
 *
 * Plans hold their texts, so they can be copied. Pure; any thread.
 */
#ifndef ENGRAM_DETOKENIZE_H
#define ENGRAM_DETOKENIZE_H

#include "core/base/json.h"

enum { DETOKENIZE_TEXT = 16 };
struct detokenize_plan {
    bool byte_level;
    bool byte_fallback;    /* "<0x0A>" is a byte; a run that is no UTF-8 is one U+FFFD a byte */
    bool bare_first;       /* the first token's marks are nothing, not spaces */
    char mark[DETOKENIZE_TEXT], put[DETOKENIZE_TEXT]; /* "": no marks */
    char strip[5];         /* a character to be taken off */
    uint32_t left, right;  /* at most so many, at either end of the whole text */
};
/* The `decoder` of a tokenizer.json whose words are bytes or not; NULL and null are a byte-level
 * one's own. */
bool detokenize_json(const struct json *decoder, bool byte_level, struct detokenize_plan *p,
                     struct err *e) MUST_CHECK;

/* Is the token one byte's, "<0x00>".."<0xFF>"? */
bool detokenize_byte(const char *token, size_t len, unsigned char *byte);
/* Append what a token stands for. `first`: with bare_first's rule. */
void detokenize_piece(const struct detokenize_plan *p, const char *token, size_t len, bool first,
                      struct buf *out);
/* What is left of a whole text: [*start, *end). */
void detokenize_strip(const struct detokenize_plan *p, const char *text, size_t len, size_t *start,
                      size_t *end);

#endif
