/* Byte-pair encoding of one word: bytes become symbols, and the adjacent pair of lowest rank is
 * joined until no pair is in the table.
 *
 * A heap of candidate pairs over a linked list of symbols makes a word of n bytes cost
 * O(n log n), whatever its content. The order of work is the reference's, including its one loose
 * end: a candidate that has gone stale still counts when the pair now at its place joins to the
 * same token.
 *
 * A byte without a token of its own becomes `unknown`, or nothing when there is none, and its
 * neighbours then touch. With `fuse_unknown` a run of such bytes becomes one.
 *
 * struct bpe is immutable after bpe_init and shared; struct bpe_work is one thread's scratch.
 */
#ifndef ENGRAM_BPE_H
#define ENGRAM_BPE_H

#include "tokenizer.h"

#define BPE_NONE UINT32_MAX

struct bpe_merge { /* its index is its rank: lower joins first */
    uint32_t left, right, result;
};
struct bpe {
    uint32_t byte_id[256]; /* BPE_NONE: the vocabulary has no such byte */
    uint32_t unknown;      /* or BPE_NONE */
    bool fuse_unknown;
    struct bpe_pair *pair; /* open addressing by (left, right) */
    size_t mask;
};
/* Build the pair table; of equal pairs the last counts. The other members are the caller's. */
bool bpe_init(struct bpe *b, const struct bpe_merge *merge, size_t n, struct err *e) MUST_CHECK;
void bpe_release(struct bpe *b);

struct bpe_work {
    struct bpe_symbol *symbol;
    struct bpe_candidate *heap;
    size_t cap, n_heap;
};
void bpe_work_release(struct bpe_work *w);

enum { BPE_WORD_MAX = 1 << 30 };
/* Append the ids of one word of at most BPE_WORD_MAX bytes. */
bool bpe_word(const struct bpe *b, struct bpe_work *w, const char *bytes, size_t len,
              struct ids *out, struct err *e) MUST_CHECK;

#endif
