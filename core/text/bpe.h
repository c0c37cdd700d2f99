/* Byte-pair encoding of one word: its bytes or characters become symbols, and the adjacent pair of
 * lowest rank, of equal ranks the leftmost, is joined until no pair is in the table.
 *
 * Short words are joined by looking over their pairs again and again, long ones with a heap of
 * candidates over a linked list of symbols, so that a word of n symbols costs O(n log n) whatever its
 * content. Both give the same: a pair's text only grows, so a candidate that has gone stale never
 * names the token that the pair now at its place would join to.
 *
 * A byte without a token of its own becomes `unknown`, or nothing when there is none, and its
 * neighbours then touch. With `fuse_unknown` a run of such bytes becomes one. By characters
 * (`by_character`) a character without a token first falls back to the tokens of its bytes where all
 * of them exist; as in the reference, unknown ones wait for the next character that is a token.
 *
 * No merge reaches across two neighbours of the first symbols that meet at the border of no merge: long
 * words fall apart there before anything is joined. (Unless merges name what unknown characters
 * become, whose borders no spelling tells.)
 *
 * Pairs may name characters that are no token: symbols from `n_tokens` up, spelled in the end like
 * any character without a token.
 *
 * struct bpe is immutable after bpe_init and shared; struct bpe_work is one thread's scratch.
 */
#ifndef ENGRAM_BPE_H
#define ENGRAM_BPE_H

#include "tokenizer.h"

#define BPE_NONE UINT32_MAX

struct bpe_merge { /* a lower rank joins first */
    uint32_t left, right, result, rank;
    uint32_t last, first; /* the symbols that meet: left's last, right's first; BPE_NONE: not known */
};
struct bpe {
    uint32_t byte_id[256]; /* BPE_NONE: the vocabulary has no such byte */
    uint32_t unknown;      /* or BPE_NONE */
    bool fuse_unknown, by_character;
    uint32_t n_tokens;
    struct bpe_pair *pair; /* open addressing by (left, right) */
    size_t mask;
    uint64_t *meets; /* a bit for each hash of two symbols that meet in a merge; NULL: any may */
    uint32_t **page; /* by character: symbols of 256 code points each, or NULL */
    uint32_t *spare; /* code points of the symbols from n_tokens up */
    size_t n_spare, spare_cap;
};
/* Build the pair table; of equal pairs the last counts. The ids above are the caller's. */
bool bpe_init(struct bpe *b, const struct bpe_merge *merge, size_t n, struct err *e) MUST_CHECK;
void bpe_release(struct bpe *b);

/* By character, before bpe_init: the symbol of a character. bpe_spare gives one to a character that
 * is no token, unless it has one. */
bool bpe_character(struct bpe *b, uint32_t cp, uint32_t symbol, struct err *e) MUST_CHECK;
bool bpe_spare(struct bpe *b, uint32_t cp, uint32_t *symbol, struct err *e) MUST_CHECK;
uint32_t bpe_symbol_of(const struct bpe *b, uint32_t cp); /* or BPE_NONE */

struct bpe_work {
    struct bpe_symbol *symbol;
    struct bpe_candidate *heap;
    uint32_t *first; /* the symbols a word starts as */
    size_t cap, n_heap;
};
void bpe_work_release(struct bpe_work *w);

enum { BPE_WORD_MAX = 1 << 30 };
/* Append the ids of one word of at most BPE_WORD_MAX bytes; by character it is valid UTF-8. */
bool bpe_word(const struct bpe *b, struct bpe_work *w, const char *bytes, size_t len,
              struct ids *out, struct err *e) MUST_CHECK;

#endif
