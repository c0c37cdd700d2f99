#include "json.h"

#include <string.h>

/* One row per kind of lead byte (Unicode, table 3-7): how many bytes follow it, and the range of
 * the first of them, which is where overlong forms, surrogates and values past U+10FFFF hide. */
struct lead {
    unsigned char first, last, follow, low, high;
};
static const struct lead leads[] = {
    {0x01, 0x7F, 0, 0x00, 0x00}, {0xC2, 0xDF, 1, 0x80, 0xBF}, {0xE0, 0xE0, 2, 0xA0, 0xBF},
    {0xE1, 0xEC, 2, 0x80, 0xBF}, {0xED, 0xED, 2, 0x80, 0x9F}, {0xEE, 0xEF, 2, 0x80, 0xBF},
    {0xF0, 0xF0, 3, 0x90, 0xBF}, {0xF1, 0xF3, 3, 0x80, 0xBF}, {0xF4, 0xF4, 3, 0x80, 0x8F},
};

/* Bytes of the character at s, or 0 when there is none. */
static size_t character(const unsigned char *s, size_t left)
{
    for (size_t i = 0; i < sizeof leads / sizeof *leads; i++) {
        const struct lead *l = &leads[i];
        if (s[0] < l->first || s[0] > l->last) continue;
        if (left <= l->follow) return 0;
        if (l->follow && (s[1] < l->low || s[1] > l->high)) return 0;
        for (size_t k = 2; k <= l->follow; k++)
            if ((s[k] & 0xC0) != 0x80) return 0;
        return (size_t)l->follow + 1;
    }
    return 0;
}

/* Eight bytes, all of them in 0x01..0x7F: the common case, taken in one step. */
static bool plain(const unsigned char *s)
{
    const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
    uint64_t v;
    memcpy(&v, s, sizeof v);
    return ((v | (v - ones)) & tops) == 0;
}

bool utf8_valid(const char *text, size_t len, size_t *bad_offset)
{
    const unsigned char *s = (const unsigned char *)text;
    for (size_t at = 0; at < len;) {
        if (len - at >= 8 && plain(s + at)) {
            at += 8;
            continue;
        }
        size_t n = character(s + at, len - at);
        if (n == 0) {
            *bad_offset = at;
            return false;
        }
        at += n;
    }
    return true;
}

size_t utf8_open(const char *text, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)text[n - back];
        if ((c & 0xc0) == 0x80) continue;
        size_t need = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
        return need > back ? back : 0;
    }
    return 0;
}
