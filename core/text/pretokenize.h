/* Cutting text into the words that merges stay inside.
 *
 * A plan is a short sequence of splits, each applied to the pieces the one before left. Its rows
 * live in pretokenize.def; a GGUF file names a row, a tokenizer.json spells its splits out and
 * each is looked up. Only splits of the table, and plain texts, are ever run: an unknown one is
 * ERR_UNSUPPORTED with its spelling, never a pattern from a file compiled on trust.
 *
 * A split finds matches; what becomes of them and of the gaps between is its behaviour. A plan may
 * also put a space (ByteLevel) or a mark (Metaspace, which turns spaces into marks as well) before
 * a piece, at one place in the sequence; where that is the first, never before a text that goes on where
 * another ends.
 *
 * The patterns that matter are scanned by hand (scan.h). The others run on the pattern library,
 * where code points younger than its tables are matched through stand-ins (core/text/codepoint.h).
 * The words handed out are always the caller's own bytes.
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
    SPLIT_COUNT,
    SPLIT_TEXT = SPLIT_COUNT, /* a plain text, the plan's */
};
enum split_behavior { SPLIT_ISOLATED, SPLIT_REMOVED, SPLIT_WITH_PREVIOUS, SPLIT_WITH_NEXT, SPLIT_CONTIGUOUS };
enum mark_prefix { MARK_NONE, MARK_NEVER, MARK_FIRST, MARK_ALWAYS }; /* NONE: no Metaspace at all */

enum { PRETOKENIZE_SPLITS = 8, PRETOKENIZE_TEXT = 16 };
struct pretokenize_plan {
    unsigned char split[PRETOKENIZE_SPLITS];    /* enum split_id */
    unsigned char behavior[PRETOKENIZE_SPLITS]; /* enum split_behavior */
    bool invert[PRETOKENIZE_SPLITS];            /* the gaps are the matches */
    char text[PRETOKENIZE_SPLITS][PRETOKENIZE_TEXT]; /* of SPLIT_TEXT */
    size_t n;
    bool byte_level;    /* words are bytes in GPT-2's alphabet, not characters */
    bool prefix_space;  /* ByteLevel's: each piece that has no leading space gets one */
    size_t prefix_from; /* before this split; MARK's place as well */
    enum mark_prefix mark_prefix; /* FIRST: only at the start of the whole text */
    char mark[PRETOKENIZE_TEXT];
    bool ignore_merges; /* a word that is a token is that token */
    bool nfc;           /* the text is in form C; said by a GGUF file's name for the plan */
};

/* The pattern of a split; NULL: it is cut by hand. */
const char *split_regex(enum split_id split);
/* The row of a `tokenizer.ggml.pre` name; NULL means the file is silent. */
bool pretokenize_named(const char *name, struct pretokenize_plan *plan, struct err *e) MUST_CHECK;
/* The `pre_tokenizer` of a tokenizer.json; NULL and null leave the text whole. */
bool pretokenize_json(const struct json *pre_tokenizer, struct pretokenize_plan *plan,
                      struct err *e) MUST_CHECK;

struct pretokenizer {
    struct pretokenize_plan plan;
    unsigned char *class_of;                     /* core/text/char_class.h */
    struct pattern *pattern[PRETOKENIZE_SPLITS]; /* NULL: cut by hand */
    bool patterned;                              /* some are not NULL */
};
/* by_pattern: the pattern library runs every pattern there is; for tests. */
bool pretokenizer_init(struct pretokenizer *p, const struct pretokenize_plan *plan, bool by_pattern,
                       struct err *e) MUST_CHECK;
void pretokenizer_release(struct pretokenizer *p);

struct pretokenize_run; /* one thread's searches */
struct pretokenize_run *pretokenize_run_new(const struct pretokenizer *p, struct err *e) MUST_CHECK;
void pretokenize_run_free(struct pretokenize_run *r);

enum text_place {
    TEXT_FIRST,  /* it begins what was given to be encoded */
    TEXT_LATER,  /* something of that stands before it, a special token */
    TEXT_JOINED, /* it goes on where another text ends */
};
typedef bool word_fn(void *context, const char *bytes, size_t len, struct err *e);
/* Call `word` for each word of the text, in order; a word's bytes last until it returns. Valid UTF-8. */
bool pretokenize(struct pretokenize_run *r, const char *text, size_t len, enum text_place place,
                 word_fn *word, void *context, struct err *e) MUST_CHECK;

#endif
