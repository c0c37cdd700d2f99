#include "spans.h"

#include <stdio.h>
#include <string.h>

/* ---- what a span may be ------------------------------------------------------------------------------- */

static bool ends_in(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);
    return n > k && strcmp(name + n - k, end) == 0;
}

static bool check_name(const char *name, const char *field, struct err *e)
{
    static const char *const ours[] = {"last", "all", "subject"};
    if (!*name || strlen(name) >= NAME_TEXT) return err_field(e, ERR_INVALID, field, "a span's name has 1 to %d bytes", NAME_TEXT - 1);
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (strcmp(ours[i], name) == 0) return err_field(e, ERR_INVALID, field, "\"%s\" is built in", name);
    return !(ends_in(name, "_first") || ends_in(name, "_last")) ||
           err_field(e, ERR_INVALID, field, "a name may not end in _first or _last, which name tokens of a span");
}

static bool check_text(const struct json *text, const char *field, struct err *e)
{
    return (text && text->type == JSON_STRING && text->len > 0) ||
           err_field(e, ERR_INVALID, field, "a text of at least one character");
}

static bool check_object(const struct json *v, const char *field, struct err *e)
{
    for (const struct json *m = v->child; m; m = m->next)
        if (strcmp(m->key, "text") != 0 && strcmp(m->key, "occurrence") != 0)
            return err_field(e, ERR_INVALID, field, "unknown member \"%.64s\"; a span has text and occurrence", m->key);
    const struct json *nth = json_get(v, "occurrence");
    if (nth && !(nth->type == JSON_NUMBER && nth->is_int && nth->integer >= 1))
        return err_field(e, ERR_INVALID, field, "occurrence counts from 1");
    return check_text(json_get(v, "text"), field, e);
}

static bool check_range(const struct json *v, const char *field, struct err *e)
{
    const struct json *from = v->child, *to = from ? from->next : NULL;
    bool good = v->len == 2 && from->type == JSON_NUMBER && to->type == JSON_NUMBER && from->is_int && to->is_int &&
                from->integer >= 0 && from->integer < to->integer;
    return good || err_field(e, ERR_INVALID, field, "a range is [from, to) in characters, from 0 and below to");
}

bool spans_check(const struct json *spans, const char *field, struct err *e)
{
    for (const struct json *v = spans ? spans->child : NULL; v; v = v->next) {
        char name[256];
        (void)snprintf(name, sizeof name, "%.100s.%.120s", field, v->key);
        bool ok = check_name(v->key, name, e);
        if (ok && v->type == JSON_OBJECT) ok = check_object(v, name, e);
        else if (ok && v->type == JSON_ARRAY) ok = check_range(v, name, e);
        else if (ok) ok = check_text(v, name, e);
        if (!ok) return false;
    }
    return true;
}

/* ---- where it lies in the text -------------------------------------------------------------------------- */

/* The byte where character n begins; SIZE_MAX beyond the end. */
static size_t byte_of(const struct input *in, int64_t n)
{
    size_t at = 0;
    for (; n > 0 && at < in->text_len; n--) {
        at++;
        while (at < in->text_len && ((unsigned char)in->text[at] & 0xC0) == 0x80) at++;
    }
    return n > 0 ? SIZE_MAX : at;
}

static bool find_text(const struct input *in, const struct json *text, int64_t nth, const char *field, struct offset *out,
                      struct err *e)
{
    const char *at = in->text;
    int64_t seen = 0;
    while ((at = memmem(at, (size_t)(in->text + in->text_len - at), text->text, text->len)) && ++seen < nth) at++;
    if (!at)
        return err_field(e, ERR_INVALID, field, "\"%.64s\" occurs %lld times in the text, not %lld", text->text, (long long)seen,
                         (long long)nth);
    *out = (struct offset){(size_t)(at - in->text), (size_t)(at - in->text) + text->len};
    return true;
}

static bool find_bytes(const struct input *in, const struct json *v, const char *field, struct offset *out, struct err *e)
{
    if (v->type == JSON_STRING) return find_text(in, v, 1, field, out, e);
    if (v->type == JSON_OBJECT) {
        const struct json *nth = json_get(v, "occurrence");
        return find_text(in, json_get(v, "text"), nth ? nth->integer : 1, field, out, e);
    }
    *out = (struct offset){byte_of(in, v->child->integer), byte_of(in, v->child->next->integer)};
    return out->to != SIZE_MAX || err_field(e, ERR_INVALID, field, "the text ends before character %lld",
                                            (long long)v->child->next->integer);
}

/* ---- and in the tokens ---------------------------------------------------------------------------------- */

static bool tokens_of(const struct model *m, const struct input *in, struct offset bytes, const char *field, uint32_t *from,
                      uint32_t *to, struct err *e)
{
    size_t skip = in->bos_added;
    struct offset *at = mem_take(in->n - skip + 1, sizeof *at, e);
    if (!at) return false;
    bool ok = tokenizer_offsets(m->tokenizer, in->text, in->text_len, in->ids + skip, in->n - skip, at, e);
    *from = *to = 0;
    for (size_t i = 0; ok && i < in->n - skip; i++) {
        if (at[i].from >= bytes.to || at[i].to <= bytes.from) continue;
        if (!*to) *from = (uint32_t)(i + skip);
        *to = (uint32_t)(i + skip + 1);
    }
    mem_drop(at);
    if (ok && *to) return true;
    if (ok) return err_field(e, ERR_INVALID, field, "no token of the input has any of it");
    if (!e->field[0]) (void)snprintf(e->field, sizeof e->field, "%s", field);
    return false;
}

/* The span called name[0..n), or NULL. */
static const struct json *named(const struct json *of, const char *name, size_t n)
{
    const struct json *subject = json_get(of, "subject"), *spans = json_get(of, "spans");
    if (subject && n == strlen("subject") && memcmp(name, "subject", n) == 0) return subject;
    for (const struct json *v = spans ? spans->child : NULL; v; v = v->next)
        if (v->key_len == n && memcmp(v->key, name, n) == 0) return v;
    return NULL;
}

static bool unknown(const struct json *of, const char *name, const char *field, struct err *e)
{
    struct buf known = {0};
    const struct json *spans = json_get(of, "spans");
    buf_text(&known, "last, all");
    if (json_get(of, "subject")) buf_text(&known, ", subject");
    for (const struct json *v = spans ? spans->child : NULL; v && known.len < 300; v = v->next) buf_printf(&known, ", %.64s", v->key);
    (void)err_field(e, ERR_INVALID, field, "there is no span \"%.64s\"; there are %s", name, known.failed ? "others" : known.data);
    buf_release(&known);
    return false;
}

bool span_tokens(const struct model *m, const struct input *in, const struct json *of, const char *name, const char *field,
                 uint32_t *from, uint32_t *to, struct err *e)
{
    static const char *const ends[] = {"", "_first", "_last"};
    const struct json *v = NULL;
    struct offset bytes = {0, 0};
    size_t n = strlen(name), end = 0;
    *from = strcmp(name, "last") == 0 ? (uint32_t)in->n - 1 : 0;
    *to = (uint32_t)in->n;
    if (strcmp(name, "last") == 0 || strcmp(name, "all") == 0) return true;
    for (; !v && end < 3; end++)
        if (!end || ends_in(name, ends[end])) v = named(of, name, n - strlen(ends[end]));
    if (!v) return unknown(of, name, field, e);
    if (!in->text) return err_field(e, ERR_INVALID, field, "an input of ids has no text that a span could be part of");
    if (!find_bytes(in, v, field, &bytes, e) || !tokens_of(m, in, bytes, field, from, to, e)) return false;
    if (end == 2) *to = *from + 1;
    if (end == 3) *from = *to - 1;
    return true;
}
