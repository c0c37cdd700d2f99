#include "nfc.h"

#include <stdlib.h>
#include <utf8proc.h>

#include "codepoint.h"

static bool run(const char *text, size_t len, struct buf *out, struct err *e)
{
    if (len == 0) return true;
    utf8proc_uint8_t *made = NULL;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)len, &made,
                                      UTF8PROC_STABLE | UTF8PROC_COMPOSE);
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
            if (!run(text + from, at - from, out, e)) return false;
            buf_put(out, text + at, n);
            from = at + n;
        }
        at += n;
    }
    if (plain)
        buf_put(out, text, len);
    else if (!run(text + from, len - from, out, e))
        return false;
    return buf_ok(out, e);
}
