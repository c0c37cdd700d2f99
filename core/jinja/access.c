#include <string.h>

#include "core/text/codepoint.h"
#include "state.h"

bool value_list(struct run *r, enum list_kind kind, size_t n, struct value *out)
{
    struct list *l = run_take(r, 1, sizeof *l);
    struct value *item = l ? run_take(r, n, sizeof *item) : NULL;
    if (!item) return false;
    *l = (struct list){.kind = kind, .n = n, .item = item};
    *out = (struct value){.type = V_LIST, .list = l};
    return true;
}

static bool characters(struct run *r, struct text t, struct value *out)
{
    if (!value_list(r, LIST, text_characters(t), out)) return false;
    for (size_t i = 0, at = 0, n; at < t.len; i++, at += n) {
        uint32_t cp;
        n = cp_next(t.s + at, t.len - at, &cp);
        out->list->item[i] = value_text(text_part(t, at, at + n));
    }
    return true;
}

bool value_elements(struct run *r, const struct value *v, struct list **out)
{
    struct value made;
    bool ok = true;
    switch (v->type) {
    case V_LIST:
        if (v->list->used) return run_refuse(r, "reading twice what a filter streams");
        v->list->used = v->list->kind == STREAM;
        *out = v->list;
        return true;
    case V_TEXT: ok = characters(r, v->text, &made); break;
    case V_DICT: ok = dict_listed(r, v->dict, 0, LIST, &made); break;
    case V_UNDEFINED: ok = value_list(r, LIST, 0, &made); break;
    default: return run_refuse_type(r, "going through the elements", v);
    }
    if (ok) *out = made.list;
    return ok;
}

bool value_length(struct run *r, const struct value *v, size_t *out)
{
    switch (v->type) {
    case V_TEXT: *out = text_characters(v->text); return run_spend_bytes(r, v->text.len);
    case V_DICT: *out = v->dict->n; return true;
    case V_UNDEFINED: *out = 0; return true;
    case V_LOOP: *out = v->loop->n; return true;
    case V_LIST:
        if (v->list->kind == STREAM) break;
        *out = v->list->n;
        return true;
    default: break;
    }
    return run_refuse_type(r, "the length", v);
}

/* ---- dicts ------------------------------------------------------------------------------------- */

const struct value *dict_find(struct run *r, const struct dict *d, const struct value *key)
{
    if (key->type == V_LIST || key->type == V_DICT) return NULL;
    for (size_t i = 0; i < d->n; i++) {
        bool same = false;
        if (!value_equal(r, &d->pair[i].key, key, &same)) return NULL;
        if (same) return &d->pair[i].value;
    }
    return NULL;
}

bool dict_put(struct run *r, struct dict *d, struct value key, struct value v)
{
    if (key.type != V_TEXT && !value_is_number(&key) && key.type != V_NONE)
        return run_refuse_type(r, "a key in the form", &key);
    for (size_t i = 0; i < d->n; i++) {
        bool same;
        if (!value_equal(r, &d->pair[i].key, &key, &same)) return false;
        if (!same) continue;
        d->pair[i].value = v;
        return true;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap ? d->cap * 2 : 4;
        struct pair *grown = run_take(r, cap, sizeof *grown);
        if (!grown) return false;
        if (d->n) memcpy(grown, d->pair, d->n * sizeof *grown);
        d->pair = grown;
        d->cap = cap;
    }
    d->pair[d->n++] = (struct pair){key, v};
    return true;
}

bool dict_listed(struct run *r, const struct dict *d, int which, enum list_kind kind, struct value *out)
{
    if (!value_list(r, kind, d->n, out)) return false;
    for (size_t i = 0; i < d->n; i++) {
        struct value *item = &out->list->item[i];
        *item = which ? d->pair[i].value : d->pair[i].key;
        if (which < 2) continue;
        if (!value_list(r, TUPLE, 2, item)) return false;
        item->list->item[0] = d->pair[i].key;
        item->list->item[1] = d->pair[i].value;
    }
    return true;
}

/* ---- a.b --------------------------------------------------------------------------------------- */

static bool loop_attr(struct run *r, const struct loop *l, struct text name, struct value *out)
{
    const struct {
        const char *name;
        struct value value;
    } rows[] = {
        {"index", value_int((int64_t)l->at + 1)},
        {"index0", value_int((int64_t)l->at)},
        {"revindex", value_int((int64_t)(l->n - l->at))},
        {"revindex0", value_int((int64_t)(l->n - l->at) - 1)},
        {"first", value_bool(l->at == 0)},
        {"last", value_bool(l->at + 1 == l->n)},
        {"length", value_int((int64_t)l->n)},
        {"previtem", l->at ? l->item[l->at - 1] : value_undefined(name)},
        {"nextitem", l->at + 1 < l->n ? l->item[l->at + 1] : value_undefined(name)},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (text_is(name, rows[i].name)) {
            *out = rows[i].value;
            return true;
        }
    return run_refuse(r, "loop.%.*s", text_shown(name), name.s);
}

/* What Python's str, dict and list have and our tables do not: present, so not undefined. */
static bool is_python_attr(enum value_type type, struct text name)
{
    static const char of_text[] =
        " capitalize casefold center count encode endswith expandtabs find format format_map index isalnum"
        " isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle"
        " isupper join ljust lower lstrip maketrans partition removeprefix removesuffix replace rfind rindex"
        " rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title translate upper"
        " zfill ";
    static const char of_dict[] = " clear copy fromkeys get items keys pop popitem setdefault update values ";
    static const char of_list[] =
        " append clear copy count extend index insert pop remove reverse sort start stop step mapping ";
    const char *all = type == V_TEXT ? of_text : type == V_DICT ? of_dict : of_list;
    if (name.len == 0) return false;
    for (const char *at = all; (at = memmem(at, strlen(at), name.s, name.len)); at++)
        if (at[-1] == ' ' && at[name.len] == ' ') return true;
    return false;
}

static bool method(struct run *r, const struct value *of, struct text name, struct value *out)
{
    const struct callee *table = of->type == V_TEXT   ? jinja_text_methods
                                 : of->type == V_DICT ? jinja_dict_methods
                                                      : NULL;
    const struct callee *found = table ? callee_find(table, name) : NULL;
    if (!found) {
        *out = value_undefined(name);
        return !is_python_attr(of->type, name) ||
               run_refuse(r, "the method %.*s", text_shown(name), name.s);
    }
    struct bound *b = run_take(r, 1, sizeof *b);
    if (!b) return false;
    *b = (struct bound){*of, found};
    *out = (struct value){.type = V_METHOD, .bound = b};
    return true;
}

/* What Python's getattr finds. */
static bool own_attr(struct run *r, const struct value *of, struct text name, struct value *out)
{
    *out = value_undefined(name);
    switch (of->type) {
    case V_NONE: return true;
    case V_LOOP: return loop_attr(r, of->loop, name, out);
    case V_TEXT:
    case V_LIST:
    case V_DICT: return method(r, of, name, out);
    case V_SPACE: {
        const struct value key = value_text(name), *v = dict_find(r, of->dict, &key);
        if (v) *out = *v;
        return true;
    }
    default: return run_refuse_type(r, "an attribute", of);
    }
}

static bool check_attr(struct run *r, const struct value *of, struct text name)
{
    if (of->type == V_UNDEFINED) return run_refuse_type(r, "an attribute", of);
    return !name.len || name.s[0] != '_' || run_refuse(r, "an attribute that begins with an underscore");
}

bool value_attr(struct run *r, const struct value *of, struct text name, struct value *out)
{
    if (!check_attr(r, of, name) || !own_attr(r, of, name, out)) return false;
    if (out->type != V_UNDEFINED || of->type != V_DICT) return true;
    const struct value key = value_text(name), *v = dict_find(r, of->dict, &key);
    if (v) *out = *v;
    return true;
}

/* ---- a[b] -------------------------------------------------------------------------------------- */

static bool subscripted(const struct value *v) /* by position */
{
    return is_text(v) || (v->type == V_LIST && v->list->kind <= RANGE);
}

/* A position as Python counts it; false: outside. */
static bool position(int64_t at, size_t n, size_t *out)
{
    if (at < 0) at += (int64_t)n;
    if (at < 0 || (uint64_t)at >= n) return false;
    *out = (size_t)at;
    return true;
}

static bool item_at(struct run *r, const struct value *of, int64_t at, struct value *out)
{
    size_t n, k;
    if (!value_length(r, of, &n)) return false;
    if (!position(at, n, &k)) {
        *out = value_undefined((struct text){"an element", NULL, 10});
        return true;
    }
    if (!is_text(of)) {
        *out = of->list->item[k];
        return true;
    }
    size_t from = text_offset(of->text, k);
    struct text rest = text_part(of->text, from, of->text.len);
    *out = value_text(text_part(rest, 0, text_offset(rest, 1)));
    return true;
}

bool value_item(struct run *r, const struct value *of, const struct value *at, struct value *out)
{
    if (of->type == V_UNDEFINED) return run_refuse_type(r, "an element", of);
    if (of->type == V_DICT) {
        const struct value *v = dict_find(r, of->dict, at);
        if (v) {
            *out = *v;
            return true;
        }
    }
    if (is_text(at)) return check_attr(r, of, at->text) && own_attr(r, of, at->text, out);
    if (subscripted(of) && (at->type == V_INT || at->type == V_BOOL))
        return item_at(r, of, at->type == V_INT ? at->integer : at->truth, out);
    *out = value_undefined((struct text){"an element", NULL, 10});
    return true;
}

/* ---- a[b:c:d] ---------------------------------------------------------------------------------- */

struct range {
    int64_t from, end, step;
    size_t n;
};

/* Python's slice.indices. */
static bool slice_range(struct run *r, const struct value bound[3], int64_t n, struct range *out)
{
    int64_t v[3] = {0, 0, 1};
    for (int i = 0; i < 3; i++) {
        if (bound[i].type == V_ABSENT || bound[i].type == V_NONE) continue;
        if (bound[i].type != V_INT && bound[i].type != V_BOOL)
            return run_refuse_type(r, "a slice with a bound in the form", &bound[i]);
        v[i] = bound[i].type == V_INT ? bound[i].integer : bound[i].truth;
    }
    if (v[2] == 0) return run_refuse(r, "a slice with step 0");
    if (v[2] < -n - 1) v[2] = -n - 1; /* further steps all leave the list */
    if (v[2] > n + 1) v[2] = n + 1;
    int64_t low = v[2] < 0 ? -1 : 0, high = v[2] < 0 ? n - 1 : n;
    for (int i = 0; i < 2; i++) {
        bool absent = bound[i].type == V_ABSENT || bound[i].type == V_NONE;
        if (absent) v[i] = (i == 0) == (v[2] < 0) ? high : low;
        else if (v[i] < 0) v[i] = v[i] < -n ? low : v[i] + n < low ? low : v[i] + n;
        else if (v[i] > high) v[i] = high;
    }
    int64_t gap = v[2] < 0 ? v[0] - v[1] : v[1] - v[0], step = v[2] < 0 ? -v[2] : v[2];
    *out = (struct range){v[0], v[1], v[2], gap > 0 ? (size_t)((gap - 1) / step + 1) : 0};
    return true;
}

static bool slice_text(struct run *r, struct text t, const struct range *s, struct value *out)
{
    struct value all;
    struct sink picked = {0};
    if (s->step == 1) {
        size_t from = text_offset(t, (size_t)s->from);
        struct text rest = text_part(t, from, t.len);
        *out = value_text(text_part(rest, 0, text_offset(rest, s->n)));
        return run_spend_bytes(r, t.len);
    }
    if (!characters(r, t, &all)) return false;
    for (size_t i = 0; i < s->n; i++)
        sink_text(&picked, all.list->item[s->from + (int64_t)i * s->step].text);
    return sink_value(r, &picked, out);
}

bool value_slice(struct run *r, const struct value *of, const struct value bound[3], struct value *out)
{
    size_t n;
    struct range s = {0};
    if (!subscripted(of)) return run_refuse_type(r, "a part", of);
    if (!value_length(r, of, &n) || !slice_range(r, bound, (int64_t)n, &s)) return false;
    if (is_text(of)) return slice_text(r, of->text, &s, out);
    if (!value_list(r, of->list->kind, s.n, out)) return false;
    for (size_t i = 0; i < s.n; i++) out->list->item[i] = of->list->item[s.from + (int64_t)i * s.step];
    return true;
}
