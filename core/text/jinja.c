#include "jinja.h"

#include <string.h>

struct reader {
    struct jinja *j;
    const char *at;
    struct buf text; /* literal output not yet a step */
};

void jinja_release(struct jinja *j)
{
    for (size_t i = 0; i < j->n; i++) mem_drop(j->step[i].text);
    *j = (struct jinja){0};
}

static bool push(struct jinja *j, enum step_kind kind, struct buf *text)
{
    if (j->n == JINJA_STEPS || text->failed) return false;
    j->step[j->n++] = (struct jinja_step){kind, buf_detach(text)};
    return true;
}

static bool flush_text(struct reader *r)
{
    return r->text.len == 0 || push(r->j, STEP_TEXT, &r->text);
}

static bool is_name(char c)
{
    return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* A quoted literal at r->at, its escapes resolved, appended to out. */
static bool read_string(struct reader *r, struct buf *out)
{
    static const char escapes[] = "n\nt\t\\\\'\'\"\"";
    char quote = *r->at++;
    for (; *r->at && *r->at != quote; r->at++) {
        char c = *r->at;
        if (c == '\\') {
            const char *known = NULL;
            for (const char *p = escapes; *p; p += 2)
                if (*p == r->at[1]) known = p + 1;
            if (!known) return false;
            c = *known;
            r->at++;
        }
        buf_put(out, &c, 1);
    }
    if (*r->at != quote) return false;
    r->at++;
    return true;
}

/* Where a tag or output ends: "%}", "-%}", "}}" or "-}}". */
static const char *closes(const char *at, char mark)
{
    if (*at == '-') at++;
    return at[0] == mark && at[1] == '}' ? at : NULL;
}

/* a['name'] as a . name; any other string keeps its quotes. `out` ends with "[" before a key. */
static bool put_string(struct reader *r, struct buf *out)
{
    struct buf s = {0};
    bool ok = read_string(r, &s) && !s.failed;
    const char *next = r->at;
    while (*next == ' ') next++;
    bool key = ok && s.len && out->len > 2 && memcmp(out->data + out->len - 2, " [", 2) == 0 &&
               *next == ']';
    for (size_t i = 0; key && i < s.len; i++) key = is_name(s.data[i]);
    if (key) {
        out->len--;
        buf_printf(out, ". %s", s.data);
        r->at = next + 1;
    } else if (ok) {
        ok = !memchr(s.data ? s.data : "", '\'', s.len);
        buf_printf(out, "%s'%s'", out->len ? " " : "", s.data ? s.data : "");
    }
    buf_release(&s);
    return ok;
}

static bool put_token(struct reader *r, struct buf *out)
{
    if (*r->at == '\'' || *r->at == '"') return put_string(r, out);
    size_t n = 1;
    if (is_name(*r->at))
        while (is_name(r->at[n])) n++;
    else if (strchr("=!<>", *r->at) && r->at[1] == '=')
        n = 2;
    if (out->len) buf_put(out, " ", 1);
    buf_put(out, r->at, n);
    r->at += n;
    return true;
}

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t'; }

/* The tokens up to the closing mark, or for an output up to a `+`. */
static bool read_operand(struct reader *r, char mark, struct buf *out)
{
    for (;;) {
        while (is_space(*r->at)) r->at++;
        if (closes(r->at, mark)) return true;
        if (*r->at == '+' && mark == '}') return true;
        if (*r->at == '\0' || !put_token(r, out)) return false;
    }
}

static bool read_tag(struct reader *r)
{
    struct buf tag = {0};
    bool ok = flush_text(r) && read_operand(r, '%', &tag) && tag.len && push(r->j, STEP_TAG, &tag);
    buf_release(&tag);
    return ok;
}

/* One operand: a lone string literal is text, anything else a value. */
static bool read_value(struct reader *r)
{
    while (is_space(*r->at)) r->at++;
    const char *from = r->at;
    size_t had = r->text.len;
    if ((*from == '\'' || *from == '"') && read_string(r, &r->text)) {
        while (is_space(*r->at)) r->at++;
        if (closes(r->at, '}') || *r->at == '+') return true;
    }
    r->at = from;
    r->text.len = had;
    struct buf value = {0};
    bool ok = read_operand(r, '}', &value) && value.len && flush_text(r) &&
              push(r->j, STEP_VALUE, &value);
    buf_release(&value);
    return ok;
}

static bool read_output(struct reader *r)
{
    for (;;) {
        if (!read_value(r)) return false;
        if (*r->at != '+') return true;
        r->at++;
    }
}

/* What "{%-" and lstrip_blocks take from the text before a tag. */
static size_t trimmed(const char *from, size_t n, bool minus, bool tag)
{
    size_t left = n;
    if (minus)
        while (left && is_space(from[left - 1])) left--;
    if (minus || !tag) return left;
    while (left && (from[left - 1] == ' ' || from[left - 1] == '\t')) left--;
    return left == 0 || from[left - 1] == '\n' ? left : n;
}

/* One {% … %} or {{ … }} and the white space that goes with it. */
static bool read_mark(struct reader *r, bool at_line_start, const char *from)
{
    bool tag = r->at[1] == '%', minus = r->at[2] == '-';
    size_t n = (size_t)(r->at - from), keep = trimmed(from, n, minus, tag);
    if (keep == 0 && !minus && !at_line_start) keep = n; /* the line began with an output */
    if (minus && keep && (from[keep - 1] & 0x80)) return false; /* may be a wide blank */
    buf_put(&r->text, from, keep);
    r->at += minus ? 3 : 2;
    if (!(tag ? read_tag(r) : read_output(r))) return false;
    bool after = *r->at == '-';
    r->at += after ? 3 : 2;
    if (after) {
        while (is_space(*r->at)) r->at++;
        if (*r->at & 0x80) return false;
    } else if (tag && *r->at == '\n')
        r->at++;
    return true;
}

static bool read_all(struct reader *r)
{
    bool line_start = true;
    const char *from = r->at;
    while (*r->at) {
        if (strchr("\r\v\f", *r->at) || (r->at[0] == '{' && r->at[1] == '#')) return false;
        if (r->at[0] != '{' || (r->at[1] != '%' && r->at[1] != '{')) {
            r->at++;
            continue;
        }
        if (r->at[2] == '+') return false;
        if (!read_mark(r, line_start, from)) return false;
        line_start = r->at[-1] == '\n';
        from = r->at;
    }
    size_t n = (size_t)(r->at - from);
    if (n && from[n - 1] == '\n') n--; /* Jinja drops the template's last newline */
    buf_put(&r->text, from, n);
    return flush_text(r) && !r->text.failed;
}

bool jinja_read(struct jinja *j, const char *template_text, struct err *e)
{
    *j = (struct jinja){0};
    struct reader r = {.j = j, .at = template_text};
    j->readable = read_all(&r);
    bool failed = r.text.failed;
    buf_release(&r.text);
    if (!failed) return true;
    jinja_release(j);
    return err_set(e, ERR_NO_MEMORY, "no memory for a chat template");
}
