#include "bytelevel.h"

#include <string.h>

#include "codepoint.h"

static bool itself(uint32_t c)
{
    return (c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF);
}

uint32_t bytelevel_char(unsigned char byte)
{
    uint32_t c = byte;
    if (itself(c)) return c;
    if (c <= 0x20) return 0x100 + c;
    if (c <= 0xA0) return 0x121 + (c - 0x7F);
    return 0x143; /* 0xAD, the soft hyphen */
}

int bytelevel_byte(uint32_t cp)
{
    if (cp <= 0xFF) return itself(cp) ? (int)cp : -1;
    if (cp <= 0x120) return (int)(cp - 0x100);
    if (cp <= 0x142) return (int)(cp - 0x121 + 0x7F);
    return cp == 0x143 ? 0xAD : -1;
}

size_t bytelevel_decode(const char *token, size_t len, char *out)
{
    size_t n = 0;
    for (size_t at = 0; at < len;) {
        uint32_t cp;
        at += cp_next(token + at, len - at, &cp);
        int byte = bytelevel_byte(cp);
        if (byte < 0) {
            memcpy(out, token, len);
            return len;
        }
        out[n++] = (char)byte;
    }
    return n;
}

void bytelevel_encode(const char *bytes, size_t len, struct buf *out)
{
    for (size_t i = 0; i < len; i++) {
        char c[4];
        buf_put(out, c, cp_put(c, bytelevel_char((unsigned char)bytes[i])));
    }
}
