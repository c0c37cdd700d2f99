/* tokenizer.json and tokenizer_config.json for a model that came as GGUF: the same tokenizer in the
 * words of the `tokenizers` library.
 *
 * Both are written from the token_spec the engine builds its own tokenizer from: vocabulary and
 * merges as the file spells them, or as the scores of a SentencePiece vocabulary imply them; special and
 * user-defined tokens as added tokens; the splits of the file's pre-tokenizer as a Sequence that ends in
 * ByteLevel, or the marks for spaces as normalizers with their decoder; and a post-processor that adds
 * the beginning-of-sequence token exactly when the file says so. Bytes that a byte-level vocabulary
 * lacks are dropped, here as there: it has no unknown token, whatever the file calls one.
 *
 * What tokenizer.json cannot say is refused: a special token that shares its spelling with a later
 * token, and a merge of a character that is no token. Where two plain tokens share one, the later is meant and the earlier left out.
 *
 * The text is appended to `out`. Pure functions over immutable data; any thread.
 */
#ifndef ENGRAM_HUB_TOKENIZER_H
#define ENGRAM_HUB_TOKENIZER_H

#include "core/file/gguf.h"

bool hub_tokenizer(const struct gguf *g, struct buf *out, struct err *e) MUST_CHECK;
/* `context`: the longest sequence, tokens. */
bool hub_tokenizer_config(const struct gguf *g, uint32_t context, struct buf *out, struct err *e)
    MUST_CHECK;

#endif
