/* The split patterns in use, by hand: where the match that begins here ends.
 *
 * Each scanner is its pattern in pretokenize.def, alternative by alternative, with what a
 * backtracking matcher would come to worked out beforehand. They see one look-up per character
 * (char_class.h) where the pattern library re-reads. test_tokenizer.c holds every one against its
 * pattern run by that library, over all of Unicode.
 *
 * Only patterns that match at every place are here, so there are no gaps. Pure; any thread.
 */
#ifndef ENGRAM_SCAN_H
#define ENGRAM_SCAN_H

#include "char_class.h"

struct scan {
    const unsigned char *class_of; /* char_class_new */
    const char *text;
    size_t len;
};
/* The end, past `at`, of the match at `at` < len. */
typedef size_t scan_fn(const struct scan *s, size_t at);

scan_fn scan_gpt2, scan_llama3, scan_qwen2, scan_gpt4o, scan_tekken;

#endif
