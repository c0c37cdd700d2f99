/* Methods of strings and dicts: Python's, in its immutable sandbox. */
#include <string.h>

#include "lex.h"
#include "state.h"

/* ---- strings ----------------------------------------------------------------------------------- */

static bool strip(struct run *r, const struct value *self, const struct value *arg, bool left, bool right,
                  struct value *out)
{
    struct text chars;
    bool given = arg->type != V_ABSENT && arg->type != V_NONE;
    if (given && !arg_text(r, arg, &chars)) return false;
    return text_strip(r, self->text, given ? &chars : NULL, left, right, out);
}

static bool m_strip(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    return strip(r, self, arg, true, true, out);
}

static bool m_lstrip(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    return strip(r, self, arg, true, false, out);
}

static bool m_rstrip(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    return strip(r, self, arg, false, true, out);
}

static bool affix(struct run *r, struct text t, const struct value *want, bool at_end, bool *out)
{
    struct text w;
    if (!arg_text(r, want, &w)) return false;
    *out = w.len <= t.len && (!w.len || memcmp(at_end ? t.s + t.len - w.len : t.s, w.s, w.len) == 0);
    return true;
}

/* One string, or any of a tuple of them. */
static bool any_affix(struct run *r, const struct value *self, const struct value *arg, bool at_end,
                      struct value *out)
{
    bool is = false, tuple = arg->type == V_LIST && arg->list->kind == TUPLE;
    if (!tuple && !affix(r, self->text, arg, at_end, &is)) return false;
    for (size_t i = 0; tuple && !is && i < arg->list->n; i++)
        if (!run_spend(r, 1) || !affix(r, self->text, &arg->list->item[i], at_end, &is)) return false;
    *out = value_bool(is);
    return true;
}

static bool m_startswith(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    return any_affix(r, self, arg, false, out);
}

static bool m_endswith(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    return any_affix(r, self, arg, true, out);
}

static bool without_affix(struct run *r, const struct value *self, const struct value *arg, bool at_end,
                          struct value *out)
{
    bool is;
    struct text t = self->text;
    if (!affix(r, t, arg, at_end, &is)) return false;
    if (is && at_end) t.len -= arg->text.len;
    else if (is) t = text_part(t, arg->text.len, t.len);
    *out = value_text(t);
    return true;
}

static bool m_removeprefix(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    return without_affix(r, self, arg, false, out);
}

static bool m_removesuffix(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    return without_affix(r, self, arg, true, out);
}

/* The next piece of t from `at`, and where the one after begins; SIZE_MAX: it is the last. */
static bool next_piece(struct run *r, struct text t, const struct text *by, size_t at, struct text *piece,
                       size_t *next)
{
    if (by) {
        size_t found;
        if (!text_find(r, t, *by, at, &found)) return false;
        *piece = text_part(t, at, found == SIZE_MAX ? t.len : found);
        *next = found == SIZE_MAX ? SIZE_MAX : found + by->len;
        return true;
    }
    size_t end = at;
    while (end < t.len && !python_space_left(t.s + end, t.len - end))
        do end++;
        while (end < t.len && ((unsigned char)t.s[end] & 0xC0) == 0x80);
    *piece = text_part(t, at, end);
    *next = end + python_space_left(t.s + end, t.len - end);
    if (*next == t.len) *next = SIZE_MAX;
    return run_spend_bytes(r, end - at);
}

/* by NULL: at white space, which is also taken off both ends. */
static bool split(struct run *r, struct text t, const struct text *by, int64_t most, struct value *out)
{
    size_t at = by ? 0 : python_space_left(t.s, t.len), n = 0, cap = 4;
    struct value *item = run_take(r, cap, sizeof *item);
    bool more = item && (by || at < t.len);
    while (item && more) {
        struct text piece = text_part(t, at, t.len);
        size_t next = SIZE_MAX;
        if ((most < 0 || n < (uint64_t)most) && !next_piece(r, t, by, at, &piece, &next)) return false;
        if (n == cap) {
            struct value *grown = run_take(r, cap *= 2, sizeof *grown);
            if (!grown) return false;
            item = memcpy(grown, item, n * sizeof *grown);
        }
        item[n++] = value_text(piece);
        more = next != SIZE_MAX;
        at = next;
    }
    if (!item || !value_list(r, LIST, n, out)) return false;
    memcpy(out->list->item, item, n * sizeof *item);
    return true;
}

static bool m_split(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    struct text by;
    int64_t most;
    bool given = arg->type != V_ABSENT && arg->type != V_NONE;
    if ((given && !arg_text(r, arg, &by)) || !arg_int(r, &arg[1], -1, &most)) return false;
    if (given && by.len == 0) return run_refuse(r, "split at an empty string");
    return split(r, self->text, given ? &by : NULL, most, out);
}

static bool m_replace(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    struct text old, new;
    int64_t most;
    return arg_text(r, arg, &old) && arg_text(r, &arg[1], &new) && arg_int(r, &arg[2], -1, &most) &&
           text_replace(r, self->text, old, new, most, out);
}

static bool m_find(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    struct text what;
    size_t at;
    if (!arg_text(r, arg, &what) || !text_find(r, self->text, what, 0, &at)) return false;
    *out = value_int(at == SIZE_MAX ? -1 : (int64_t)text_characters(text_part(self->text, 0, at)));
    return true;
}

static bool m_count(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    struct text what;
    int64_t n = 0;
    if (!arg_text(r, arg, &what)) return false;
    if (what.len == 0) return run_refuse(r, "count of an empty string");
    for (size_t at = 0;; at += what.len, n++) {
        if (!text_find(r, self->text, what, at, &at)) return false;
        if (at == SIZE_MAX) break;
    }
    *out = value_int(n);
    return true;
}

static bool m_join(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    struct list *list;
    struct sink s = {0};
    bool ok = value_elements(r, arg, &list);
    for (size_t i = 0; ok && i < list->n; i++) {
        struct text t;
        ok = arg_text(r, &list->item[i], &t);
        if (ok && i) ok = value_print(r, self, &s);
        if (ok) ok = value_print(r, &list->item[i], &s);
    }
    if (ok) return sink_value(r, &s, out);
    sink_release(&s);
    return false;
}

#define RECASE(name, how)                                                                          \
    static bool name(struct run *r, const struct value *self, const struct value *arg, struct value *out) \
    {                                                                                              \
        (void)arg;                                                                                 \
        return text_recase(r, self->text, how, out);                                               \
    }
RECASE(m_upper, CASE_UPPER)
RECASE(m_lower, CASE_LOWER)
RECASE(m_capitalize, CASE_CAPITAL)

const struct callee jinja_text_methods[] = {
    {"strip", "-", 0, m_strip},
    {"lstrip", "-", 0, m_lstrip},
    {"rstrip", "-", 0, m_rstrip},
    {"startswith", "-", 1, m_startswith},
    {"endswith", "-", 1, m_endswith},
    {"removeprefix", "-", 1, m_removeprefix},
    {"removesuffix", "-", 1, m_removesuffix},
    {"split", "sep maxsplit", 0, m_split},
    {"replace", "- - -", 2, m_replace},
    {"find", "-", 1, m_find},
    {"count", "-", 1, m_count},
    {"join", "-", 1, m_join},
    {"upper", "", 0, m_upper},
    {"lower", "", 0, m_lower},
    {"capitalize", "", 0, m_capitalize},
    {NULL, NULL, 0, NULL},
};

/* ---- dicts ------------------------------------------------------------------------------------- */

static bool m_get(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    const struct value *v = dict_find(r, self->dict, arg);
    *out = v ? *v : arg[1].type == V_ABSENT ? VALUE_NONE : arg[1];
    return true;
}

static bool m_keys(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    (void)arg;
    return dict_listed(r, self->dict, 0, VIEW, out);
}

static bool m_values(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    (void)arg;
    return dict_listed(r, self->dict, 1, VIEW, out);
}

static bool m_items(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    (void)arg;
    return dict_listed(r, self->dict, 2, VIEW, out);
}

const struct callee jinja_dict_methods[] = {
    {"get", "- -", 1, m_get},
    {"keys", "", 0, m_keys},
    {"values", "", 0, m_values},
    {"items", "", 0, m_items},
    {NULL, NULL, 0, NULL},
};
