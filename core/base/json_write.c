#include "json_write.h"

#include <inttypes.h>
#include <string.h>

void json_write_text(struct buf *out, const char *text, size_t len)
{
    buf_put(out, "\"", 1);
    size_t from = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        buf_put(out, text + from, i - from);
        from = i + 1;
        if (c == '"') buf_text(out, "\\\"");
        else if (c == '\\') buf_text(out, "\\\\");
        else if (c == '\n') buf_text(out, "\\n");
        else if (c == '\t') buf_text(out, "\\t");
        else if (c == '\r') buf_text(out, "\\r");
        else buf_printf(out, "\\u%04x", c);
    }
    buf_put(out, text + from, len - from);
    buf_put(out, "\"", 1);
}

static void write_tree(const struct json *v, bool typed, struct buf *out)
{
    char number[32];
    switch (v->type) {
    case JSON_NULL: buf_text(out, "null"); return;
    case JSON_BOOL: buf_text(out, v->boolean ? "true" : "false"); return;
    case JSON_STRING: json_write_text(out, v->text, v->len); return;
    case JSON_NUMBER:
        if (v->is_int) {
            buf_printf(out, "%" PRId64, v->integer);
        } else {
            f64_text(v->number, number);
            buf_text(out, number);
            if (typed && !strpbrk(number, ".en")) buf_text(out, ".0");
        }
        return;
    case JSON_ARRAY:
    case JSON_OBJECT: break;
    }
    bool object = v->type == JSON_OBJECT;
    buf_text(out, object ? "{" : "[");
    for (const struct json *c = v->child; c; c = c->next) {
        if (c != v->child) buf_put(out, ",", 1);
        if (object) json_write_text(out, c->key, c->key_len);
        if (object) buf_put(out, ":", 1);
        write_tree(c, typed, out);
    }
    buf_text(out, object ? "}" : "]");
}

void json_write(const struct json *v, struct buf *out) { write_tree(v, false, out); }

void json_write_typed(const struct json *v, struct buf *out) { write_tree(v, true, out); }
