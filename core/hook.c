#include "hook.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

/* ---- the table ------------------------------------------------------------------------------------ */

enum need {
#define NEED(name, condition, why) NEED_##name,
#include "hook_need.def"
#undef NEED
    NEED_COUNT
};

static const char *const reasons[] = {
#define NEED(name, condition, why) why,
#include "hook_need.def"
#undef NEED
};
static_assert(sizeof reasons / sizeof *reasons == NEED_COUNT, "one reason per need");

enum { ACCESS_READ, ACCESS_WRITE };

static const struct hook_info infos[] = {
#define HOOK(name, spelling, scope, axis, width, need, access, what)                               \
    {spelling, SCOPE_##scope, AXIS_##axis, ACCESS_##access == ACCESS_WRITE, what},
#include "hook.def"
#undef HOOK
};
static_assert(sizeof infos / sizeof *infos == HOOK_COUNT, "one description per hook");

static const enum need needs[] = {
#define HOOK(name, spelling, scope, axis, width, need, access, what) NEED_##need,
#include "hook.def"
#undef HOOK
};

const struct hook_info *hook_info(enum hook h)
{
    assert((unsigned)h < HOOK_COUNT);
    return &infos[h];
}

const char *hook_absent(const struct arch *a, enum hook h)
{
    assert((unsigned)h < HOOK_COUNT);
    const bool met[] = {
#define NEED(name, condition, why) condition,
#include "hook_need.def"
#undef NEED
    };
    return met[needs[h]] ? NULL : reasons[needs[h]];
}

uint32_t hook_width(const struct arch *a, enum hook h)
{
    assert((unsigned)h < HOOK_COUNT);
    const uint32_t widths[] = {
#define HOOK(name, spelling, scope, axis, width, need, access, what) width,
#include "hook.def"
#undef HOOK
    };
    return widths[h];
}

uint32_t hook_heads(const struct arch *a, enum hook h)
{
    const uint32_t heads[] = {[AXIS_PLAIN] = 1, [AXIS_QUERY] = a->n_heads, [AXIS_KV] = a->n_kv_heads,
                              [AXIS_SOURCE] = a->n_heads};
    return heads[hook_info(h)->axis];
}

/* ---- the nearest names ---------------------------------------------------------------------------- */

enum { MOST_LETTERS = 48, MOST_HINTS = 5 };

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

/* All hooks of one scope (of both where a is NULL) that are nearest to what was typed. */
static size_t nearest(const struct arch *a, enum hook_scope scope, const char *text, enum hook out[MOST_HINTS])
{
    unsigned best = UINT_MAX;
    size_t n = 0;
    if (strlen(text) > MOST_LETTERS) return 0;
    for (unsigned h = 0; h < HOOK_COUNT; h++) {
        if (a && (infos[h].scope != scope || hook_absent(a, (enum hook)h))) continue;
        unsigned far = farness(split(text), infos[h].spelling);
        if (far > best || far == UINT_MAX) continue;
        if (far < best) n = 0;
        best = far;
        if (n < MOST_HINTS) out[n++] = (enum hook)h;
    }
    return n;
}

/* `unknown <what> "<text>"`, and which known names it may stand for; prefix is put before these. */
static bool unknown(const char *what, const char *text, const char *prefix, const enum hook *hint, size_t n,
                    struct err *e)
{
    char names[MOST_HINTS * 80] = "";
    size_t used = 0;
    if (!n)
        return err_set(e, ERR_INVALID, "unknown %s \"%.100s\"; the hooks are listed at /v1/models/{name}/hooks", what,
                       text);
    for (size_t i = 0; i < n; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s\"%s%s\"", i == 0 ? "" : i + 1 < n ? ", " : " or ",
                                 prefix, infos[hint[i]].spelling);
    return err_set(e, ERR_INVALID, "unknown %s \"%.100s\"; did you mean %s?", what, text, names);
}

/* ---- names ---------------------------------------------------------------------------------------- */

static bool find(const char *spelling, enum hook *out)
{
    for (unsigned h = 0; h < HOOK_COUNT; h++)
        if (strcmp(infos[h].spelling, spelling) == 0) {
            *out = (enum hook)h;
            return true;
        }
    return false;
}

bool hook_parse(const char *spelling, enum hook *out, struct err *e)
{
    enum hook hint[MOST_HINTS];
    return find(spelling, out) ||
           unknown("hook", spelling, "", hint, nearest(NULL, SCOPE_LAYER, spelling, hint), e);
}

/* "blocks.{l}." before a spelling, as site_text writes it; its length, or 0. */
static size_t layer_prefix(const char *text, uint32_t *layer)
{
    char canonical[32];
    unsigned l;
    int used = 0;
    if (sscanf(text, "blocks.%9u.%n", &l, &used) != 1 || used == 0) return 0;
    (void)snprintf(canonical, sizeof canonical, "blocks.%u.", l); /* no "blocks.05.", no "blocks.+5." */
    if (strncmp(text, canonical, (size_t)used) != 0) return 0;
    *layer = l;
    return (size_t)used;
}

static bool present(const struct arch *a, struct site s, const char *text, struct err *e)
{
    const char *why = hook_absent(a, s.hook);
    return !why || err_set(e, ERR_INVALID, "this model has no \"%s\": %s", text, why);
}

static bool layer_site(const struct arch *a, const char *text, size_t prefix, struct site *out, struct err *e)
{
    char before[32];
    enum hook hint[MOST_HINTS];
    const char *spelling = text + prefix;
    if (out->layer >= a->n_layers)
        return err_set(e, ERR_INVALID, "layer %u of \"%.100s\" is outside 0..%u", out->layer, text, a->n_layers - 1);
    (void)snprintf(before, sizeof before, "%.*s", (int)prefix, text);
    if (!find(spelling, &out->hook))
        return unknown("site", text, before, hint, nearest(a, SCOPE_LAYER, spelling, hint), e);
    if (infos[out->hook].scope != SCOPE_LAYER)
        return err_set(e, ERR_INVALID, "\"%s\" is no hook of a layer but of the model: write \"%s\"", text, spelling);
    return present(a, *out, text, e);
}

static bool model_site(const struct arch *a, const char *text, struct site *out, struct err *e)
{
    char before[32];
    enum hook hint[MOST_HINTS];
    size_t n;
    unsigned l = a->n_layers; /* the layer that was meant, if one can be made out */
    (void)sscanf(text, "%*[Bb]locks.%9u", &l);
    (void)snprintf(before, sizeof before, "blocks.%u.", l < a->n_layers ? l : a->n_layers / 2);
    out->layer = 0;
    if (find(text, &out->hook)) {
        if (infos[out->hook].scope == SCOPE_MODEL) return present(a, *out, text, e);
        return err_set(e, ERR_INVALID, "\"%s\" is a hook of a layer: write \"%s%s\"", text, before, text);
    }
    if ((n = nearest(a, SCOPE_MODEL, text, hint))) return unknown("site", text, "", hint, n, e);
    if ((n = nearest(a, SCOPE_LAYER, text, hint))) return unknown("site", text, before, hint, n, e);
    return err_set(e, ERR_INVALID, "unknown site \"%.100s\"; a site looks like %sattn.hook_z or hook_embed", text, before);
}

bool site_parse(const struct arch *a, const char *text, struct site *out, struct err *e)
{
    size_t prefix = layer_prefix(text, &out->layer);
    return prefix ? layer_site(a, text, prefix, out, e) : model_site(a, text, out, e);
}

void site_text(struct site s, char out[64])
{
    const struct hook_info *i = hook_info(s.hook);
    if (i->scope == SCOPE_MODEL) (void)snprintf(out, 64, "%s", i->spelling);
    else (void)snprintf(out, 64, "blocks.%u.%s", s.layer, i->spelling);
}
