#include "nfc.h"

#include <stdlib.h>
#include <utf8proc.h>

#include "codepoint.h"

static const struct inert {
    unsigned char form; /* enum unicode_form */
    uint32_t first, last;
} inert[] = {
#define NFC(first, last) {FORM_NFC, first, last},
#define NFD(first, last) {FORM_NFD, first, last},
#define NFKC(first, last) {FORM_NFKC, first, last},
#define NFKD(first, last) {FORM_NFKD, first, last},
#include "unicode_nfc.def"
};
static const struct lower {
    uint32_t from, to;
} lowers[] = {
#define ROW(from, to) {from, to},
#include "unicode_lower.def"
#undef ROW
};

/* How utf8proc is asked for a form, and the first character that may be changed by it or may
 * change what stands before it. */
static const struct how {
    int options;
    uint32_t first;
} hows[FORM_COUNT] = {
    [FORM_NFC] = {UTF8PROC_STABLE | UTF8PROC_COMPOSE, 0x300},
    [FORM_NFD] = {UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, 0xC0},
    [FORM_NFKC] = {UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT, 0xA0},
    [FORM_NFKD] = {UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, 0xA0},
};

static bool is_inert(enum unicode_form form, uint32_t cp)
{
    size_t low = 0, high = sizeof inert / sizeof *inert;
    while (low < high) { /* the rows are in order of form, then of code point */
        size_t mid = low + (high - low) / 2;
        const struct inert *r = &inert[mid];
        if (form > r->form || (form == r->form && cp > r->last))
            low = mid + 1;
        else
            high = mid;
    }
    return low < sizeof inert / sizeof *inert && inert[low].form == form && cp >= inert[low].first;
}

/* Starters that no form changes, and that no character before or after them changes. */
static bool is_plain(enum unicode_form form, uint32_t cp)
{
    return cp < hows[form].first || (cp >= 0x4E00 && cp <= 0x9FA5);
}

static bool map(const char *text, size_t len, int how, struct buf *out, struct err *e)
{
    if (len == 0) return true;
    utf8proc_uint8_t *made = NULL;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)len, &made, how);
    if (n < 0) {
        free(made);
        return err_set(e, n == UTF8PROC_ERROR_NOMEM ? ERR_NO_MEMORY : ERR_INVALID,
                       "normalising %zu bytes: %s", len, utf8proc_errmsg(n));
    }
    buf_put(out, made, (size_t)n);
    free(made);
    return true;
}

/* The text is cut into stretches of plain characters, which are copied, and the rest, which is
 * mapped together with the one plain character before it (a mark may join it). */
bool unicode_normal(enum unicode_form form, const char *text, size_t len, struct buf *out,
                    struct err *e)
{
    size_t done = 0, last = 0; /* `last`: where the plain character before `at` begins */
    bool mapping = false;      /* [done, at) must be mapped */
    for (size_t at = 0, n; at < len; at += n) {
        uint32_t cp;
        n = cp_next(text + at, len - at, &cp);
        bool plain = is_plain(form, cp);
        if (!plain && is_inert(form, cp)) {
            if (mapping && !map(text + done, at - done, hows[form].options, out, e)) return false;
            if (!mapping) buf_put(out, text + done, at - done);
            buf_put(out, text + at, n);
            done = last = at + n;
            mapping = false;
        } else if (plain && mapping) {
            if (!map(text + done, at - done, hows[form].options, out, e)) return false;
            done = at;
            mapping = false;
        } else if (!plain && !mapping) {
            buf_put(out, text + done, last - done);
            done = last;
            mapping = true;
        }
        if (plain) last = at;
    }
    if (!mapping)
        buf_put(out, text + done, len - done);
    else if (!map(text + done, len - done, hows[form].options, out, e))
        return false;
    return buf_ok(out, e);
}

static uint32_t lower(uint32_t cp)
{
    for (size_t i = 0; i < sizeof lowers / sizeof *lowers; i++)
        if (lowers[i].from == cp) return lowers[i].to;
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
}

void unicode_lower(const char *text, size_t len, struct buf *out)
{
    for (size_t at = 0; at < len;) {
        uint32_t cp;
        char c[4];
        at += cp_next(text + at, len - at, &cp);
        if (cp < 0x80)
            c[0] = (char)(cp >= 'A' && cp <= 'Z' ? cp | 0x20 : cp), buf_put(out, c, 1);
        else
            buf_put(out, c, cp_put(c, lower(cp)));
        if (cp == 0x130) buf_put(out, "\xCC\x87", 2); /* the dot it had above it */
    }
}

bool nfc_casefold(const char *text, size_t len, struct buf *out, struct err *e)
{
    return map(text, len, UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_CASEFOLD, out, e) && buf_ok(out, e);
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
