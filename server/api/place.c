#include "place.h"

#include <stdio.h>
#include <string.h>

#include "core/site.h"
#include "spans.h"

const char *place_field(char out[128], const char *field, const char *member)
{
    (void)snprintf(out, 128, "%.80s%s%s", field, *field ? "." : "", member);
    return out;
}

bool place_blame(struct err *e, const char *field)
{
    (void)snprintf(e->field, sizeof e->field, "%s", field);
    return false;
}

bool place_input(const struct named_input *in, size_t n, const struct json *id, const char *field, size_t *out,
                 struct err *e)
{
    for (*out = 0; *out < n; ++*out)
        if (strcmp(in[*out].id, id->text) == 0) return true;
    return err_field(e, ERR_INVALID, field, "there is no input \"%.64s\"", id->text);
}

static bool one_pos(int64_t at, uint32_t n, const char *field, uint32_t *out, struct err *e)
{
    if (at < -(int64_t)n || at >= (int64_t)n)
        return err_field(e, ERR_INVALID, field, "position %lld is outside %d..%u of an input of %u tokens",
                         (long long)at, -(int)n, n - 1, n);
    *out = (uint32_t)(at < 0 ? at + n : at);
    return true;
}

static int ascending(const void *x, const void *y)
{
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return (a > b) - (a < b);
}

static size_t unique(uint32_t *v, size_t n)
{
    size_t k = 0;
    qsort(v, n, sizeof *v, ascending);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || v[i] != v[i - 1]) v[k++] = v[i];
    return k;
}

static bool range(int64_t from, int64_t to, uint32_t n, const char *field, struct arena *a,
                  struct places *out, struct err *e)
{
    from += from < 0 ? n : 0;
    to += to < 0 ? n : 0;
    if (from < 0 || to > (int64_t)n || from >= to)
        return err_field(e, ERR_INVALID, field,
                         "the range is empty or outside 0..%u of an input of %u tokens", n, n);
    uint32_t *at = arena_take(a, (size_t)(to - from), sizeof *at, e);
    if (!at) return false;
    for (int64_t i = from; i < to; i++) at[i - from] = (uint32_t)i;
    *out = (struct places){at, (size_t)(to - from)};
    return true;
}

static bool list(const struct json *pos, uint32_t n, const char *field, struct arena *a,
                 struct places *out, struct err *e)
{
    uint32_t *at = arena_take(a, pos->len, sizeof *at, e);
    size_t k = 0;
    if (!at) return false;
    for (const struct json *v = pos->child; v; v = v->next)
        if (!one_pos(v->integer, n, field, &at[k++], e)) return false;
    *out = (struct places){at, unique(at, k)};
    return true;
}

bool place_pos(const struct json *pos, uint32_t n, const char *field, struct arena *a,
               struct places *out, struct err *e)
{
    if (!pos || json_is(pos, "all"))
        return range(0, n, n, field, a, out, e);
    if (pos->type == JSON_STRING) return range((int64_t)n - 1, n, n, field, a, out, e);
    if (pos->type == JSON_ARRAY) return list(pos, n, field, a, out, e);
    if (pos->type == JSON_OBJECT)
        return range(json_get(pos, "from")->integer, json_get(pos, "to")->integer, n, field, a, out, e);
    uint32_t *at = arena_take(a, 1, sizeof *at, e);
    *out = (struct places){at, 1};
    return at && one_pos(pos->integer, n, field, at, e);
}

bool place_pos_in(const struct json *pos, const struct model *m, const struct named_input *in, const char *field,
                  struct arena *a, struct places *out, struct err *e)
{
    uint32_t n = (uint32_t)in->in.n, from, to;
    if (!pos || pos->type != JSON_STRING) return place_pos(pos, n, field, a, out, e);
    return span_tokens(m, &in->in, in->of, pos->text, field, &from, &to, e) && range(from, to, n, field, a, out, e);
}

bool place_head(const struct json *head, const struct arch *arch, enum hook hook, const char *field,
                struct arena *a, struct places *out, struct err *e)
{
    *out = (struct places){NULL, 0};
    if (!head) return true;
    uint32_t heads = hook_heads(arch, hook);
    if (hook_info(hook)->axis == AXIS_PLAIN)
        return err_field(e, ERR_INVALID, field, "%s has no heads", hook_info(hook)->spelling);
    bool many = head->type == JSON_ARRAY;
    uint32_t *at = arena_take(a, many ? head->len : 1, sizeof *at, e);
    size_t k = 0;
    if (!at) return false;
    for (const struct json *v = many ? head->child : head; v; v = many ? v->next : NULL) {
        if (v->integer < 0 || v->integer >= heads)
            return err_field(e, ERR_INVALID, field, "head %lld is outside 0..%u of %s",
                             (long long)v->integer, heads - 1, hook_info(hook)->spelling);
        at[k++] = (uint32_t)v->integer;
    }
    *out = (struct places){at, unique(at, k)};
    return true;
}

/* ["scale", 4, "ln1"] */
static bool site_of_list(const struct json *list, const struct arch *arch, const char *field, struct site *out,
                         struct err *e)
{
    const struct json *word = list->child, *layer = word->next, *module = layer ? layer->next : NULL;
    if (word->type != JSON_STRING || (layer && layer->type != JSON_NUMBER) || (module && module->type != JSON_STRING))
        return err_field(e, ERR_INVALID, field, "a site in a list is a word, a layer and a module, as in [\"scale\", 4, \"ln1\"]");
    if (!layer) return site_parse(arch, word->text, out, e) || place_blame(e, field);
    const struct site_words w = {.word = word->text, .has_layer = true, .layer = layer->integer,
                                 .module = module ? module->text : NULL};
    return site_of_words(arch, &w, out, e) || place_blame(e, field);
}

bool place_is_pattern(const struct json *site) { return site->type == JSON_STRING && site_is_glob(site->text); }

bool place_site(const struct json *site, const struct arch *arch, const char *field,
                struct site *out, struct err *e)
{
    if (site->type == JSON_ARRAY) return site_of_list(site, arch, field, out, e);
    if (place_is_pattern(site)) return err_field(e, ERR_INVALID, field, "one site is wanted here, not the pattern \"%.64s\"", site->text);
    return site_parse(arch, site->text, out, e) || place_blame(e, field);
}

static bool writable(struct site s, const char *field, struct err *e)
{
    char name[64];
    site_text(s, name);
    return hook_info(s.hook)->writable || err_field(e, ERR_INVALID, field, "%s is read-only", name);
}

bool place_sites(const struct json *site, const struct arch *arch, bool written, const char *field,
                 struct arena *a, struct sites *out, struct err *e)
{
    bool pattern = place_is_pattern(site);
    size_t n = pattern ? site_glob(arch, site->text, written, NULL, 0) : 1;
    if (!n)
        return err_field(e, ERR_INVALID, field,
                         "no site of this model%s matches \"%.64s\"; a pattern is held against full names, as in "
                         "\"blocks.*.attn.hook_z\", which /v1/models/{name}/hooks lists",
                         written ? " that can be written" : "", site->text);
    struct site *at = arena_take(a, n, sizeof *at, e);
    if (!at) return false;
    if (pattern) (void)site_glob(arch, site->text, written, at, n);
    else if (!place_site(site, arch, field, at, e) || (written && !writable(*at, field, e))) return false;
    *out = (struct sites){at, n};
    return true;
}
