/* The known names nearest to an unknown one. */
#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "site_int.h"

enum { MOST_LETTERS = 48, MOST_HINTS = sizeof ((struct hints *)NULL)->hook / sizeof(enum hook) };

static int letter(char c) { return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c; }

/* Levenshtein distance, capital letters as small ones. */
static unsigned distance(const char *a, size_t n, const char *b, size_t m)
{
    unsigned row[MOST_LETTERS + 1];
    assert(m <= MOST_LETTERS);
    for (size_t j = 0; j <= m; j++) row[j] = (unsigned)j;
    for (size_t i = 0; i < n; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i + 1;
        for (size_t j = 0; j < m; j++) {
            unsigned replaced = diagonal + (letter(a[i]) != letter(b[j]));
            unsigned shorter = row[j] < row[j + 1] ? row[j] + 1 : row[j + 1] + 1;
            diagonal = row[j + 1];
            row[j + 1] = replaced < shorter ? replaced : shorter;
        }
    }
    return row[m];
}

/* "attn.hook_z" is module "attn" and word "z"; people forget the one, the other's prefix, or mistype. */
struct spelling {
    const char *module, *word;
    size_t module_n, word_n;
};

static struct spelling split(const char *text)
{
    const char *dot = strrchr(text, '.'), *word = dot ? dot + 1 : text;
    if (strncmp(word, "hook_", 5) == 0) word += 5;
    return (struct spelling){text, word, dot ? (size_t)(dot - text) : 0, strlen(word)};
}

/* Smaller is nearer: the word first, then the module. UINT_MAX: too far to be meant. */
static unsigned farness(struct spelling typed, const char *name)
{
    struct spelling s = split(name);
    unsigned word = distance(typed.word, typed.word_n, s.word, s.word_n);
    if (word > typed.word_n / 3) return UINT_MAX;
    unsigned module = typed.module_n ? distance(typed.module, typed.module_n, s.module, s.module_n) : s.module_n > 0;
    return word * 2 * MOST_LETTERS + module; /* a module that was left out may be any */
}

struct hints hints_for(const struct arch *a, enum hook_scope scope, const char *typed)
{
    struct hints out = {.n = 0};
    unsigned best = UINT_MAX;
    if (strlen(typed) > MOST_LETTERS) return out;
    for (unsigned h = 0; h < HOOK_COUNT; h++) {
        if (a && (hook_info((enum hook)h)->scope != scope || hook_absent(a, (enum hook)h))) continue;
        unsigned far = farness(split(typed), hook_info((enum hook)h)->spelling);
        if (far > best || far == UINT_MAX) continue;
        if (far < best) out.n = 0;
        best = far;
        if (out.n < MOST_HINTS) out.hook[out.n++] = (enum hook)h;
    }
    return out;
}

bool hints_say(const struct hints *h, const char *what, const char *typed, const char *prefix, struct err *e)
{
    char names[MOST_HINTS * 80] = "";
    size_t used = 0;
    if (!h->n)
        return err_set(e, ERR_INVALID, "unknown %s \"%.100s\"; the hooks are listed at /v1/models/{name}/hooks", what,
                       typed);
    for (size_t i = 0; i < h->n; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s\"%s%s\"",
                                 i == 0 ? "" : i + 1 < h->n ? ", " : " or ", prefix, hook_info(h->hook[i])->spelling);
    return err_set(e, ERR_INVALID, "unknown %s \"%.100s\"; did you mean %s?", what, typed, names);
}
