/* str(), repr() and json.dumps() of values, as Python has them. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/json_write.h"
#include "core/text/codepoint.h"
#include "state.h"

static bool print_real(struct run *r, double v, struct sink *out)
{
    char text[40];
    if (!isfinite(v) || fabs(v) >= 1e16 || (v != 0 && fabs(v) < 1e-4)) /* where repr uses exponents */
        return run_refuse(r, "printing a float as large or small as this");
    f64_text(v, text);
    if (!strchr(text, '.')) strcat(text, ".0");
    sink_own(out, text);
    return true;
}

static bool print_number(struct run *r, const struct value *v, struct sink *out)
{
    char text[32];
    if (v->type == V_FLOAT) return print_real(r, v->number, out);
    if (v->type == V_BOOL) (void)snprintf(text, sizeof text, v->truth ? "True" : "False");
    else (void)snprintf(text, sizeof text, "%" PRId64, v->integer);
    sink_own(out, text);
    return true;
}

enum { A_PIECE = 32 }; /* a number, a bracket, what stands between two values */

/* An escape that stands for one byte of t, of that byte's origin. */
static void put_escape(struct sink *out, const char *escape, unsigned char own)
{
    for (; *escape; escape++) {
        buf_put(&out->text, escape, 1);
        buf_put(&out->own, &own, 1);
    }
}

static bool print_quoted(struct run *r, struct text t, struct sink *out)
{
    const char *quote = memchr(t.s, '\'', t.len) && !memchr(t.s, '"', t.len) ? "\"" : "'";
    sink_own(out, quote);
    for (size_t i = 0; i < t.len; i++) {
        static const char escapes[] = "\\\\\nn\rr\tt";
        char code[8] = {t.s[i]};
        unsigned char c = (unsigned char)t.s[i];
        if (c >= 0x80) return run_refuse(r, "printing a list or dict with letters outside ASCII");
        for (const char *p = escapes; *p; p += 2)
            if (*p == t.s[i]) code[0] = '\\', code[1] = p[1];
        if (t.s[i] == *quote) code[0] = '\\', code[1] = *quote;
        if (!code[1] && (c < 0x20 || c == 0x7F)) (void)snprintf(code, sizeof code, "\\x%02x", c);
        put_escape(out, code, t.own[i]);
    }
    sink_own(out, quote);
    return run_spend_bytes(r, out->text.len);
}

static bool represent(struct run *r, const struct value *v, struct sink *out);

static bool print_list(struct run *r, const struct list *l, struct sink *out)
{
    if (l->kind > TUPLE) return run_refuse(r, "printing a list that is not a plain one");
    sink_own(out, l->kind == TUPLE ? "(" : "[");
    for (size_t i = 0; i < l->n; i++) {
        if (i) sink_own(out, ", ");
        if (!represent(r, &l->item[i], out)) return false;
    }
    sink_own(out, l->kind == LIST ? "]" : l->n == 1 ? ",)" : ")");
    return true;
}

static bool print_dict(struct run *r, const struct dict *d, struct sink *out)
{
    sink_own(out, "{");
    for (size_t i = 0; i < d->n; i++) {
        if (i) sink_own(out, ", ");
        if (!represent(r, &d->pair[i].key, out)) return false;
        sink_own(out, ": ");
        if (!represent(r, &d->pair[i].value, out)) return false;
    }
    sink_own(out, "}");
    return true;
}

static bool represent(struct run *r, const struct value *v, struct sink *out)
{
    if (!run_spend_on(r, out, A_PIECE) || !run_enter(r)) return false;
    bool ok;
    switch (v->type) {
    case V_TEXT: ok = v->markup ? run_refuse(r, "printing a list with a string marked safe")
                                : print_quoted(r, v->text, out); break;
    case V_LIST: ok = print_list(r, v->list, out); break;
    case V_DICT: ok = print_dict(r, v->dict, out); break;
    case V_UNDEFINED: ok = run_refuse_type(r, "printing, inside a list,", v); break;
    default: ok = value_print(r, v, out);
    }
    run_leave(r);
    return ok;
}

bool value_print(struct run *r, const struct value *v, struct sink *out)
{
    switch (v->type) {
    case V_UNDEFINED: return true;
    case V_NONE: sink_own(out, "None"); return true;
    case V_BOOL:
    case V_INT:
    case V_FLOAT: return print_number(r, v, out);
    case V_TEXT:
        sink_text(out, v->text);
        return run_spend_bytes(r, v->text.len) &&
               (out->text.len <= JINJA_OUTPUT_MAX || run_spend_bytes(r, out->text.len));
    case V_LIST:
    case V_DICT: return represent(r, v, out);
    default: return run_refuse_type(r, "printing", v);
    }
}

bool value_as_text(struct run *r, const struct value *v, struct text *out)
{
    struct sink s = {0};
    struct value made;
    if (is_text(v)) {
        *out = v->text;
        return !v->markup || run_refuse(r, "a filter or method on a string marked safe");
    }
    if (!value_print(r, v, &s)) {
        sink_release(&s);
        return false;
    }
    if (!sink_value(r, &s, &made)) return false;
    *out = made.text;
    return true;
}

/* ---- JSON -------------------------------------------------------------------------------------- */

struct json_style {
    int64_t indent; /* < 0: on one line */
    bool ascii;
};

static void put_code(struct sink *out, uint32_t cp, unsigned char own)
{
    char code[16];
    if (cp < 0x10000) (void)snprintf(code, sizeof code, "\\u%04x", cp);
    else (void)snprintf(code, sizeof code, "\\u%04x\\u%04x", 0xD7C0 + (cp >> 10), 0xDC00 + (cp & 0x3FF));
    put_escape(out, code, own);
}

static bool json_string(struct run *r, struct text t, bool ascii, struct sink *out)
{
    sink_own(out, "\"");
    for (size_t i = 0, n; i < t.len; i += n) {
        static const char escapes[] = "\"\"\\\\\nn\rr\tt\ff\bb";
        uint32_t cp;
        char code[3] = "";
        n = cp_next(t.s + i, t.len - i, &cp);
        for (const char *p = escapes; *p; p += 2)
            if ((uint32_t)*p == cp) code[0] = '\\', code[1] = p[1];
        if (code[0]) put_escape(out, code, t.own[i]);
        else if (cp < 0x20 || (ascii && cp >= 0x7F)) put_code(out, cp, t.own[i]);
        else sink_text(out, text_part(t, i, i + n));
    }
    sink_own(out, "\"");
    return run_spend_bytes(r, out->text.len);
}

static bool json_any(struct run *r, const struct value *v, const struct json_style *style, unsigned level,
                     struct sink *out);

/* An indent is as much text as any. */
static bool json_line(struct run *r, const struct json_style *style, unsigned level, struct sink *out)
{
    if (style->indent < 0) return true;
    size_t spaces = (size_t)style->indent * level;
    if (!run_spend_on(r, out, spaces + 1)) return false;
    sink_own(out, "\n");
    for (size_t i = 0; i < spaces; i++) sink_own(out, " ");
    return true;
}

static bool json_key(struct run *r, const struct value *key, const struct json_style *style, struct sink *out)
{
    if (!is_text(key)) return run_refuse_type(r, "a JSON key in the form", key);
    if (!json_string(r, key->text, style->ascii, out)) return false;
    sink_own(out, ": ");
    return true;
}

/* Of a list, or of a dict with its keys. */
static bool json_members(struct run *r, const struct value *v, const struct json_style *style, unsigned level,
                         struct sink *out)
{
    bool dict = v->type == V_DICT;
    size_t n = dict ? v->dict->n : v->list->n;
    if (!dict && v->list->kind > TUPLE) return run_refuse(r, "the JSON of a list that is not a plain one");
    sink_own(out, dict ? "{" : "[");
    for (size_t i = 0; i < n; i++) {
        if (i) sink_own(out, style->indent < 0 ? ", " : ",");
        if (!json_line(r, style, level + 1, out)) return false;
        if (dict && !json_key(r, &v->dict->pair[i].key, style, out)) return false;
        if (!json_any(r, dict ? &v->dict->pair[i].value : &v->list->item[i], style, level + 1, out)) return false;
    }
    if (n && !json_line(r, style, level, out)) return false;
    sink_own(out, dict ? "}" : "]");
    return true;
}

static bool json_any(struct run *r, const struct value *v, const struct json_style *style, unsigned level,
                     struct sink *out)
{
    if (!run_spend_on(r, out, A_PIECE) || !run_enter(r)) return false;
    bool ok = true;
    switch (v->type) {
    case V_NONE: sink_own(out, "null"); break;
    case V_BOOL: sink_own(out, v->truth ? "true" : "false"); break;
    case V_INT:
    case V_FLOAT: ok = print_number(r, v, out); break;
    case V_TEXT: ok = json_string(r, v->text, style->ascii, out); break;
    case V_LIST:
    case V_DICT: ok = json_members(r, v, style, level, out); break;
    default: ok = run_refuse_type(r, "the JSON", v);
    }
    run_leave(r);
    return ok;
}

bool value_json(struct run *r, const struct value *v, int64_t indent, bool ascii, struct sink *out)
{
    const struct json_style style = {indent, ascii};
    if (indent > 64) return run_refuse(r, "JSON indented by %" PRId64, indent);
    return json_any(r, v, &style, 0, out);
}
