/* A tokenizer's description, between the two file readers and the one builder.
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

#include "pretokenize.h"
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
};
struct token_spec {
    struct arena arena;
    struct token_row *token;
    size_t n;
    struct merge_row *merge;
    size_t n_merge;
    struct pretokenize_plan plan;
    const char *unknown; /* the text of the token for unknown bytes, or NULL */
    bool fuse_unknown;
    bool adds_bos;
    uint32_t bos, eos;            /* or NO_TOKEN */
    const uint32_t *ender;        /* further ids that end generation */
    size_t n_ender;
    const char *chat_template;    /* or NULL */
};

bool token_spec_from_gguf(struct token_spec *s, const struct gguf *g, struct err *e) MUST_CHECK;

struct token_files { /* a hub directory's; all but the first may be NULL */
    const struct json *tokenizer, *tokenizer_config, *generation_config, *config;
    const char *chat_template;
};
bool token_spec_from_json(struct token_spec *s, const struct token_files *f, struct err *e)
    MUST_CHECK;
void token_spec_release(struct token_spec *s);

struct tokenizer *tokenizer_build(const struct token_spec *s, struct err *e) MUST_CHECK;

#endif
