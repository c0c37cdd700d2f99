/* A tokenizer's description, between the two file readers and the one builder; and what is built.
 *
 * tokenizer_gguf.c and tokenizer_json.c fill a struct token_spec from what they find;
 * tokenizer_build checks it and makes the tokenizer. Texts are borrowed from the file's own
 * memory or live in the spec's arena; the tokenizer keeps copies. Ids are 0..n-1; an id without a
 * text is a hole: it is never produced and decodes to nothing.
 *
 * Of two plain tokens with one text the higher id is meant. Merges naming unknown tokens, ids out
 * of range, ids given twice are errors.
 */
#ifndef ENGRAM_TOKENIZER_INT_H
#define ENGRAM_TOKENIZER_INT_H

#include "bpe.h"
#include "chat.h"
#include "detokenize.h"
#include "normalize.h"
#include "pretokenize.h"
#include "special.h"
#include "strmap.h"
#include "tokenizer.h"

enum { TOKENS_MAX = 1 << 22 };
#define NO_TOKEN UINT32_MAX

enum token_kind { TOKEN_HOLE, TOKEN_PLAIN, TOKEN_ADDED, TOKEN_SPECIAL };
struct token_row {
    const char *text;
    uint32_t len;
    unsigned char kind; /* enum token_kind */
    bool in_vocabulary; /* merges may name it */
    bool single_word, lstrip, rstrip, normalized;
};
struct merge_row {
    const char *left, *right;
    uint32_t left_len, right_len;
    uint32_t rank; /* the lower joins first; rows may share one */
};
struct token_spec {
    struct arena arena;
    struct token_row *token;
    size_t n;
    struct merge_row *merge;
    size_t n_merge;
    struct normal_plan normal;
    struct pretokenize_plan plan;
    struct detokenize_plan detokenize;
    uint32_t unknown; /* what unknown bytes or characters become, or NO_TOKEN */
    bool fuse_unknown;
    bool byte_fallback; /* of characters, to the tokens "<0x00>".."<0xFF>" */
    bool spare;         /* merges may name characters that are no token */
    bool adds_bos;
    uint32_t bos, eos;            /* or NO_TOKEN */
    uint32_t named_bos, named_eos; /* those that chat templates see; or NO_TOKEN */
    const uint32_t *ender;        /* further ids that end generation */
    size_t n_ender;
    const char *chat_template;    /* or NULL */
};

/* The merges of a SentencePiece vocabulary: every way to make a token of two that may be named, or of
 * single characters, the higher score first. Fills s->merge. */
bool token_spec_score_merges(struct token_spec *s, const float *score, struct err *e) MUST_CHECK;

/* Added tokens, once the vocabulary's rows are there: those of tokenizer.json under their ids, then those of
 * tokenizer_config.json, for which there is room. Either list may be NULL. */
bool token_spec_added(struct token_spec *s, const struct json *vocab, const struct json *added,
                      const struct json *decoder, struct err *e) MUST_CHECK;

bool token_spec_from_gguf(struct token_spec *s, const struct gguf *g, struct err *e) MUST_CHECK;

struct token_files { /* a hub directory's; all but the first may be NULL */
    const struct json *tokenizer, *tokenizer_config, *generation_config, *config;
    const char *chat_template;
};
bool token_spec_from_json(struct token_spec *s, const struct token_files *f, struct err *e)
    MUST_CHECK;
void token_spec_release(struct token_spec *s);

struct tokenizer *tokenizer_build(const struct token_spec *s, struct err *e) MUST_CHECK;

/* ---- what is built; its fields are for tokenizer*.c alone ---------------------------------------- */

enum token_flag { FLAG_SPECIAL = 1, FLAG_ENDS = 2, FLAG_BYTE = 4 };

struct tokenizer {
    struct arena arena;
    size_t n;
    const char **spelling; /* as the file has it; "" for a hole */
    uint32_t *spelling_len;
    const char **piece; /* what it stands for, raw bytes; "" for a hole */
    uint32_t *piece_len;
    unsigned char *flag;
    struct strmap vocabulary; /* spelling -> id; kept for whole-word look-up */
    struct bpe bpe;
    struct normalizer normal;
    struct pretokenizer pre;
    struct detokenize_plan detokenize;
    struct special_set raw, normalized; /* matched before, and after, normalisation */
    struct chat chat;
    bool cuts_at_marks; /* no merge reaches across the border before a run of U+2581 */
    bool adds_bos;
    uint32_t bos, eos, named_bos, named_eos;
    uint32_t n_model; /* ids from here on have no embedding; see tokenizer_bind */
};

#endif
