/* Cutting text into the words that merges stay inside.
 *
 * A plan is a short sequence of splits, each applied to the pieces the one before left. Its rows
 * live in pretokenize.def; a GGUF file names a row, a tokenizer.json spells its splits out and
 * each is looked up. Only splits of the table are ever run: an unknown one is ERR_UNSUPPORTED
 * with its spelling, never a pattern from a file compiled on trust.
 *
 * Code points younger than the pattern library's tables are matched through stand-ins
 * (core/text/codepoint.h); the words handed out are always the caller's own bytes.
 *
 * struct pretokenizer is immutable after _init and shared; each run takes its own scratch.
 */
#ifndef ENGRAM_PRETOKENIZE_H
#define ENGRAM_PRETOKENIZE_H

#include "core/base/json.h"
#include "pcre.h"

enum split_id {
#define SPLIT(id, covers, regex) SPLIT_##id,
#define PRE(...)
#include "pretokenize.def"
#undef SPLIT
#undef PRE
    SPLIT_COUNT
};

enum { PRETOKENIZE_SPLITS = 8 };
struct pretokenize_plan {
    unsigned char split[PRETOKENIZE_SPLITS]; /* enum split_id */
    size_t n;
    bool prefix_space;  /* ByteLevel's: each piece that has no leading space gets one */
    size_t prefix_from; /* before this split */
    bool ignore_merges; /* a word that is a token is that token */
    bool nfc;
};

/* The pattern of a split; NULL: it is cut by hand. */
const char *split_regex(enum split_id split);
/* The row of a `tokenizer.ggml.pre` name; NULL means the file is silent. */
bool pretokenize_named(const char *name, struct pretokenize_plan *plan, struct err *e) MUST_CHECK;
/* The `pre_tokenizer` of a tokenizer.json. */
bool pretokenize_json(const struct json *pre_tokenizer, struct pretokenize_plan *plan,
                      struct err *e) MUST_CHECK;

struct pretokenizer {
    struct pretokenize_plan plan;
    struct pattern *pattern[PRETOKENIZE_SPLITS]; /* NULL: cut by hand */
};
bool pretokenizer_init(struct pretokenizer *p, const struct pretokenize_plan *plan,
                       struct err *e) MUST_CHECK;
void pretokenizer_release(struct pretokenizer *p);

struct pretokenize_run; /* one thread's searches */
struct pretokenize_run *pretokenize_run_new(const struct pretokenizer *p, struct err *e) MUST_CHECK;
void pretokenize_run_free(struct pretokenize_run *r);

typedef bool word_fn(void *context, const char *bytes, size_t len, struct err *e);
/* Call `word` for each word of the text, in order. Valid UTF-8. */
bool pretokenize(struct pretokenize_run *r, const char *text, size_t len, word_fn *word,
                 void *context, struct err *e) MUST_CHECK;

#endif
