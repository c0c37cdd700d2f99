#include "detokenize.h"

#include <string.h>

#include "core/base/mem.h"

/* ---- reading --------------------------------------------------------------------------------- */

struct reading {
    struct detokenize_plan *p;
    bool fused, stripped;
};

static bool read_byte_level(struct reading *r, const struct json *o, struct err *e)
{
    (void)o, (void)e;
    r->p->byte_level = true;
    return true;
}

static bool take_marks(struct reading *r, const char *mark, const char *put, struct err *e)
{
    if (r->p->mark[0] || r->p->byte_level)
        return err_set(e, ERR_UNSUPPORTED, "decoder that replaces twice");
    if (!*mark || strlen(mark) >= DETOKENIZE_TEXT || strlen(put) >= DETOKENIZE_TEXT)
        return err_set(e, ERR_UNSUPPORTED, "decoder with a text of %d bytes or more", DETOKENIZE_TEXT);
    memcpy(r->p->mark, mark, strlen(mark) + 1);
    memcpy(r->p->put, put, strlen(put) + 1);
    return true;
}

static bool read_replace(struct reading *r, const struct json *o, struct err *e)
{
    const struct json *mark = json_get(json_get(o, "pattern"), "String"), *put = json_get(o, "content");
    if (!mark || mark->type != JSON_STRING || !put || put->type != JSON_STRING)
        return err_set(e, ERR_UNSUPPORTED, "decoder Replace without a String pattern");
    if (r->fused) return err_set(e, ERR_UNSUPPORTED, "decoder Replace after Fuse");
    if (r->p->byte_fallback) return err_set(e, ERR_UNSUPPORTED, "decoder Replace after ByteFallback");
    return take_marks(r, mark->text, put->text, e);
}

static bool read_metaspace(struct reading *r, const struct json *o, struct err *e)
{
    const struct json *mark = json_get(o, "replacement"), *scheme = json_get(o, "prepend_scheme");
    const struct json *prefix = json_get(o, "add_prefix_space");
    if (r->fused) return err_set(e, ERR_UNSUPPORTED, "decoder Metaspace after Fuse");
    bool never = scheme ? json_is(scheme, "never")
                        : prefix && prefix->type == JSON_BOOL && !prefix->boolean;
    r->p->bare_first = !never;
    return take_marks(r, mark && mark->type == JSON_STRING ? mark->text : "\u2581", " ", e);
}

static bool read_byte_fallback(struct reading *r, const struct json *o, struct err *e)
{
    (void)o;
    if (r->fused) return err_set(e, ERR_UNSUPPORTED, "decoder ByteFallback after Fuse");
    r->p->byte_fallback = true;
    return true;
}

static bool read_fuse(struct reading *r, const struct json *o, struct err *e)
{
    (void)o, (void)e;
    r->fused = true;
    return true;
}

static bool read_count(const struct json *v, uint32_t *n, struct err *e)
{
    *n = 0;
    if (!v) return true;
    if (!v->is_int || v->integer < 0 || v->integer > 1 << 20)
        return err_set(e, ERR_CORRUPT, "decoder Strip of an impossible count");
    *n = (uint32_t)v->integer;
    return true;
}

static bool read_strip(struct reading *r, const struct json *o, struct err *e)
{
    const struct json *c = json_get(o, "content");
    if (!r->fused || r->stripped)
        return err_set(e, ERR_UNSUPPORTED, "decoder Strip that is not once and after Fuse");
    if (!c || c->type != JSON_STRING || c->len == 0 || c->len >= sizeof r->p->strip)
        return err_set(e, ERR_CORRUPT, "decoder Strip without a character");
    memcpy(r->p->strip, c->text, c->len + 1);
    r->stripped = true;
    return read_count(json_get(o, "start"), &r->p->left, e) &&
           read_count(json_get(o, "stop"), &r->p->right, e);
}

static const struct reader {
    const char *type;
    bool (*read)(struct reading *r, const struct json *o, struct err *e);
} readers[] = {
    {"ByteLevel", read_byte_level}, {"Replace", read_replace}, {"Metaspace", read_metaspace},
    {"ByteFallback", read_byte_fallback}, {"Fuse", read_fuse}, {"Strip", read_strip},
};

static bool read_decoder(struct reading *r, const struct json *o, struct err *e)
{
    const struct json *type = json_get(o, "type"), *list = json_get(o, "decoders");
    if (!type || type->type != JSON_STRING) return err_set(e, ERR_CORRUPT, "a decoder without a type");
    if (json_is(type, "Sequence") && list && list->type == JSON_ARRAY) {
        for (const struct json *c = list->child; c; c = c->next)
            if (!read_decoder(r, c, e)) return false;
        return true;
    }
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++)
        if (json_is(type, readers[i].type)) return readers[i].read(r, o, e);
    return err_set(e, ERR_UNSUPPORTED, "tokenizer.json's decoder %.64s is not one we have", type->text);
}

bool detokenize_json(const struct json *decoder, bool byte_level, struct detokenize_plan *p,
                     struct err *e)
{
    struct reading r = {.p = p};
    *p = (struct detokenize_plan){.byte_level = false};
    if (!decoder || decoder->type == JSON_NULL) {
        p->byte_level = byte_level;
        return byte_level || err_set(e, ERR_UNSUPPORTED, "tokenizer.json without a decoder");
    }
    if (!read_decoder(&r, decoder, e)) return false;
    if (p->byte_level == byte_level && !(byte_level && (p->mark[0] || p->byte_fallback || r.stripped)))
        return true;
    return err_set(e, ERR_UNSUPPORTED, "tokenizer.json's decoder is not that of its pre_tokenizer");
}

/* ---- decoding -------------------------------------------------------------------------------- */

static int hex(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool detokenize_byte(const char *token, size_t len, unsigned char *byte)
{
    if (len != 6 || memcmp(token, "<0x", 3) != 0 || token[5] != '>') return false;
    int high = hex(token[3]), low = hex(token[4]);
    if (high < 0 || low < 0) return false;
    *byte = (unsigned char)(high << 4 | low);
    return true;
}

static void put_replaced(const struct detokenize_plan *p, const char *token, size_t len, bool bare,
                         struct buf *out)
{
    size_t mark = strlen(p->mark);
    const char *end = token + len;
    for (const char *at = token;;) {
        const char *found = mark ? memmem(at, (size_t)(end - at), p->mark, mark) : NULL;
        buf_put(out, at, (size_t)((found ? found : end) - at));
        if (!found) return;
        if (!bare) buf_text(out, p->put);
        at = found + mark;
    }
}

void detokenize_piece(const struct detokenize_plan *p, const char *token, size_t len, bool first,
                      struct buf *out)
{
    unsigned char byte;
    if (p->byte_fallback && detokenize_byte(token, len, &byte))
        buf_put(out, &byte, 1);
    else
        put_replaced(p, token, len, first && p->bare_first, out);
}

void detokenize_strip(const struct detokenize_plan *p, const char *text, size_t len, size_t *start,
                      size_t *end)
{
    size_t n = strlen(p->strip);
    *start = 0;
    *end = len;
    for (uint32_t i = 0; i < p->left && *end - *start >= n && memcmp(text + *start, p->strip, n) == 0; i++)
        *start += n;
    for (uint32_t i = 0; i < p->right && *end - *start >= n && memcmp(text + *end - n, p->strip, n) == 0; i++)
        *end -= n;
}
