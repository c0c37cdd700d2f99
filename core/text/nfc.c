#include "nfc.h"

#include <stdlib.h>
#include <utf8proc.h>

#include "codepoint.h"

static bool map(const char *text, size_t len, int how, struct buf *out, struct err *e)
{
    if (len == 0) return true;
    utf8proc_uint8_t *made = NULL;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)len, &made,
                                      UTF8PROC_STABLE | UTF8PROC_COMPOSE | how);
    if (n < 0) {
        free(made);
        return err_set(e, n == UTF8PROC_ERROR_NOMEM ? ERR_NO_MEMORY : ERR_INVALID,
                       "normalising %zu bytes: %s", len, utf8proc_errmsg(n));
    }
    buf_put(out, made, (size_t)n);
    free(made);
    return true;
}

bool nfc(const char *text, size_t len, struct buf *out, struct err *e)
{
    size_t from = 0;
    bool plain = true; /* ASCII is normal already */
    for (size_t at = 0; at < len;) {
        uint32_t cp;
        size_t n = cp_next(text + at, len - at, &cp);
        plain = plain && cp < 0x80;
        if (cp_nfc_inert(cp)) {
            if (!map(text + from, at - from, 0, out, e)) return false;
            buf_put(out, text + at, n);
            from = at + n;
        }
        at += n;
    }
    if (plain)
        buf_put(out, text, len);
    else if (!map(text + from, len - from, 0, out, e))
        return false;
    return buf_ok(out, e);
}

bool nfc_casefold(const char *text, size_t len, struct buf *out, struct err *e)
{
    return map(text, len, UTF8PROC_CASEFOLD, out, e) && buf_ok(out, e);
}

bool is_punctuation(uint32_t codepoint)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)codepoint);
    return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

bool is_white_space(uint32_t codepoint)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)codepoint);
    return (c >= UTF8PROC_CATEGORY_ZS && c <= UTF8PROC_CATEGORY_ZP) ||
           (codepoint >= '\t' && codepoint <= '\r');
}
