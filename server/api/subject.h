/* The tokens that a string inside a prompt is made of: every token that holds a byte of its first occurrence
 * among the prompt's pieces, one after the other as the tokenizer spells them. Pure function. */
#ifndef ENGRAM_SUBJECT_H
#define ENGRAM_SUBJECT_H

#include "input.h"

/* [*first, *end). repeats: it occurs again behind that. ERR_INVALID naming field where it does not occur. */
bool subject_find(const struct model *m, const struct input *in, const char *text, size_t len, const char *field,
                  uint32_t *first, uint32_t *end, bool *repeats, struct err *e) MUST_CHECK;

#endif
