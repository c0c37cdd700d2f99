/* Words met before in this text, and where their ids are in what was already put out.
 *
 * A word comes back often, and its ids are always the same; so a short word's slot holds where in the
 * list of ids they begin, and how many. One slot for each hash: a newcomer takes it. The cache is one
 * encoding's and one thread's: it points into that encoding's own list, which only grows.
 */
#ifndef ENGRAM_WORD_CACHE_H
#define ENGRAM_WORD_CACHE_H

#include "tokenizer.h"

enum { WORD_CACHE_BYTES = 24 }; /* the longest word that is kept */

struct word_cache {
    struct word_slot *slot;
    size_t mask;
};
struct word_key {
    uint64_t part[WORD_CACHE_BYTES / 8]; /* zero after the word */
    size_t slot;
    unsigned char len;
};
/* Sized for a text of so many bytes; a short text gets none, and nothing is ever found. */
bool word_cache_init(struct word_cache *c, size_t text_bytes, struct err *e) MUST_CHECK;
void word_cache_release(struct word_cache *c);

/* False: not a word to be kept. */
bool word_cache_key(const struct word_cache *c, const char *bytes, size_t len, struct word_key *key);
/* True: the ids [*at, *at + *n) of the list are the word's. */
bool word_cache_find(const struct word_cache *c, const struct word_key *key, size_t *at, size_t *n);
void word_cache_put(struct word_cache *c, const struct word_key *key, size_t at, size_t n);

#endif
