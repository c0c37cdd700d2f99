#include "lex.h"

#include <string.h>

#include "core/base/json.h"
#include "core/text/codepoint.h"
#include "jinja.h"

struct lexer {
    char *s; /* the source, line ends normalised */
    size_t len, at;
    unsigned line;
    bool line_start; /* the last thing cut off ended a line, or nothing was */
    const unsigned char *ones;
    struct arena *arena, *brief;
    struct token *token;
    size_t n, cap;
    struct err *e;
};

bool is_python_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 0x1C && cp <= 0x20) || cp == 0x85 || cp == 0xA0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

size_t python_space_left(const char *s, size_t len)
{
    size_t at = 0, n;
    uint32_t cp;
    while (at < len && (n = cp_next(s + at, len - at, &cp), is_python_space(cp))) at += n;
    return at;
}

size_t python_space_right(const char *s, size_t len)
{
    size_t end = len, n;
    uint32_t cp;
    while (end && (n = cp_before(s, end, &cp), is_python_space(cp))) end -= n;
    return len - end;
}

static bool fault(struct lexer *l, const char *what)
{
    return err_set(l->e, ERR_UNSUPPORTED, "template, line %u: %s", l->line, what);
}

static struct text span(const struct lexer *l, size_t from, size_t end)
{
    return (struct text){l->s + from, l->ones, end - from};
}

static bool push(struct lexer *l, enum token_type type, unsigned op, struct text text)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 256;
        struct token *grown = arena_take(l->brief, cap, sizeof *grown, l->e);
        if (!grown) return false;
        if (l->n) memcpy(grown, l->token, l->n * sizeof *grown);
        l->token = grown;
        l->cap = cap;
    }
    l->token[l->n++] = (struct token){type, op, l->line, text};
    return true;
}

/* Move on, counting lines. */
static void pass(struct lexer *l, size_t end)
{
    for (; l->at < end; l->at++) l->line += l->s[l->at] == '\n';
    l->line_start = end && l->s[end - 1] == '\n';
}

static bool starts(const struct lexer *l, const char *what)
{
    size_t n = strlen(what);
    return l->len - l->at >= n && memcmp(l->s + l->at, what, n) == 0;
}

/* ---- inside a tag ------------------------------------------------------------------------------ */

static int hex_digit(char c)
{
    const char *digits = "0123456789abcdef", *p = c ? strchr(digits, c | 0x20) : NULL;
    return p ? (int)(p - digits) : -1;
}

/* \xhh, \uhhhh, \Uhhhhhhhh: the digits after the letter. Bytes read, or 0. */
static size_t code_escape(const char *s, size_t left, size_t digits, char out[4], size_t *n)
{
    uint32_t cp = 0;
    if (left < digits) return 0;
    for (size_t i = 0; i < digits; i++) {
        int v = hex_digit(s[i]);
        if (v < 0 || cp > 0xFFFFFFF) return 0;
        cp = cp << 4 | (uint32_t)v;
    }
    if (cp == 0 || cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000)) return 0;
    *n = cp_put(out, cp);
    return digits;
}

/* What follows a backslash, as Python's unicode-escape has it. Bytes read, or 0 when it means
 * something we do not have (\N, octal, surrogates, NUL). */
static size_t escape(const char *s, size_t left, char out[4], size_t *n)
{
    static const char plain[] = "n\nt\tr\rb\bf\fv\va\a\\\\''\"\"";
    *n = 1;
    for (const char *p = plain; *p; p += 2)
        if (*p == *s) {
            out[0] = p[1];
            return 1;
        }
    if (*s == '\n') {
        *n = 0;
        return 1;
    }
    if (*s == 'N' || (*s >= '0' && *s <= '7')) return 0;
    size_t digits = *s == 'x' ? 2 : *s == 'u' ? 4 : *s == 'U' ? 8 : 0;
    if (digits) {
        size_t read = code_escape(s + 1, left - 1, digits, out, n);
        return read ? read + 1 : 0;
    }
    out[0] = '\\'; /* not an escape: the backslash stays */
    out[1] = *s;
    *n = 2;
    return (unsigned char)*s < 0x80 ? 1 : 0;
}

static bool lex_string(struct lexer *l)
{
    char quote = l->s[l->at], *out;
    size_t from = l->at + 1, end = from, n = 0;
    while (end < l->len && l->s[end] != quote) end += l->s[end] == '\\' ? 2 : 1;
    if (end >= l->len) return fault(l, "a string is not closed");
    out = arena_take(l->arena, end - from + 1, 2, l->e);
    if (!out) return false;
    for (size_t i = from; i < end;) {
        char code[4];
        size_t made, read;
        if (l->s[i] != '\\') {
            out[n++] = l->s[i++];
            continue;
        }
        read = escape(l->s + i + 1, end - i - 1, code, &made);
        if (!read) return fault(l, "an escape in a string is not one we have");
        memcpy(out + n, code, made);
        n += made;
        i += read + 1;
    }
    if (!push(l, TOKEN_STRING, 0, (struct text){out, l->ones, n})) return false;
    pass(l, end + 1);
    return true;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_name(char c)
{
    return c == '_' || is_digit(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
}

/* Decimal digits, then perhaps a fraction and an exponent. Other forms are refused. */
static bool lex_number(struct lexer *l)
{
    size_t end = l->at, dot;
    bool real = false;
    while (end < l->len && is_digit(l->s[end])) end++;
    dot = end;
    if (end + 1 < l->len && l->s[end] == '.' && is_digit(l->s[end + 1])) {
        real = true;
        for (end++; end < l->len && is_digit(l->s[end]);) end++;
    }
    size_t digits = end + 1 + (end + 1 < l->len && strchr("+-", l->s[end + 1]));
    if (end + 1 < l->len && (l->s[end] | 0x20) == 'e' && digits < l->len && is_digit(l->s[digits])) {
        real = true;
        for (end = digits; end < l->len && is_digit(l->s[end]);) end++;
    }
    bool leading_zero = !real && dot - l->at > 1 && l->s[l->at] == '0';
    if (leading_zero || (end < l->len && is_name(l->s[end])) || end - l->at > 60)
        return fault(l, "a number is not written in decimal digits");
    if (!push(l, real ? TOKEN_FLOAT : TOKEN_INT, 0, span(l, l->at, end))) return false;
    pass(l, end);
    return true;
}

static bool lex_operator(struct lexer *l, int *open)
{
    static const char two[] = "// ** == != >= <= ", one[] = "+-/*%~[](){}><=.:|,;";
    char c = l->s[l->at], d = l->at + 1 < l->len ? l->s[l->at + 1] : '\0';
    for (const char *p = two; *p && d; p += 3)
        if (p[0] == c && p[1] == d) {
            if (!push(l, TOKEN_OP, OP2(c, d), span(l, l->at, l->at + 2))) return false;
            pass(l, l->at + 2);
            return true;
        }
    if (!c || !strchr(one, c)) return fault(l, "a character in a tag is not one of Jinja's");
    *open += (strchr("([{", c) != NULL) - (strchr(")]}", c) != NULL);
    if (*open < 0) return fault(l, "a bracket is closed that was not opened");
    if (!push(l, TOKEN_OP, (unsigned char)c, span(l, l->at, l->at + 1))) return false;
    pass(l, l->at + 1);
    return true;
}

static bool lex_word(struct lexer *l, int *open)
{
    char c = l->s[l->at];
    if (c == '\'' || c == '"') return lex_string(l);
    if (is_digit(c)) return lex_number(l);
    if (!is_name(c)) return lex_operator(l, open);
    size_t end = l->at;
    while (end < l->len && is_name(l->s[end])) end++;
    if (!push(l, TOKEN_NAME, 0, span(l, l->at, end))) return false;
    pass(l, end);
    return true;
}

/* The end of a tag at this place: its bytes with the white space it takes along, or 0. */
static size_t closing(const struct lexer *l, bool tag)
{
    const char *rest = l->s + l->at;
    size_t left = l->len - l->at;
    if (starts(l, tag ? "-%}" : "-}}")) return 3 + python_space_left(rest + 3, left - 3);
    if (tag && starts(l, "+%}")) return 3;
    if (!starts(l, tag ? "%}" : "}}")) return 0;
    return 2 + (tag && left > 2 && rest[2] == '\n');
}

static bool lex_inside(struct lexer *l, bool tag)
{
    for (int open = 0;;) {
        size_t n;
        pass(l, l->at + python_space_left(l->s + l->at, l->len - l->at));
        if (l->at >= l->len) return fault(l, tag ? "a {% is not closed" : "a {{ is not closed");
        if (!open && (n = closing(l, tag))) {
            bool ok = push(l, tag ? TOKEN_TAG_END : TOKEN_PRINT_END, 0, (struct text){0});
            pass(l, l->at + n);
            return ok;
        }
        if (!lex_word(l, &open)) return false;
    }
}

/* ---- between tags ------------------------------------------------------------------------------ */

static bool lex_comment(struct lexer *l)
{
    const char *end = memmem(l->s + l->at, l->len - l->at, "#}", 2);
    if (!end) return fault(l, "a {# is not closed");
    size_t close = (size_t)(end - l->s), after = close + 2;
    if (close > l->at && l->s[close - 1] == '-') after += python_space_left(l->s + after, l->len - after);
    else if (!(close > l->at && l->s[close - 1] == '+') && after < l->len && l->s[after] == '\n')
        after++;
    pass(l, after);
    return true;
}

/* What is left of the text before a mark. */
static size_t kept(const struct lexer *l, size_t from, size_t end, char sign, bool print)
{
    size_t line = end;
    if (sign == '-') return end - python_space_right(l->s + from, end - from);
    if (sign == '+' || print) return end;
    while (line > from && l->s[line - 1] != '\n') line--;
    bool begins = line > from || l->line_start;
    return begins && python_space_left(l->s + line, end - line) == end - line ? line : end;
}

static bool put_text(struct lexer *l, size_t from, size_t end)
{
    return from == end || push(l, TOKEN_TEXT, 0, span(l, from, end));
}

/* Text up to the next mark, and the mark. */
static bool lex_piece(struct lexer *l)
{
    size_t from = l->at, at = from;
    while (at + 1 < l->len && !(l->s[at] == '{' && strchr("{%#", l->s[at + 1]))) at++;
    if (at + 1 >= l->len) {
        bool ok = put_text(l, from, l->len);
        pass(l, l->len);
        return ok;
    }
    char mark = l->s[at + 1], sign = at + 2 < l->len ? l->s[at + 2] : '\0';
    if (sign != '-' && sign != '+') sign = '\0';
    if (!put_text(l, from, kept(l, from, at, sign, mark == '{'))) return false;
    pass(l, at + 2 + (sign != '\0'));
    if (mark == '#') return lex_comment(l);
    bool tag = mark == '%';
    return push(l, tag ? TOKEN_TAG : TOKEN_PRINT, 0, (struct text){0}) && lex_inside(l, tag);
}

/* "\r\n" and "\r" become "\n"; one at the very end is dropped. */
static bool normalise(struct lexer *l, const char *source, size_t len)
{
    l->s = arena_take(l->arena, len + 1, 1, l->e);
    unsigned char *ones = l->s ? arena_take(l->arena, 2 * len + 64, 1, l->e) : NULL;
    if (!ones) return false;
    memset(ones, 1, 2 * len + 64);
    l->ones = ones;
    for (size_t i = 0; i < len; i++) {
        if (source[i] == '\r' && i + 1 < len && source[i + 1] == '\n') continue;
        l->s[l->len++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (l->len && l->s[l->len - 1] == '\n') l->len--;
    return true;
}

bool jinja_lex(const char *source, size_t len, struct arena *keep, struct arena *brief,
         struct token **tokens, struct err *e)
{
    struct lexer l = {.line = 1, .line_start = true, .arena = keep, .brief = brief, .e = e};
    size_t bad;
    if (len > JINJA_TEXT_MAX)
        return err_set(e, ERR_TOO_LARGE, "a template of %zu bytes, more than %d", len, JINJA_TEXT_MAX);
    if (!utf8_valid(source, len, &bad))
        return err_set(e, ERR_CORRUPT, "the template is not UTF-8 at byte %zu", bad);
    if (!normalise(&l, source, len)) return false;
    while (l.at < l.len)
        if (!lex_piece(&l)) return false;
    if (!push(&l, TOKEN_END, 0, (struct text){0})) return false;
    *tokens = l.token;
    return true;
}
