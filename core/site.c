#include "site.h"

#include <assert.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "site_int.h"

/* ---- hooks by their words ------------------------------------------------------------------------- */

static enum hook_scope scope_of(enum hook h) { return hook_info(h)->scope; }

/* "ln1.hook_scale": the word "scale"; the module "ln1" in its first *n bytes, none of a block's own hook. */
static const char *word_of(enum hook h)
{
    const char *at = strstr(hook_info(h)->spelling, "hook_");
    assert(at);
    return at + 5;
}

static size_t module_length(enum hook h)
{
    const char *dot = strchr(hook_info(h)->spelling, '.');
    return dot ? (size_t)(dot - hook_info(h)->spelling) : 0;
}

static bool is_of_module(enum hook h, const char *module)
{
    size_t n = module_length(h);
    return strlen(module) == n && strncmp(hook_info(h)->spelling, module, n) == 0;
}

struct alias {
    const char *typed, *meant;
};

static const struct alias words[] = {
    {"attn", "pattern"}, {"attn_logits", "attn_scores"}, {"query", "q"}, {"key", "k"}, {"value", "v"},
    {"mlp_pre", "pre"}, {"mlp_post", "post"},
};
static const struct alias modules[] = {
    {"a", "attn"}, {"attention", "attn"}, {"m", "mlp"}, {"b", ""}, {"block", ""}, {"blocks", ""},
};

static const char *meant(const struct alias *list, size_t n, const char *typed)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i].typed, typed) == 0) return list[i].meant;
    return typed;
}

/* Hooks of one scope with this word, of this module where one is given. The unembedding's "in" and "out"
 * say too little to stand for it without its module. */
static struct hints with_word(enum hook_scope scope, const char *word, const char *module)
{
    struct hints out = {.n = 0};
    for (unsigned h = 0; h < HOOK_COUNT; h++) {
        if (scope_of((enum hook)h) != scope || strcmp(word_of((enum hook)h), word) != 0) continue;
        if (module ? !is_of_module((enum hook)h, module) : is_of_module((enum hook)h, "unembed")) continue;
        assert(out.n < sizeof out.hook / sizeof *out.hook);
        out.hook[out.n++] = (enum hook)h;
    }
    return out;
}

void site_short(struct site s, char out[64])
{
    enum hook h = s.hook;
    bool shared = with_word(scope_of(h), word_of(h), NULL).n > 1;
    if (scope_of(h) == SCOPE_MODEL && is_of_module(h, "unembed")) site_text(s, out);
    else if (scope_of(h) == SCOPE_MODEL) (void)snprintf(out, 64, "%s", word_of(h));
    else
        (void)snprintf(out, 64, "%s%u%.*s", word_of(h), s.layer, shared ? (int)module_length(h) : 0,
                       hook_info(h)->spelling);
}

/* ---- refusals ------------------------------------------------------------------------------------- */

static bool present(const struct arch *a, struct site s, const char *text, struct err *e)
{
    const char *why = hook_absent(a, s.hook);
    return !why || err_set(e, ERR_INVALID, "this model has no \"%.100s\": %s", text, why);
}

static bool layer_in_range(const struct arch *a, int64_t layer, const char *text, struct err *e)
{
    if (layer < 0)
        return err_set(e, ERR_INVALID, "the layer of \"%.100s\" is negative; layers are counted from 0 to %u, never from the end",
                       text, a->n_layers - 1);
    return layer < a->n_layers || err_set(e, ERR_INVALID, "layer %lld of \"%.100s\" is outside 0..%u", (long long)layer,
                                          text, a->n_layers - 1);
}

/* Several hooks have that word: the module must say which. */
static bool say_module(const struct arch *a, const struct hints *h, uint32_t layer, const char *text, struct err *e)
{
    char names[400] = "", one[64];
    size_t used = 0;
    for (size_t i = 0; i < h->n; i++) {
        if (hook_absent(a, h->hook[i])) continue;
        site_short((struct site){h->hook[i], layer}, one);
        used += (size_t)snprintf(names + used, sizeof names - used, "%s\"%s\"", used ? " or " : "", one);
    }
    return err_set(e, ERR_INVALID, "\"%.100s\" does not say which module's; write %s", text, names);
}

/* ---- words ---------------------------------------------------------------------------------------- */

static bool find(const char *spelling, enum hook *out)
{
    for (unsigned h = 0; h < HOOK_COUNT; h++)
        if (strcmp(hook_info((enum hook)h)->spelling, spelling) == 0) {
            *out = (enum hook)h;
            return true;
        }
    return false;
}

/* A spelling as it stands in the table, or a word with the modules it may be of. */
static struct hints named(const struct site_words *w)
{
    struct hints one = {.n = 1};
    enum hook_scope scope = w->has_layer ? SCOPE_LAYER : SCOPE_MODEL;
    const char *word = meant(words, sizeof words / sizeof *words, w->word), *module = w->module;
    if (strchr(word, '.') && !module) {
        if (!find(word, &one.hook[0]) || scope_of(one.hook[0]) != scope) one.n = 0;
        return one;
    }
    if (module) module = meant(modules, sizeof modules / sizeof *modules, module);
    return with_word(scope, strncmp(word, "hook_", 5) == 0 ? word + 5 : word, module);
}

static bool of_words(const struct arch *a, const struct site_words *w, const char *text, struct site *out, struct err *e)
{
    if (w->has_layer && !layer_in_range(a, w->layer, text, e)) return false;
    char before[32] = "", typed[160];
    const char *module = w->module ? w->module : "";
    struct hints h = named(w);
    out->layer = w->has_layer ? (uint32_t)w->layer : 0;
    if (h.n > 1) return say_module(a, &h, out->layer, text, e);
    if (h.n == 1) {
        out->hook = h.hook[0];
        return present(a, *out, text, e);
    }
    if (w->has_layer) (void)snprintf(before, sizeof before, "blocks.%u.", out->layer);
    (void)snprintf(typed, sizeof typed, "%.60s%s%.60s", module, *module ? "." : "", w->word);
    h = hints_for(a, w->has_layer ? SCOPE_LAYER : SCOPE_MODEL, typed);
    return hints_say(&h, "site", text, before, e);
}

bool site_of_words(const struct arch *a, const struct site_words *w, struct site *out, struct err *e)
{
    char text[192], layer[24] = "";
    if (w->has_layer) (void)snprintf(layer, sizeof layer, "%lld", (long long)w->layer);
    (void)snprintf(text, sizeof text, "%.80s%s%.80s", w->word, layer, w->module ? w->module : "");
    return of_words(a, w, text, out, e);
}

/* ---- short names ---------------------------------------------------------------------------------- */

enum { LONGEST_SHORT = 40 };

static bool is_word_letter(char c) { return (c >= 'a' && c <= 'z') || c == '_'; }
static size_t span(const char *s, const char *of) { return strspn(s, of); }

/* "scale4ln1" into its pieces, in memory of the caller; false where the text is of another form. */
static bool split_short(const char *text, char memory[LONGEST_SHORT + 2], struct site_words *out)
{
    size_t n = strlen(text), word = 0;
    if (n > LONGEST_SHORT) return false;
    while (is_word_letter(text[word])) word++;
    const char *number = text + word;
    size_t sign = *number == '-', digits = span(number + sign, "0123456789");
    const char *module = number + sign + digits;
    bool padded = digits > 1 && number[sign] == '0';
    if (!word || digits > 9 || padded || (sign && !digits) || (!digits && *module)) return false;
    for (const char *c = module; *c; c++)
        if (!is_word_letter(*c) && (c == module || *c < '0' || *c > '9')) return false;
    memcpy(memory, text, word);
    memory[word] = '\0';
    memcpy(memory + word + 1, module, strlen(module) + 1);
    unsigned layer = 0;
    if (digits) (void)sscanf(number + sign, "%9u", &layer);
    *out = (struct site_words){.word = memory, .has_layer = digits > 0, .layer = layer,
                               .module = *module ? memory + word + 1 : NULL};
    if (sign) out->layer = layer ? -(int64_t)layer : -1; /* -0 too counts from the end */
    return true;
}

/* True when the text is a short name, or tries to be one: then *ok says how that ended. */
static bool short_site(const struct arch *a, const char *text, struct site *out, bool *ok, struct err *e)
{
    char memory[LONGEST_SHORT + 2];
    struct site_words w;
    enum hook whole;
    if (!split_short(text, memory, &w) || find(text, &whole)) return false;
    if (!w.has_layer && !named(&w).n) {
        w.has_layer = true; /* of a layer, which is missing? */
        struct hints h = named(&w);
        char example[64];
        if (!h.n || strncmp(w.word, "hook_", 5) == 0) return false;
        site_short((struct site){h.hook[0], a->n_layers / 2}, example);
        *ok = err_set(e, ERR_INVALID, "\"%.100s\" is a hook of a layer: write \"%s\"", text, example);
        return true;
    }
    *ok = of_words(a, &w, text, out, e);
    return true;
}

/* ---- full names ----------------------------------------------------------------------------------- */

bool hook_parse(const char *spelling, enum hook *out, struct err *e)
{
    struct hints h;
    if (find(spelling, out)) return true;
    h = hints_for(NULL, SCOPE_LAYER, spelling);
    return hints_say(&h, "hook", spelling, "", e);
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

static bool layer_site(const struct arch *a, const char *text, size_t prefix, struct site *out, struct err *e)
{
    char before[32];
    const char *spelling = text + prefix;
    if (!layer_in_range(a, out->layer, text, e)) return false;
    (void)snprintf(before, sizeof before, "%.*s", (int)prefix, text);
    if (!find(spelling, &out->hook)) {
        struct hints h = hints_for(a, SCOPE_LAYER, spelling);
        return hints_say(&h, "site", text, before, e);
    }
    if (scope_of(out->hook) != SCOPE_LAYER)
        return err_set(e, ERR_INVALID, "\"%s\" is no hook of a layer but of the model: write \"%s\"", text, spelling);
    return present(a, *out, text, e);
}

static bool model_site(const struct arch *a, const char *text, struct site *out, struct err *e)
{
    char before[32];
    struct hints h;
    unsigned l = a->n_layers; /* the layer that was meant, if one can be made out */
    (void)sscanf(text, "%*[Bb]locks.%9u", &l);
    (void)snprintf(before, sizeof before, "blocks.%u.", l < a->n_layers ? l : a->n_layers / 2);
    out->layer = 0;
    if (find(text, &out->hook)) {
        if (scope_of(out->hook) == SCOPE_MODEL) return present(a, *out, text, e);
        return err_set(e, ERR_INVALID, "\"%s\" is a hook of a layer: write \"%s%s\"", text, before, text);
    }
    h = hints_for(a, SCOPE_MODEL, text);
    if (h.n) return hints_say(&h, "site", text, "", e);
    h = hints_for(a, SCOPE_LAYER, text);
    if (h.n) return hints_say(&h, "site", text, before, e);
    return err_set(e, ERR_INVALID, "unknown site \"%.100s\"; a site looks like %sattn.hook_z or hook_embed", text, before);
}

bool site_parse(const struct arch *a, const char *text, struct site *out, struct err *e)
{
    bool ok;
    unsigned from_end;
    size_t prefix = layer_prefix(text, &out->layer);
    if (prefix) return layer_site(a, text, prefix, out, e);
    if (sscanf(text, "blocks.-%9u", &from_end) == 1) return layer_in_range(a, -1, text, e);
    return short_site(a, text, out, &ok, e) ? ok : model_site(a, text, out, e);
}

/* ---- all of them ---------------------------------------------------------------------------------- */

/* Hooks of the model lie before and after those of layers: [0, first), [end, HOOK_COUNT). */
static void layer_hooks(unsigned *first, unsigned *end)
{
    for (*first = 0; scope_of((enum hook)*first) == SCOPE_MODEL;) ++*first;
    for (*end = *first; *end < HOOK_COUNT && scope_of((enum hook)*end) == SCOPE_LAYER;) ++*end;
}

size_t site_count(const struct arch *a)
{
    unsigned first, end;
    layer_hooks(&first, &end);
    return HOOK_COUNT + (size_t)(end - first) * (a->n_layers - 1);
}

struct site site_at(const struct arch *a, size_t i)
{
    unsigned first, end;
    layer_hooks(&first, &end);
    size_t each = end - first, inside = each * a->n_layers;
    assert(i < site_count(a));
    if (i < first) return (struct site){(enum hook)i, 0};
    if (i - first < inside) return (struct site){(enum hook)(first + (i - first) % each), (uint32_t)((i - first) / each)};
    return (struct site){(enum hook)(end + (i - first - inside)), 0};
}

bool site_is_glob(const char *text) { return strpbrk(text, "*?[") != NULL; }

size_t site_glob(const struct arch *a, const char *pattern, bool written, struct site *out, size_t room)
{
    char name[64];
    size_t n = 0, count = site_count(a);
    for (size_t i = 0; i < count; i++) {
        struct site s = site_at(a, i);
        if (hook_absent(a, s.hook) || (written && !hook_info(s.hook)->writable)) continue;
        site_text(s, name);
        if (fnmatch(pattern, name, FNM_NOESCAPE) != 0) continue;
        if (n < room) out[n] = s;
        n++;
    }
    return n;
}
