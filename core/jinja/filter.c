/* What stands after `|`. */
#include <string.h>

#include "lex.h"
#include "state.h"

static bool given(const struct value *v) { return v->type != V_ABSENT && v->type != V_NONE; }

/* ---- texts ------------------------------------------------------------------------------------- */

static bool f_string(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    struct text t;
    (void)arg;
    *out = *self;
    if (is_text(self)) return true;
    if (!value_as_text(r, self, &t)) return false;
    *out = value_text(t);
    return true;
}

static bool f_safe(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    if (!f_string(r, self, arg, out)) return false;
    out->markup = true;
    return true;
}

static bool f_trim(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    struct text t, chars;
    bool some = given(arg);
    return value_as_text(r, self, &t) && (!some || arg_text(r, arg, &chars)) &&
           text_strip(r, t, some ? &chars : NULL, true, true, out);
}

static bool f_replace(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    struct text t, old, new;
    int64_t most;
    return value_as_text(r, self, &t) && value_as_text(r, &arg[0], &old) && value_as_text(r, &arg[1], &new) &&
           arg_int(r, &arg[2], -1, &most) && text_replace(r, t, old, new, most ? most : -1, out);
}

#define RECASE(name, how)                                                                          \
    static bool name(struct run *r, const struct value *self, const struct value *arg, struct value *out) \
    {                                                                                              \
        struct text t;                                                                             \
        (void)arg;                                                                                 \
        return value_as_text(r, self, &t) && text_recase(r, t, how, out);                                \
    }
RECASE(f_upper, CASE_UPPER)
RECASE(f_lower, CASE_LOWER)
RECASE(f_capitalize, CASE_CAPITAL)
RECASE(f_title, CASE_TITLE)

static bool f_tojson(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    struct sink s = {0};
    int64_t indent;
    if (arg[1].type == V_INT && arg[1].integer < 0) return run_refuse(r, "JSON with a negative indent");
    if (given(&arg[2]) || value_is_true(&arg[3])) return run_refuse(r, "JSON with separators or sorted keys");
    if (arg_int(r, &arg[1], -1, &indent) && value_json(r, self, indent, value_is_true(&arg[0]), &s))
        return sink_value(r, &s, out);
    sink_release(&s);
    return false;
}

static bool is_decimal(struct text t)
{
    size_t i = t.len && (t.s[0] == '-' || t.s[0] == '+');
    if (i == t.len || t.len - i > 18) return false;
    while (i < t.len && t.s[i] >= '0' && t.s[i] <= '9') i++;
    return i == t.len;
}

static bool f_int(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    struct value t = value_int(0);
    *out = *self;
    if (self->type == V_INT) return true;
    if (self->type == V_BOOL) return arg_int(r, self, 0, &out->integer) && (out->type = V_INT, true);
    if (!is_text(self) || given(arg)) return run_refuse_type(r, "the whole number", self);
    if (!text_strip(r, self->text, NULL, true, true, &t)) return false;
    if (!is_decimal(t.text)) return run_refuse(r, "the whole number of a string that is not decimal digits");
    bool minus = t.text.s[0] == '-';
    *out = value_int(0);
    for (size_t i = 0; i < t.text.len; i++)
        if (t.text.s[i] >= '0') out->integer = out->integer * 10 + (t.text.s[i] - '0');
    if (minus) out->integer = -out->integer;
    return true;
}

/* ---- one of many ------------------------------------------------------------------------------- */

static bool f_length(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    size_t n;
    (void)arg;
    if (!value_length(r, self, &n)) return false;
    *out = value_int((int64_t)n);
    return true;
}

static bool end_of(struct run *r, const struct value *self, bool last, struct value *out)
{
    struct list *l;
    if (last && self->type == V_LIST && self->list->kind == STREAM) return run_refuse_type(r, "the last element", self);
    if (last && self->type == V_UNDEFINED) return run_refuse_type(r, "the last element", self);
    if (!value_elements(r, self, &l)) return false;
    *out = l->n ? l->item[last ? l->n - 1 : 0] : value_undefined((struct text){"an element", NULL, 10});
    return true;
}

static bool f_first(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    (void)arg;
    return end_of(r, self, false, out);
}

static bool f_last(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    (void)arg;
    return end_of(r, self, true, out);
}

static bool f_default(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    bool instead = self->type == V_UNDEFINED || (value_is_true(&arg[1]) && !value_is_true(self));
    static const struct text empty = {"", (const unsigned char *)"", 0};
    (void)r;
    *out = !instead ? *self : arg[0].type == V_ABSENT ? value_text(empty) : arg[0];
    return true;
}

/* ---- lists ------------------------------------------------------------------------------------- */

static bool copied(struct run *r, const struct value *self, enum list_kind kind, bool backwards, struct value *out)
{
    struct list *l;
    if (!value_elements(r, self, &l) || !value_list(r, kind, l->n, out)) return false;
    for (size_t i = 0; i < l->n; i++) out->list->item[i] = l->item[backwards ? l->n - 1 - i : i];
    return true;
}

static bool f_list(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    (void)arg;
    return copied(r, self, LIST, false, out);
}

static bool f_reverse(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    const struct value back[3] = {{.type = V_ABSENT}, {.type = V_ABSENT}, value_int(-1)};
    (void)arg;
    if (is_text(self))
        return self->markup ? run_refuse(r, "reversing a string marked safe") : value_slice(r, self, back, out);
    if (self->type == V_UNDEFINED || (self->type == V_LIST && self->list->kind == STREAM))
        return run_refuse_type(r, "reversing", self);
    return copied(r, self, STREAM, true, out);
}

static bool f_items(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    (void)arg;
    if (self->type == V_UNDEFINED) return value_list(r, STREAM, 0, out);
    if (self->type != V_DICT) return run_refuse_type(r, "the items", self);
    return dict_listed(r, self->dict, 2, STREAM, out);
}

/* Do the pairs a and b stand in this order, by key? Texts without regard to case. */
static bool ordered(struct run *r, const struct value *a, const struct value *b, bool *out)
{
    struct value x = a->list->item[0], y = b->list->item[0];
    if (is_text(&x) && !text_recase(r, x.text, CASE_LOWER, &x)) return false;
    if (is_text(&y) && !text_recase(r, y.text, CASE_LOWER, &y)) return false;
    return value_compare(r, OP2('<', '='), &x, &y, out);
}

static bool f_dictsort(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    (void)arg;
    if (self->type != V_DICT) return run_refuse_type(r, "the sorted items", self);
    if (!dict_listed(r, self->dict, 2, LIST, out)) return false;
    struct value *item = out->list->item;
    for (size_t i = 1; i < out->list->n; i++)
        for (size_t k = i; k > 0; k--) {
            bool fine;
            if (!ordered(r, &item[k - 1], &item[k], &fine)) return false;
            if (fine) break;
            struct value later = item[k - 1];
            item[k - 1] = item[k];
            item[k] = later;
        }
    return true;
}

/* `attribute` of map, join, select…: names and positions with dots between. */
static bool attribute(struct run *r, const struct value *of, const struct value *path, struct value *out)
{
    if (path->type == V_INT) return value_item(r, of, path, out);
    if (!is_text(path)) return run_refuse_type(r, "an attribute named by", path);
    struct text rest = path->text;
    *out = *of;
    for (bool more = true; more;) {
        const char *dot = memchr(rest.s, '.', rest.len);
        struct text name = text_part(rest, 0, dot ? (size_t)(dot - rest.s) : rest.len);
        struct value of_this = *out, key = value_text(name);
        if (name.len == 0 || (name.s[0] >= '0' && name.s[0] <= '9'))
            return run_refuse(r, "an attribute that is a number");
        if (!value_item(r, &of_this, &key, out)) return false;
        more = dot != NULL;
        if (more) rest = text_part(rest, name.len + 1, rest.len);
    }
    return true;
}

static bool f_join(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    struct list *l;
    struct sink s = {0};
    bool ok = value_elements(r, self, &l);
    for (size_t i = 0; ok && i < l->n; i++) {
        struct value v = l->item[i];
        struct text unused;
        if (given(&arg[1])) ok = attribute(r, &l->item[i], &arg[1], &v);
        if (ok && is_text(&v)) ok = value_as_text(r, &v, &unused); /* no markup */
        if (ok && i && given(&arg[0])) ok = value_as_text(r, &arg[0], &unused) && value_print(r, &arg[0], &s);
        if (ok) ok = value_print(r, &v, &s);
    }
    if (ok) return sink_value(r, &s, out);
    sink_release(&s);
    return false;
}

/* What map, select… go through: of what is false, nothing. */
static bool streamed(struct run *r, const struct value *v, struct list **out)
{
    struct value none;
    if (value_is_true(v)) return value_elements(r, v, out);
    if (!value_list(r, LIST, 0, &none)) return false;
    *out = none.list;
    return true;
}

/* map("filter", its arguments…), or map(attribute=…, default=…). */
static bool f_map(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    struct list *l;
    struct value rest[2] = {arg[1], arg[2]};
    const struct args args = {rest, given(&arg[1]) + (given(&arg[1]) && given(&arg[2])), NULL};
    bool filter = arg[0].type != V_ABSENT, attr = arg[3].type != V_ABSENT;
    if (filter == attr || (filter && !is_text(&arg[0])) || (filter && arg[4].type != V_ABSENT))
        return run_refuse(r, "map with these arguments");
    if (!streamed(r, self, &l) || !value_list(r, STREAM, l->n, out)) return false;
    for (size_t i = 0; i < l->n; i++) {
        struct value *v = &out->list->item[i];
        if (filter && !filter_call(r, arg[0].text, &l->item[i], &args, v)) return false;
        if (attr && !attribute(r, &l->item[i], &arg[3], v)) return false;
        if (attr && v->type == V_UNDEFINED && arg[4].type != V_ABSENT) *v = arg[4];
    }
    return true;
}

/* Keep the elements whose test comes out as wanted. arg: test and its argument; none: is it true. */
static bool chosen(struct run *r, const struct value *v, const struct value *arg, bool *is)
{
    struct value rest = arg[1];
    const struct args args = {&rest, rest.type != V_ABSENT, NULL};
    *is = value_is_true(v);
    if (arg[0].type == V_ABSENT) return true;
    if (!is_text(&arg[0])) return run_refuse_type(r, "a test named by", &arg[0]);
    return test_call(r, arg[0].text, v, &args, is);
}

static bool choose(struct run *r, const struct value *self, const struct value *path, const struct value *arg,
                   bool want, struct value *out)
{
    struct list *l;
    if (!streamed(r, self, &l) || !value_list(r, STREAM, l->n, out)) return false;
    out->list->n = 0;
    for (size_t i = 0; i < l->n; i++) {
        bool is;
        struct value v = l->item[i];
        if (!run_spend(r, 1) || (path && !attribute(r, &l->item[i], path, &v)) || !chosen(r, &v, arg, &is))
            return false;
        if (is == want) out->list->item[out->list->n++] = l->item[i];
    }
    return true;
}

static bool f_select(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    return choose(r, self, NULL, arg, true, out);
}

static bool f_reject(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    return choose(r, self, NULL, arg, false, out);
}

static bool f_selectattr(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    return choose(r, self, arg, arg + 1, true, out);
}

static bool f_rejectattr(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    return choose(r, self, arg, arg + 1, false, out);
}

const struct callee jinja_filters[] = {
    {"string", "", 0, f_string},
    {"safe", "", 0, f_safe},
    {"trim", "chars", 0, f_trim},
    {"replace", "old new count", 2, f_replace},
    {"upper", "", 0, f_upper},
    {"lower", "", 0, f_lower},
    {"capitalize", "", 0, f_capitalize},
    {"title", "", 0, f_title},
    {"tojson", "ensure_ascii indent separators sort_keys", 0, f_tojson},
    {"int", "default", 0, f_int},
    {"length", "", 0, f_length},
    {"count", "", 0, f_length},
    {"first", "", 0, f_first},
    {"last", "", 0, f_last},
    {"default", "default_value boolean", 0, f_default},
    {"d", "default_value boolean", 0, f_default},
    {"list", "", 0, f_list},
    {"reverse", "", 0, f_reverse},
    {"items", "", 0, f_items},
    {"dictsort", "", 0, f_dictsort},
    {"join", "d attribute", 0, f_join},
    {"map", "- - - *attribute *default", 0, f_map},
    {"select", "- -", 0, f_select},
    {"reject", "- -", 0, f_reject},
    {"selectattr", "- - -", 1, f_selectattr},
    {"rejectattr", "- - -", 1, f_rejectattr},
    {NULL, NULL, 0, NULL},
};
