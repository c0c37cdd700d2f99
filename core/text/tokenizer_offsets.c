/* Where each token lies in the text it was made from. */
#include <string.h>

#include "tokenizer_int.h"

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static bool starts_with(const char *text, size_t len, const char *piece, size_t n)
{
    return n <= len && memcmp(text, piece, n) == 0;
}

/* The token's bytes at *at; a space that the tokenizer put before a word of its own is in no text, and white
 * space beside a special token may have been taken by it. */
static bool match(const char *text, size_t len, const char *piece, size_t n, bool beside_special, size_t *at, size_t *from)
{
    for (size_t skip = *at;; skip++) {
        *from = skip;
        if (starts_with(text + skip, len - skip, piece, n)) {
            *at = skip + n;
            return true;
        }
        if (n && piece[0] == ' ' && starts_with(text + skip, len - skip, piece + 1, n - 1)) {
            *at = skip + n - 1;
            return true;
        }
        if (!beside_special || skip >= len || !is_space(text[skip])) return false;
    }
}

bool tokenizer_offsets(const struct tokenizer *t, const char *text, size_t len, const uint32_t *id, size_t n,
                       struct offset *out, struct err *e)
{
    size_t at = 0;
    bool special = false;
    for (size_t i = 0; i < n; i++) {
        size_t piece_len;
        const char *piece = tokenizer_piece(t, id[i], &piece_len);
        bool was = special;
        special = tokenizer_is_special(t, id[i]);
        if (!match(text, len, piece, piece_len, was || special, &at, &out[i].from))
            return err_set(e, ERR_UNPROCESSABLE,
                           "token %zu does not spell the text at byte %zu, which the tokenizer normalizes: places in it "
                           "cannot be named by its characters", i, at);
        out[i].to = at;
    }
    while (special && at < len && is_space(text[at])) at++;
    return at == len || err_set(e, ERR_UNPROCESSABLE, "the tokens spell the text only up to byte %zu of %zu", at, len);
}
