#include "place.h"

#include <stdio.h>
#include <string.h>

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
    if (!pos || (pos->type == JSON_STRING && strcmp(pos->text, "all") == 0))
        return range(0, n, n, field, a, out, e);
    if (pos->type == JSON_STRING) return range((int64_t)n - 1, n, n, field, a, out, e);
    if (pos->type == JSON_ARRAY) return list(pos, n, field, a, out, e);
    if (pos->type == JSON_OBJECT)
        return range(json_get(pos, "from")->integer, json_get(pos, "to")->integer, n, field, a, out, e);
    uint32_t *at = arena_take(a, 1, sizeof *at, e);
    *out = (struct places){at, 1};
    return at && one_pos(pos->integer, n, field, at, e);
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

bool place_site(const struct json *site, const struct arch *arch, const char *field,
                struct site *out, struct err *e)
{
    return site_parse(arch, site->text, out, e) || place_blame(e, field);
}
