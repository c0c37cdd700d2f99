/* From ids back to text. */
#include <string.h>

#include "codepoint.h"
#include "tokenizer_int.h"

const char *tokenizer_piece(const struct tokenizer *t, uint32_t id, size_t *len)
{
    *len = id < t->n ? t->piece_len[id] : 0;
    return id < t->n ? t->piece[id] : "";
}

static bool left_out(const struct tokenizer *t, uint32_t id, bool keep_special)
{
    return id >= t->n || (!keep_special && (t->flag[id] & FLAG_SPECIAL));
}

/* Is it UTF-8? A NUL is a character here. */
static bool is_text(const char *bytes, size_t len)
{
    size_t bad;
    while (!utf8_valid(bytes, len, &bad)) {
        if (bytes[bad] != '\0') return false;
        bytes += bad + 1;
        len -= bad + 1;
    }
    return true;
}

/* A run of byte tokens ends: the bytes from `start` on are a text, or each of them is broken. */
static void end_run(struct buf *raw, size_t start)
{
    if (raw->failed || is_text(raw->data + start, raw->len - start)) return;
    size_t n = raw->len - start;
    raw->len = start;
    for (size_t i = 0; i < n; i++) buf_put(raw, "\xEF\xBF\xBD", 3);
}

static void decode_pieces(const struct tokenizer *t, const uint32_t *id, size_t n, bool keep_special,
                          struct buf *out)
{
    struct buf raw = {0};
    size_t run = SIZE_MAX, start, end; /* where a run of byte tokens began */
    bool first = true;
    for (size_t i = 0; i < n; i++) {
        if (left_out(t, id[i], keep_special)) continue;
        bool byte = t->flag[id[i]] & FLAG_BYTE;
        if (byte && run == SIZE_MAX) run = raw.len;
        if (!byte && run != SIZE_MAX) end_run(&raw, run), run = SIZE_MAX;
        if (first && t->detokenize.bare_first)
            detokenize_piece(&t->detokenize, t->spelling[id[i]], t->spelling_len[id[i]], true, &raw);
        else
            buf_put(&raw, t->piece[id[i]], t->piece_len[id[i]]);
        first = false;
    }
    if (run != SIZE_MAX) end_run(&raw, run);
    const char *text = raw.data ? raw.data : "";
    detokenize_strip(&t->detokenize, text, raw.len, &start, &end);
    buf_put(out, text + start, end - start);
    out->failed = out->failed || raw.failed;
    buf_release(&raw);
}

static void decode_bytes(const struct tokenizer *t, const uint32_t *id, size_t n, bool keep_special,
                         struct buf *out)
{
    struct buf raw = {0};
    for (size_t i = 0; i < n; i++)
        if (!left_out(t, id[i], keep_special)) buf_put(&raw, t->piece[id[i]], t->piece_len[id[i]]);
    utf8_repair(raw.data ? raw.data : "", raw.len, out);
    out->failed = out->failed || raw.failed;
    buf_release(&raw);
}

void tokenizer_decode(const struct tokenizer *t, const uint32_t *id, size_t n, bool keep_special,
                      struct buf *out)
{
    if (t->detokenize.byte_level)
        decode_bytes(t, id, n, keep_special, out);
    else
        decode_pieces(t, id, n, keep_special, out);
}

void tokenizer_show(const struct tokenizer *t, uint32_t id, struct buf *out)
{
    size_t len;
    const char *piece = tokenizer_piece(t, id, &len);
    utf8_repair(piece, len, out);
}
