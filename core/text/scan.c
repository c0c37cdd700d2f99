#include "scan.h"

enum { WORDLESS = CLASS_LETTER | CLASS_NUMBER | CLASS_SPACE }; /* what "other" is none of */

/* The class of the character at `at` < len, and where the next one begins. */
static inline unsigned look(const struct scan *s, size_t at, size_t *next)
{
    unsigned char c = (unsigned char)s->text[at];
    if (c < 0x80) {
        *next = at + 1;
        return s->class_of[c];
    }
    uint32_t cp;
    *next = at + cp_next(s->text + at, s->len - at, &cp);
    return s->class_of[cp];
}

/* Past the characters from `at` on that have one of the flags `any`. */
static inline size_t run_of(const struct scan *s, size_t at, unsigned any)
{
    for (size_t next; at < s->len && (look(s, at, &next) & any); at = next)
        continue;
    return at;
}

static inline size_t run_of_others(const struct scan *s, size_t at)
{
    for (size_t next; at < s->len && !(look(s, at, &next) & WORDLESS); at = next)
        continue;
    return at;
}

static inline bool is_other(const struct scan *s, size_t at)
{
    size_t next;
    return at < s->len && !(look(s, at, &next) & WORDLESS);
}

static inline bool is_any(const struct scan *s, size_t at, unsigned any)
{
    size_t next;
    return at < s->len && (look(s, at, &next) & any);
}

/* 's 't 're 've 'm 'll 'd at an apostrophe: the end, or `at`. */
static size_t contraction(const struct scan *s, size_t at)
{
    const char *c = s->text + at + 1;
    size_t left = s->len - at - 1;
    if (left >= 1 && (*c == 's' || *c == 't' || *c == 'm' || *c == 'd')) return at + 2;
    if (left >= 2 && (((*c == 'r' || *c == 'v') && c[1] == 'e') || (*c == 'l' && c[1] == 'l')))
        return at + 3;
    return at;
}

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c; }

/* The same in any case; the long s, U+017F, folds to an s. */
static size_t contraction_any_case(const struct scan *s, size_t at)
{
    const char *c = s->text + at + 1;
    size_t left = s->len - at - 1;
    char a = left >= 1 ? lower(c[0]) : '\0', b = left >= 2 ? lower(c[1]) : '\0';
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return at + 2;
    if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l')) return at + 3;
    return a == '\xC5' && b == '\xBF' ? at + 3 : at;
}

/* \s+(?!\S)|\s+ on the blanks [at, end): all of them at the end of the text, else all but the
 * last, which belongs to what follows, unless it is the only one. */
static size_t blanks(const struct scan *s, size_t at, size_t end)
{
    uint32_t cp;
    if (end == s->len) return end;
    size_t last = end - cp_before(s->text, end, &cp);
    return last > at ? last : end;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t blanks_and_lines(const struct scan *s, size_t at)
{
    size_t end = at, line = at;
    for (size_t next; end < s->len; end = next) {
        unsigned c = look(s, end, &next);
        if (!(c & CLASS_SPACE)) break;
        if (c & CLASS_NEWLINE) line = next;
    }
    return line > at ? line : blanks(s, at, end);
}

size_t scan_gpt2(const struct scan *s, size_t at)
{
    size_t next, from = at;
    unsigned c = look(s, at, &next);
    if (s->text[at] == '\'') {
        size_t end = contraction(s, at);
        if (end > at) return end;
    }
    if (s->text[at] == ' ' && next < s->len) {
        from = next;
        c = look(s, from, &next);
    }
    if (c & CLASS_LETTER) return run_of(s, next, CLASS_LETTER);
    if (c & CLASS_NUMBER) return run_of(s, next, CLASS_NUMBER);
    if (!(c & CLASS_SPACE)) return run_of_others(s, next);
    return blanks(s, at, run_of(s, next, CLASS_SPACE));
}

/* What LLAMA3 and QWEN2 share: all but how many digits go together. */
static size_t words(const struct scan *s, size_t at, int digits)
{
    size_t next, end = at;
    unsigned c = look(s, at, &next);
    if (s->text[at] == '\'' && (end = contraction_any_case(s, at)) > at) return end;
    if (c & CLASS_LETTER) return run_of(s, next, CLASS_LETTER);
    if (c & CLASS_NUMBER) {
        for (int i = 1; i < digits && is_any(s, next, CLASS_NUMBER); i++) (void)look(s, next, &next);
        return next;
    }
    if (!(c & CLASS_NEWLINE) && is_any(s, next, CLASS_LETTER)) return run_of(s, next, CLASS_LETTER);
    size_t other = s->text[at] == ' ' ? next : at;
    if (is_other(s, other)) return run_of(s, run_of_others(s, other), CLASS_NEWLINE);
    return blanks_and_lines(s, at);
}

size_t scan_llama3(const struct scan *s, size_t at) { return words(s, at, 3); }
size_t scan_qwen2(const struct scan *s, size_t at) { return words(s, at, 1); }

/* [HEAD]*[TAIL]+ from `at`: the end, or `at`. The heads are taken first; when no tail follows them
 * the last head that is a tail as well is given back to be one. */
static size_t heads_then_tails(const struct scan *s, size_t at)
{
    size_t end = at, both = at;
    for (size_t next; end < s->len; end = next) {
        unsigned c = look(s, end, &next);
        if (!(c & CLASS_HEAD)) break;
        if (c & CLASS_TAIL) both = next;
    }
    size_t tails = run_of(s, end, CLASS_TAIL);
    return tails > end ? tails : both;
}

/* [HEAD]+[TAIL]* */
static size_t heads(const struct scan *s, size_t at)
{
    size_t end = run_of(s, at, CLASS_HEAD);
    return end > at ? run_of(s, end, CLASS_TAIL) : at;
}

/* A word by its capitals, with at most one character before it that is no letter, number or line
 * end: the end, or `at`. */
static size_t cased_word(const struct scan *s, size_t at)
{
    size_t next, end;
    unsigned c = look(s, at, &next);
    bool lead = !(c & (CLASS_NEWLINE | CLASS_LETTER | CLASS_NUMBER));
    if (lead && (end = heads_then_tails(s, next)) > next) return end;
    if ((end = heads_then_tails(s, at)) > at) return end;
    if (lead && (end = heads(s, next)) > next) return end;
    return heads(s, at);
}

/* What follows the words in GPT4O and TEKKEN. */
static size_t cased_rest(const struct scan *s, size_t at, int digits)
{
    size_t next;
    if (look(s, at, &next) & CLASS_NUMBER) {
        for (int i = 1; i < digits && is_any(s, next, CLASS_NUMBER); i++) (void)look(s, next, &next);
        return next;
    }
    size_t other = s->text[at] == ' ' ? next : at;
    if (!is_other(s, other)) return blanks_and_lines(s, at);
    size_t end = run_of_others(s, other);
    while (end < s->len && (s->text[end] == '\r' || s->text[end] == '\n' || s->text[end] == '/')) end++;
    return end;
}

size_t scan_gpt4o(const struct scan *s, size_t at)
{
    size_t end = cased_word(s, at);
    if (end == at) return cased_rest(s, at, 3);
    return end < s->len && s->text[end] == '\'' ? contraction_any_case(s, end) : end;
}

size_t scan_tekken(const struct scan *s, size_t at)
{
    size_t end = cased_word(s, at);
    return end > at ? end : cased_rest(s, at, 1);
}
