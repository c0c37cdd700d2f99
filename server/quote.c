#include "quote.h"

#include <string.h>

#include "core/base/json.h"

static void put_char(struct buf *out, unsigned char c)
{
    static const char short_escapes[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    for (const char *p = short_escapes; *p; p += 2)
        if ((unsigned char)p[0] == c) {
            buf_put(out, "\\", 1);
            buf_put(out, p + 1, 1);
            return;
        }
    if (c < 0x20 || c == 0x7f) buf_printf(out, "\\u%04x", c);
    else buf_put(out, &c, 1);
}

static void put_run(struct buf *out, const char *text, size_t len)
{
    size_t from = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f) continue;
        buf_put(out, text + from, i - from);
        put_char(out, c);
        from = i + 1;
    }
    buf_put(out, text + from, len - from);
}

void quote_bytes(struct buf *out, const char *text, size_t len)
{
    buf_put(out, "\"", 1);
    while (len) {
        size_t good = 0;
        if (utf8_valid(text, len, &good)) good = len;
        put_run(out, text, good);
        text += good;
        len -= good;
        if (!len) break;
        buf_text(out, "\xEF\xBF\xBD");
        text++;
        len--;
    }
    buf_put(out, "\"", 1);
}

void quote(struct buf *out, const char *text) { quote_bytes(out, text, strlen(text)); }
