#include <string.h>

#include "core/text/codepoint.h"
#include "lex.h"
#include "state.h"

bool text_is(struct text t, const char *s)
{
    return strlen(s) == t.len && memcmp(s, t.s, t.len) == 0;
}

struct text text_part(struct text t, size_t from, size_t end)
{
    return (struct text){t.s + from, t.own + from, end - from};
}

int text_compare(struct text a, struct text b) /* UTF-8 sorts as its code points do */
{
    size_t n = a.len < b.len ? a.len : b.len;
    int order = n ? memcmp(a.s, b.s, n) : 0;
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

size_t text_characters(struct text t)
{
    size_t n = 0;
    for (size_t i = 0; i < t.len; i++) n += ((unsigned char)t.s[i] & 0xC0) != 0x80;
    return n;
}

size_t text_offset(struct text t, size_t n)
{
    size_t i = 0;
    for (; i < t.len; i++)
        if (((unsigned char)t.s[i] & 0xC0) != 0x80 && n-- == 0) break;
    return i;
}

bool text_find(struct run *r, struct text t, struct text what, size_t from, size_t *at)
{
    const char *found = what.len ? memmem(t.s + from, t.len - from, what.s, what.len) : t.s + from;
    *at = found ? (size_t)(found - t.s) : SIZE_MAX;
    return run_spend_bytes(r, (found ? *at : t.len) - from + what.len);
}

/* ---- sinks ------------------------------------------------------------------------------------- */

void sink_release(struct sink *s)
{
    buf_release(&s->text);
    buf_release(&s->own);
}

void sink_text(struct sink *s, struct text t)
{
    buf_put(&s->text, t.s, t.len);
    buf_put(&s->own, t.own, t.len);
}

void sink_own(struct sink *s, const char *text)
{
    buf_text(&s->text, text);
    while (!s->own.failed && !s->text.failed && s->own.len < s->text.len) buf_put(&s->own, "\1", 1);
}

bool sink_value(struct run *r, struct sink *s, struct value *out)
{
    size_t n = s->text.len;
    bool ok = buf_ok(&s->text, r->e) && buf_ok(&s->own, r->e);
    char *bytes = ok ? run_take(r, 2 * n + 1, 1) : NULL;
    if (bytes && n) {
        memcpy(bytes, s->text.data, n);
        memcpy(bytes + n, s->own.data, n);
    }
    sink_release(s);
    if (bytes) *out = value_text((struct text){bytes, (const unsigned char *)bytes + n, n});
    return bytes != NULL;
}

/* ---- making ------------------------------------------------------------------------------------ */

bool text_join(struct run *r, struct text a, struct text b, struct value *out)
{
    size_t n = a.len + b.len;
    char *bytes = run_take(r, 2 * n + 1, 1);
    if (!bytes) return false;
    struct text whole = {bytes, (const unsigned char *)bytes + n, n};
    if (a.len) memcpy(bytes, a.s, a.len), memcpy(bytes + n, a.own, a.len);
    if (b.len) memcpy(bytes + a.len, b.s, b.len), memcpy(bytes + n + a.len, b.own, b.len);
    *out = value_text(whole);
    return true;
}

static bool is_among(struct text chars, const char *s, size_t n)
{
    return memmem(chars.s, chars.len, s, n) != NULL;
}

bool text_strip(struct run *r, struct text t, const struct text *chars, bool left, bool right,
                struct value *out)
{
    size_t from = 0, end = t.len, n;
    uint32_t cp;
    if (!run_spend_bytes(r, t.len)) return false;
    if (!chars) {
        if (left) from = python_space_left(t.s, t.len);
        if (right) end -= python_space_right(t.s + from, t.len - from);
    }
    for (; chars && left && from < end; from += n) {
        n = cp_next(t.s + from, end - from, &cp);
        if (!run_spend_bytes(r, chars->len)) return false;
        if (!is_among(*chars, t.s + from, n)) break;
    }
    for (; chars && right && from < end; end -= n) {
        n = cp_before(t.s, end, &cp);
        if (!run_spend_bytes(r, chars->len)) return false;
        if (!is_among(*chars, t.s + end - n, n)) break;
    }
    *out = value_text(text_part(t, from, end));
    return true;
}

/* Only of ASCII: a text with other letters would need Unicode's tables of Python's version. */
static char recased(const char *s, size_t at, enum text_case how)
{
    static const char before_words[] = "- \t\n\v\f\r\x1C\x1D\x1E\x1F({[<"; /* Jinja's title */
    bool upper = how == CASE_UPPER || (how == CASE_CAPITAL && at == 0) ||
                 (how == CASE_TITLE && (at == 0 || strchr(before_words, s[at - 1])));
    char c = s[at], letter = (char)(c | 0x20);
    if (letter < 'a' || letter > 'z') return c;
    return upper ? (char)(c & ~0x20) : letter;
}

bool text_recase(struct run *r, struct text t, enum text_case how, struct value *out)
{
    char *bytes = run_take(r, t.len + 1, 1);
    if (!bytes) return false;
    for (size_t i = 0; i < t.len; i++) {
        if (t.s[i] & 0x80) return run_refuse(r, "upper or lower case of letters outside ASCII");
        bytes[i] = recased(t.s, i, how);
    }
    *out = value_text((struct text){bytes, t.own, t.len});
    return true;
}

bool text_replace(struct run *r, struct text t, struct text old, struct text new, int64_t most,
                  struct value *out)
{
    struct sink s = {0};
    size_t at = 0, found = 0;
    bool ok = true;
    if (old.len == 0) return run_refuse(r, "replacing an empty string");
    for (int64_t n = 0; ok && n != most; n++) {
        ok = text_find(r, t, old, at, &found) && run_spend_bytes(r, new.len) &&
             (s.text.len <= JINJA_OUTPUT_MAX || run_spend_bytes(r, s.text.len));
        if (!ok || found == SIZE_MAX) break;
        sink_text(&s, text_part(t, at, found));
        sink_text(&s, new);
        at = found + old.len;
    }
    if (ok) {
        sink_text(&s, text_part(t, at, t.len));
        return sink_value(r, &s, out);
    }
    sink_release(&s);
    return false;
}
