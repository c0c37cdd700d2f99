#include "match.h"

#include <string.h>

#include "core/text/codepoint.h"
#include "core/text/nfc.h"

static bool is_edge(uint32_t cp) { return is_white_space(cp) || is_punctuation(cp); }

typedef bool edge_fn(uint32_t cp);

/* Narrow [*from, *to) to what is left without edges. */
static void trim(const char *text, edge_fn *edge, size_t *from, size_t *to)
{
    size_t first = *to, last = *from;
    for (size_t at = *from; at < *to;) {
        uint32_t cp;
        size_t n = cp_next(text + at, *to - at, &cp);
        if (!edge(cp)) {
            if (first > at) first = at;
            last = at + n;
        }
        at += n;
    }
    *from = first < last ? first : last;
    *to = last;
}

/* A model may well say bytes that are no text: those are repaired first, and match nothing sane. */
static bool form(const char *text, size_t len, edge_fn *edge, struct buf *out, struct err *e)
{
    struct buf sound = {0}, folded = {0};
    size_t from = 0, to;
    utf8_repair(text, len, &sound);
    bool ok = buf_ok(&sound, e) && nfc_casefold(sound.data, sound.len, &folded, e);
    to = folded.len;
    if (ok && folded.len) {
        trim(folded.data, edge, &from, &to);
        buf_put(out, folded.data + from, to - from);
        ok = buf_ok(out, e);
    }
    buf_release(&sound);
    buf_release(&folded);
    return ok;
}

/* The answer goes on with something that is no part of a word (a symbol, say), or ends. */
static bool word_ends(const char *text, size_t len)
{
    uint32_t cp;
    if (len == 0) return true;
    (void)cp_next(text, len, &cp);
    return is_edge(cp) || !cp_word(cp);
}

static bool form_target(const char *target, size_t len, struct buf *out, bool *marks, struct err *e)
{
    if (!form(target, len, is_edge, out, e)) return false;
    *marks = out->len == 0; /* it is nothing but punctuation */
    return !*marks || form(target, len, is_white_space, out, e);
}

bool target_holds(const char *target, size_t len, const char *text, bool *holds, struct err *e)
{
    struct buf t = {0};
    bool marks, ok = form_target(target, len, &t, &marks, e);
    *holds = ok && t.len && memmem(t.data, t.len, text, strlen(text));
    buf_release(&t);
    return ok;
}

bool answer_match(const char *answer, size_t answer_len, const char *target, size_t target_len,
                  struct match *out, struct err *e)
{
    struct buf a = {0}, t = {0};
    bool marks = false, ok = form_target(target, target_len, &t, &marks, e);
    ok = ok && form(answer, answer_len, marks ? is_white_space : is_edge, &a, e);
    *out = (struct match){0};
    if (ok && t.len && a.len >= t.len && memcmp(a.data, t.data, t.len) == 0) {
        out->match = a.len == t.len;
        out->prefix_match = marks || word_ends(a.data + t.len, a.len - t.len);
    }
    buf_release(&a);
    buf_release(&t);
    return ok;
}
