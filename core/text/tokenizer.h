/* Text to token ids and back, as the model file defines it.
 *
 * Two kinds of BPE. Byte-level: GPT-2's alphabet of printable bytes, merges by rank, words cut by the
 * pattern the file names (GGUF's `tokenizer.ggml.pre`, or the `pre_tokenizer` of tokenizer.json). By
 * characters, as SentencePiece has it: spaces become marks, merges follow from scores or are listed,
 * characters without a token fall back to their bytes. Special and added tokens are cut out first
 * where they are parsed. What of a tokenizer.json or GGUF file is not known is ERR_UNSUPPORTED and
 * named, never guessed (docs/decisions/tokenizer-oracles.md).
 *
 * Pieces are served raw: a token may be part of a character, and a piece of a SentencePiece vocabulary
 * keeps the space it begins with. Text is repaired with U+FFFD, and tokenizer_decode also takes off
 * the one space that such a tokenizer put before the whole text. A byte the vocabulary has no token
 * for becomes the file's unknown token or is dropped, as the reference does
 * (docs/decisions/unicode-tables.md). No end-of-sequence token is ever appended.
 *
 * The chat template is the file's own, a Jinja2 program (chat.h). One that needs what we do not have
 * is ERR_UNSUPPORTED when used, never a silent wrong prompt. Message content is literal text:
 * special-token spellings inside it are NOT parsed as special tokens.
 *
 * Immutable after creation: any thread may use it.
 */
#ifndef ENGRAM_TOKENIZER_H
#define ENGRAM_TOKENIZER_H

#include "core/file/modelfile.h"

struct tokenizer;

struct ids { /* a growing list of token ids */
    uint32_t *id;
    size_t n, cap;
};
void ids_release(struct ids *v);
bool ids_push(struct ids *v, uint32_t id, struct err *e) MUST_CHECK;

struct tokenizer *tokenizer_new(const struct modelfile *f, struct err *e) MUST_CHECK;
void tokenizer_free(struct tokenizer *t);
/* The model has n_model embeddings. Some checkpoints bring more tokens than that (a text model's
 * image marks): a text that contains one is then ERR_UNPROCESSABLE. Before anybody else uses it. */
void tokenizer_bind(struct tokenizer *t, uint32_t n_model);

uint32_t tokenizer_size(const struct tokenizer *t);
bool tokenizer_adds_bos(const struct tokenizer *t); /* what the file says; false when it is silent */
/* False when the tokenizer has no such token. */
bool tokenizer_bos(const struct tokenizer *t, uint32_t *id);
bool tokenizer_eos(const struct tokenizer *t, uint32_t *id);
/* Any end-of-generation token: eos, eot, eom, and <|im_end|>, <|endoftext|>, <|eot_id|>, </s>…
 * where the file marks them special. */
bool tokenizer_ends_generation(const struct tokenizer *t, uint32_t id);
bool tokenizer_is_special(const struct tokenizer *t, uint32_t id);

/* Append the ids of text to out. Invalid UTF-8 or NUL is ERR_INVALID with the offset. No BOS is
 * added here. parse_special: spellings of special tokens become those tokens. */
bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, bool parse_special,
                      struct ids *out, struct err *e) MUST_CHECK;
/* The same for text that goes on where another ends: the space that such a tokenizer puts before a whole
 * text is not put before this one, so that the ids of both spell the two texts joined. */
bool tokenizer_encode_behind(const struct tokenizer *t, const char *text, size_t len, bool parse_special,
                             struct ids *out, struct err *e) MUST_CHECK;

/* The raw bytes of a token ("" for none). Special tokens give their spelling. Never NULL. */
const char *tokenizer_piece(const struct tokenizer *t, uint32_t id, size_t *len);
/* Append the text of ids to out as valid UTF-8, broken bytes as U+FFFD; special tokens are left
 * out unless keep_special. */
void tokenizer_decode(const struct tokenizer *t, const uint32_t *id, size_t n, bool keep_special,
                      struct buf *out);
/* One token's display text: its piece repaired to valid UTF-8 with U+FFFD. */
void tokenizer_show(const struct tokenizer *t, uint32_t id, struct buf *out);

struct offset { /* [from, to) in bytes of the text */
    size_t from, to;
};
/* Where each of a text's ids (without a BOS that is not in it) lies: pieces are laid on the text one after
 * another, so a token that begins with a space has the space, and of a character in several tokens each
 * has its bytes. ERR_UNPROCESSABLE where the tokens do not spell the text: one that a normalizer has
 * changed, or that has characters without a token. */
bool tokenizer_offsets(const struct tokenizer *t, const char *text, size_t len, const uint32_t *id, size_t n,
                       struct offset *out, struct err *e) MUST_CHECK;

struct message {
    const char *role;
    const char *content;
    size_t content_len;
};
struct conversation {
    const struct message *message;
    size_t n;
    bool add_generation_prompt; /* end with the opening of the assistant's turn */
    const char *date;           /* "2024-07-26", for templates that write the day; or NULL */
};
bool tokenizer_has_chat(const struct tokenizer *t); /* a template that can be read */
const char *tokenizer_chat_template(const struct tokenizer *t); /* its text, or NULL */
/* Append the ids of the rendered conversation to out, and its text to `rendered` (may be NULL). */
bool tokenizer_chat(const struct tokenizer *t, const struct conversation *c, struct ids *out,
                    struct buf *rendered, struct err *e) MUST_CHECK;

#endif
