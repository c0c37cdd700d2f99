#include "recipe_refs.h"

#include <stdio.h>
#include <string.h>

#include "server/validate.h"

enum { FIELD = sizeof((struct err *)0)->field };

/* ---- copies ---------------------------------------------------------------------------------------------- */

static bool copy_children(struct arena *a, const struct json *v, struct json *out, struct err *e)
{
    struct json **tail = &out->child;
    for (const struct json *c = v->child; c; c = c->next) {
        struct json *n = arena_take(a, 1, sizeof *n, e);
        if (!n || !refs_copy(a, c, n, e)) return false;
        n->key = c->key;
        n->key_len = c->key_len;
        *tail = n;
        tail = &n->next;
    }
    return true;
}

bool refs_copy(struct arena *a, const struct json *v, struct json *out, struct err *e)
{
    *out = *v;
    out->key = NULL;
    out->key_len = 0;
    out->child = out->next = NULL;
    out->index = NULL;
    return copy_children(a, v, out, e);
}

bool refs_open(const struct json *v) { return v->type == JSON_OBJECT && v->len == 1 && v->child->key[0] == '$'; }

bool refs_any_open(const struct json *v)
{
    if (refs_open(v)) return true;
    for (const struct json *c = v->child; c; c = c->next)
        if (refs_any_open(c)) return true;
    return false;
}

/* ---- paths ----------------------------------------------------------------------------------------------- */

static bool follow(const struct refs *r, const struct json *v, const char *path, const char *field, struct json *out, struct err *e);

static bool follow_all(const struct refs *r, const struct json *v, const char *rest, const char *field, struct json *out, struct err *e)
{
    *out = (struct json){.type = JSON_ARRAY, .len = v->len};
    struct json **tail = &out->child;
    for (const struct json *c = v->child; c; c = c->next) {
        struct json *n = arena_take(r->arena, 1, sizeof *n, e);
        if (!n || !follow(r, c, rest, field, n, e)) return false;
        *tail = n;
        tail = &n->next;
    }
    return true;
}

static const struct json *element(const struct json *list, const char *number)
{
    size_t i = 0, n = strspn(number, "0123456789");
    if (!n || number[n] || n > 9) return NULL;
    for (const char *p = number; *p; p++) i = i * 10 + (size_t)(*p - '0');
    const struct json *c = list->child;
    while (c && i--) c = c->next;
    return c;
}

static bool follow(const struct refs *r, const struct json *v, const char *path, const char *field, struct json *out, struct err *e)
{
    size_t n = strcspn(path, ".");
    if (!*path) return refs_copy(r->arena, v, out, e);
    char *word = arena_text(r->arena, path, n, e);
    if (!word) return false;
    const char *rest = path + n + (path[n] == '.');
    if (v->type == JSON_ARRAY && strcmp(word, "*") == 0) return follow_all(r, v, rest, field, out, e);
    const struct json *m = v->type == JSON_ARRAY ? element(v, word) : json_get(v, word);
    if (m) return follow(r, m, rest, field, out, e);
    return err_field(e, ERR_UNPROCESSABLE, field, "there is no \"%.80s\" in what it refers to", word);
}

/* ---- the kinds of references ----------------------------------------------------------------------------- */

static bool stay_open(const struct refs *r, const struct json *v, struct json *out, struct err *e)
{
    return refs_copy(r->arena, v, out, e);
}

static bool text_of(const struct json *v, const char *field, const char **out, struct err *e)
{
    *out = v->child->text;
    return v->child->type == JSON_STRING ||
           err_field(e, ERR_INVALID, field, "\"%s\" takes a name and a path, in one string", v->child->key);
}

static bool from_param(const struct refs *r, const struct json *v, const char *field, struct json *out, struct err *e)
{
    const char *text;
    if (!text_of(v, field, &text, e)) return false;
    size_t n = strcspn(text, ".");
    const char *name = arena_text(r->arena, text, n, e);
    if (!name) return false;
    const struct json *p = json_get(r->params, name);
    if (p) return follow(r, p, text + n + (text[n] == '.'), field, out, e);
    return err_field(e, ERR_INVALID, field, "\"%.80s\" is no parameter of this recipe", name);
}

static bool from_step(const struct refs *r, const struct json *v, const char *field, struct json *out, struct err *e)
{
    const char *text;
    if (!text_of(v, field, &text, e)) return false;
    size_t n = strcspn(text, "."), i = 0;
    while (i < r->n && (strlen(r->step[i].id) != n || strncmp(r->step[i].id, text, n) != 0)) i++;
    if (i == r->n) return err_field(e, ERR_INVALID, field, "\"%.*s\" is no step of this recipe", (int)(n < 80 ? n : 80), text);
    if (i >= r->at)
        return err_field(e, ERR_INVALID, field, "step \"%s\" does not run before this; a step refers to earlier ones", r->step[i].id);
    r->step[i].used = true;
    if (!r->live) return stay_open(r, v, out, e);
    if (!r->step[i].skipped) return follow(r, r->step[i].answer, text + n + (text[n] == '.'), field, out, e);
    *out = (struct json){.type = JSON_NULL};
    return true;
}

static bool from_each(const struct refs *r, const struct json *v, const char *field, struct json *out, struct err *e)
{
    const char *text;
    if (!text_of(v, field, &text, e)) return false;
    if (!r->in_each) return err_field(e, ERR_INVALID, field, "\"$each\" stands in a step with \"for_each\"");
    return r->each ? follow(r, r->each, text, field, out, e) : stay_open(r, v, out, e);
}

static double rank(const struct json *v, const char *by)
{
    const struct json *n = json_get(v, by);
    return n && n->type == JSON_NUMBER ? n->number : -1.0 / 0.0;
}

/* The largest not yet taken is taken k times: lists are short, and equals keep their order. */
static void take_largest(struct json *list, size_t k, const char *by)
{
    struct json *taken = NULL, **tail = &taken;
    for (size_t i = 0; i < k; i++) {
        struct json **best = &list->child;
        for (struct json **c = &list->child; *c; c = &(*c)->next)
            if (rank(*c, by) > rank(*best, by)) best = c;
        struct json *one = *best;
        *best = one->next;
        one->next = NULL;
        *tail = one;
        tail = &one->next;
    }
    list->child = taken;
}

static void take_first(struct json *list, size_t k)
{
    struct json **end = &list->child;
    while (k--) end = &(*end)->next;
    *end = NULL;
}

static bool top_arguments(const struct json *v, const char *field, struct err *e)
{
    const struct json *arg = v->child;
    for (const struct json *m = arg->child; m; m = m->next)
        if (arg->type != JSON_OBJECT || (strcmp(m->key, "of") != 0 && strcmp(m->key, "k") != 0 && strcmp(m->key, "by") != 0))
            return err_field(e, ERR_INVALID, field, "\"$top\" takes \"of\", \"k\" and \"by\"");
    return (json_get(arg, "of") && json_get(arg, "k")) || err_field(e, ERR_INVALID, field, "\"$top\" needs \"of\" and \"k\"");
}

static bool from_top(const struct refs *r, const struct json *v, const char *field, struct json *out, struct err *e)
{
    struct json k;
    const struct json *by;
    if (!top_arguments(v, field, e)) return false;
    by = json_get(v->child, "by");
    if (by && by->type != JSON_STRING) return err_field(e, ERR_INVALID, field, "\"by\" of \"$top\" is the name of a member");
    if (!refs_resolve(r, json_get(v->child, "of"), field, out, e) || !refs_resolve(r, json_get(v->child, "k"), field, &k, e)) return false;
    if (refs_open(out) || refs_open(&k)) return stay_open(r, v, out, e);
    if (out->type == JSON_NULL) return true;
    if (out->type != JSON_ARRAY) return err_field(e, ERR_INVALID, field, "\"of\" of \"$top\" must be a list");
    if (!k.is_int || k.integer < 0) return err_field(e, ERR_INVALID, field, "\"k\" of \"$top\" must be an integer of at least 0");
    size_t n = (uint64_t)k.integer < out->len ? (size_t)k.integer : out->len;
    if (by) take_largest(out, n, by->text);
    else take_first(out, n);
    out->len = n;
    return true;
}

static const struct { const char *word; bool (*resolve)(const struct refs *, const struct json *, const char *, struct json *, struct err *); } kinds[] = {
    {"$param", from_param}, {"$step", from_step}, {"$each", from_each}, {"$top", from_top},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* ---- trees ----------------------------------------------------------------------------------------------- */

static bool reference(const struct refs *r, const struct json *v, const char *field, struct json *out, struct err *e)
{
    const char *known[KINDS];
    for (size_t i = 0; i < KINDS; i++) {
        known[i] = kinds[i].word;
        if (strcmp(v->child->key, kinds[i].word) == 0) return kinds[i].resolve(r, v, field, out, e);
    }
    const char *near = nearest_name(v->child->key, known, KINDS);
    return err_field(e, ERR_INVALID, field, "\"%.64s\" is no reference%s%s; they are $param, $step, $each and $top", v->child->key,
                     near ? "; did you mean " : "", near ? near : "");
}

static bool alone(const struct json *v, const char *field, struct err *e)
{
    for (const struct json *c = v->child; v->type == JSON_OBJECT && c; c = c->next)
        if (c->key[0] == '$') return err_field(e, ERR_INVALID, field, "\"%.64s\" stands alone in its object", c->key);
    return true;
}

bool refs_resolve(const struct refs *r, const struct json *v, const char *field, struct json *out, struct err *e)
{
    size_t i = 0;
    char inner[FIELD];
    if (refs_open(v)) return reference(r, v, field, out, e);
    if (!alone(v, field, e)) return false;
    *out = *v;
    out->key = NULL;
    out->child = out->next = NULL;
    out->index = NULL;
    struct json **tail = &out->child;
    for (const struct json *c = v->child; c; c = c->next, i++) {
        struct json *n = arena_take(r->arena, 1, sizeof *n, e);
        if (c->key) (void)snprintf(inner, sizeof inner, "%s.%s", field, c->key);
        else (void)snprintf(inner, sizeof inner, "%s[%zu]", field, i);
        if (!n || !refs_resolve(r, c, inner, n, e)) return false;
        n->key = c->key;
        n->key_len = c->key_len;
        *tail = n;
        tail = &n->next;
    }
    return true;
}
