#include "validate.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PATH = sizeof((struct err *)0)->field, SHOWN = 48 };

struct walk {
    struct arena *arena;
    struct err *e;
    bool from_text;
    bool (*open)(const struct json *v); /* or NULL */
    size_t n;
    char path[PATH];
};

static bool check(struct walk *w, const struct shape *s, const struct json *in, struct json *out);

/* ---- paths and sentences ----------------------------------------------------------------------- */

/* Bytes of text that fit into max without cutting a character. */
static size_t clip(const char *text, size_t len, size_t max)
{
    if (len <= max) return len;
    while (max && ((unsigned char)text[max] & 0xC0) == 0x80) max--;
    return max;
}

static size_t push_member(struct walk *w, const char *name, size_t len)
{
    size_t before = w->n, left = sizeof w->path - 1 - w->n;
    if (left && w->n) w->path[w->n++] = '.', left--;
    size_t n = clip(name, len, left);
    memcpy(w->path + w->n, name, n);
    w->path[w->n += n] = '\0';
    return before;
}

static size_t push_element(struct walk *w, size_t i)
{
    size_t before = w->n, left = sizeof w->path - w->n;
    int n = snprintf(w->path + w->n, left, "[%zu]", i);
    w->n = (size_t)n < left ? w->n + (size_t)n : sizeof w->path - 1;
    return before;
}

static void pop(struct walk *w, size_t before) { w->path[w->n = before] = '\0'; }

#define FAULT(w, ...) err_field((w)->e, ERR_INVALID, (w)->path, __VA_ARGS__)

static const char *const kind_words[] = {
    [SHAPE_BOOL] = "true or false", [SHAPE_INT] = "an integer", [SHAPE_NUMBER] = "a number",
    [SHAPE_STRING] = "a string",    [SHAPE_LIST] = "a list",    [SHAPE_OBJECT] = "an object",
    [SHAPE_MAP] = "an object",      [SHAPE_UNION] = NULL,
};
static_assert(sizeof kind_words / sizeof *kind_words == SHAPE_UNION + 1, "a word per kind");

static const char *type_word(enum json_type t)
{
    static const char *const words[] = {
        [JSON_NULL] = "null",       [JSON_BOOL] = "a boolean", [JSON_NUMBER] = "a number",
        [JSON_STRING] = "a string", [JSON_ARRAY] = "a list",   [JSON_OBJECT] = "an object",
    };
    return words[t];
}

/* "an integer, a list or a string" */
static void say_kinds(const struct shape *s, struct buf *b)
{
    if (s->kind != SHAPE_UNION) {
        buf_text(b, kind_words[s->kind]);
        return;
    }
    for (size_t i = 0; s->of[i]; i++) {
        if (i) buf_text(b, s->of[i + 1] ? ", " : " or ");
        buf_text(b, kind_words[s->of[i]->kind]);
    }
}

static bool wrong_type(struct walk *w, const struct shape *s, const struct json *in)
{
    struct buf b = {0};
    say_kinds(s, &b);
    if (w->from_text && in->type == JSON_STRING)
        (void)FAULT(w, "must be %s; \"%.*s\" is not", b.failed ? "of another type" : b.data,
                    (int)clip(in->text, in->len, SHOWN), in->text);
    else if (in->type == JSON_NUMBER && s->kind == SHAPE_INT)
        (void)FAULT(w, "must be %s; %.17g is not", b.failed ? "of another type" : b.data, in->number);
    else
        (void)FAULT(w, "must be %s, not %s", b.failed ? "of another type" : b.data,
                    type_word(in->type));
    buf_release(&b);
    return false;
}

static bool out_of_range(struct walk *w, const struct shape *s, const char *what, const char *unit)
{
    if (s->min == s->max) return FAULT(w, "%smust be %.17g%s", what, s->min, unit);
    if (isinf(s->max)) return FAULT(w, "%smust be at least %.17g%s", what, s->min, unit);
    if (isinf(s->min)) return FAULT(w, "%smust be at most %.17g%s", what, s->max, unit);
    return FAULT(w, "%smust be between %.17g and %.17g%s", what, s->min, s->max, unit);
}

static bool inside(const struct shape *s, double v) { return v >= s->min && v <= s->max; }

/* ---- nearest name ------------------------------------------------------------------------------ */

enum { NAME_MAX_LEN = 40 };

/* Edits (insert, delete, replace, swap of neighbours) from a to b; both at most NAME_MAX_LEN. */
static unsigned distance(const char *a, size_t n, const char *b, size_t m)
{
    unsigned char row[3][NAME_MAX_LEN + 1];
    assert(n <= NAME_MAX_LEN && m <= NAME_MAX_LEN);
    for (size_t j = 0; j <= m; j++) row[0][j] = (unsigned char)j;
    for (size_t i = 1; i <= n; i++) {
        unsigned char *now = row[i % 3], *last = row[(i + 2) % 3], *older = row[(i + 1) % 3];
        now[0] = (unsigned char)i;
        for (size_t j = 1; j <= m; j++) {
            unsigned best = last[j - 1] + (a[i - 1] != b[j - 1]);
            if (last[j] + 1u < best) best = last[j] + 1u;
            if (now[j - 1] + 1u < best) best = now[j - 1] + 1u;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                older[j - 2] + 1u < best)
                best = older[j - 2] + 1u;
            now[j] = (unsigned char)best;
        }
    }
    return row[n % 3][m];
}

const char *nearest_name(const char *name, const char *const *names, size_t n)
{
    size_t len = strlen(name);
    if (len == 0 || len > NAME_MAX_LEN) return NULL;
    const char *best = NULL;
    unsigned least = 3; /* three typing errors are another word */
    for (size_t i = 0; i < n; i++) {
        size_t m = strlen(names[i]);
        if (m > NAME_MAX_LEN) continue;
        bool grown = len >= 4 && m >= 4 && /* "target" for "target_new" */
                     strncmp(name, names[i], len < m ? len : m) == 0;
        unsigned d = grown ? 1 : distance(name, len, names[i], m);
        if (d < least && d < len) best = names[i], least = d;
    }
    return best;
}

static bool unknown_member(struct walk *w, const struct shape *s, const struct json *m)
{
    const char *names[64];
    size_t n = 0;
    struct buf all = {0};
    for (size_t i = 0; i < s->n_fields && n < 64; i++) {
        if (!s->fields[i].shown) continue;
        buf_printf(&all, "%s%s", n ? ", " : "", s->fields[i].name);
        names[n++] = s->fields[i].name;
    }
    const char *near = nearest_name(m->key, names, n), *what = w->from_text ? "parameter" : "field";
    (void)push_member(w, m->key, m->key_len);
    if (near)
        (void)FAULT(w, "unknown %s; did you mean \"%s\"?", what, near);
    else if (n && !all.failed)
        (void)FAULT(w, "unknown %s; known here: %s", what, all.data);
    else
        (void)FAULT(w, "unknown %s; none is known here", what);
    buf_release(&all);
    return false;
}

/* ---- values ------------------------------------------------------------------------------------ */

static bool check_number(struct walk *w, const struct shape *s, const struct json *in,
                         struct json *out)
{
    *out = *in;
    if (!inside(s, in->number)) return out_of_range(w, s, "", "");
    if (s->kind == SHAPE_NUMBER || in->is_int) return true;
    /* 3.0 is the integer 3; past 2^53 a double no longer says which integer was meant. */
    if (in->number != floor(in->number) || fabs(in->number) > 0x1p53) return wrong_type(w, s, in);
    out->is_int = true;
    out->integer = (int64_t)in->number;
    return true;
}

static bool check_string(struct walk *w, const struct shape *s, const struct json *in,
                         struct json *out)
{
    *out = *in;
    if (in->len == 0 && s->min > 0) return FAULT(w, "must not be empty");
    if (!inside(s, (double)in->len)) return out_of_range(w, s, "", " bytes long");
    if (!s->choices) return true;
    size_t n = 0;
    for (; s->choices[n]; n++)
        if (strcmp(in->text, s->choices[n]) == 0) return true;
    struct buf b = {0};
    for (size_t i = 0; i < s->n_choices_shown; i++)
        buf_printf(&b, "%s\"%s\"", i == 0 ? "" : i + 1 < s->n_choices_shown ? ", " : " or ",
                   s->choices[i]);
    (void)FAULT(w, "must be %s; \"%.*s\" is not", b.failed ? "one of the choices" : b.data,
                (int)clip(in->text, in->len, SHOWN), in->text);
    buf_release(&b);
    return false;
}

/* A node becomes what its shape makes of it, and keeps its place. */
static bool check_in_place(struct walk *w, const struct shape *s, struct json *node)
{
    struct json was = *node, now;
    if (!check(w, s, &was, &now)) return false;
    now.key = was.key;
    now.key_len = was.key_len;
    now.next = was.next;
    *node = now;
    return true;
}

static bool check_list(struct walk *w, const struct shape *s, const struct json *in,
                       struct json *out)
{
    *out = *in;
    if (in->len == 0 && s->min > 0) return FAULT(w, "must not be empty");
    if (!inside(s, (double)in->len)) return out_of_range(w, s, "", " elements long");
    size_t i = 0;
    for (struct json *c = in->child; c; c = c->next, i++) {
        size_t before = push_element(w, i);
        if (!check_in_place(w, s->item, c)) return false;
        pop(w, before);
    }
    return true;
}

/* The member, or NULL when it is absent, null or (in a query) empty. */
static const struct json *given(const struct walk *w, const struct json *object, const char *name)
{
    const struct json *v = json_get(object, name);
    if (!v || v->type == JSON_NULL) return NULL;
    return w->from_text && v->type == JSON_STRING && v->len == 0 ? NULL : v;
}

static bool check_members(struct walk *w, const struct shape *s, const struct json *in)
{
    for (const struct json *m = in->child; m; m = m->next) {
        size_t i = 0;
        while (i < s->n_fields && strcmp(s->fields[i].name, m->key) != 0) i++;
        if (i == s->n_fields) return unknown_member(w, s, m);
    }
    for (size_t g = 0; g < s->n_exactly; g++) {
        const struct exactly *x = &s->exactly[g];
        const char *seen = NULL;
        for (size_t i = 0; x->names[i]; i++) {
            if (!given(w, in, x->names[i])) continue;
            if (seen) {
                (void)push_member(w, x->names[i], strlen(x->names[i]));
                return FAULT(w, "cannot stand beside \"%s\"", seen);
            }
            seen = x->names[i];
        }
        if (seen) continue;
        (void)push_member(w, x->names[0], strlen(x->names[0]));
        return FAULT(w, "required: %s", x->said);
    }
    return true;
}

/* The member of that name as a node of its own, or its default, or NULL. */
static bool take_field(struct walk *w, const struct field *f, const struct json *in, struct json **out)
{
    const struct json *v = given(w, in, f->name);
    *out = NULL;
    for (struct json *m = v ? in->child : NULL; m; m = m->next)
        if (m == v) *out = m;
    if (*out || !f->default_json) return *out || !f->required || FAULT(w, "required");
    v = json_parse(f->default_json, strlen(f->default_json), w->arena, w->e);
    *out = v ? arena_take(w->arena, 1, sizeof **out, w->e) : NULL;
    if (*out) **out = *v;
    return *out != NULL;
}

static bool check_object(struct walk *w, const struct shape *s, const struct json *in,
                         struct json *out)
{
    enum { MOST = 64 };
    struct json *taken[MOST], **tail = &out->child;
    assert(s->n_fields <= MOST);
    *out = (struct json){.type = JSON_OBJECT};
    if (!check_members(w, s, in)) return false;
    for (size_t i = 0; i < s->n_fields; i++) { /* all of them before any is moved */
        const struct field *f = &s->fields[i];
        size_t before = push_member(w, f->name, strlen(f->name));
        if (!take_field(w, f, in, &taken[i]) || (taken[i] && !check_in_place(w, f->shape, taken[i]))) return false;
        pop(w, before);
    }
    for (size_t i = 0; i < s->n_fields; i++) {
        struct json *n = taken[i];
        if (!n) continue;
        n->key = s->fields[i].name;
        n->key_len = strlen(n->key);
        *tail = n;
        tail = &n->next;
        out->len++;
    }
    *tail = NULL;
    return true;
}

static bool fits(enum shape_kind k, enum json_type t)
{
    static const enum json_type wanted[] = {
        [SHAPE_BOOL] = JSON_BOOL,     [SHAPE_INT] = JSON_NUMBER, [SHAPE_NUMBER] = JSON_NUMBER,
        [SHAPE_STRING] = JSON_STRING, [SHAPE_LIST] = JSON_ARRAY, [SHAPE_OBJECT] = JSON_OBJECT,
        [SHAPE_MAP] = JSON_OBJECT,
    };
    return k != SHAPE_UNION && wanted[k] == t;
}

/* A query's text as the number or truth value it spells; NULL when it spells none. */
static const struct json *spelled(struct walk *w, const struct json *in)
{
    struct err ignored;
    return json_parse(in->text, in->len, w->arena, &ignored);
}

static bool check(struct walk *w, const struct shape *s, const struct json *in, struct json *out)
{
    if (w->open && w->open(in)) {
        *out = *in;
        return true;
    }
    if (w->from_text && in->type == JSON_STRING && s->kind <= SHAPE_NUMBER) {
        const struct json *v = spelled(w, in);
        if (!v || !fits(s->kind, v->type)) return wrong_type(w, s, in);
        in = v;
    }
    if (s->kind == SHAPE_UNION) {
        size_t i = 0;
        while (s->of[i] && !fits(s->of[i]->kind, in->type)) i++;
        if (!s->of[i]) return wrong_type(w, s, in);
        s = s->of[i];
    }
    if (!fits(s->kind, in->type)) return wrong_type(w, s, in);
    switch (s->kind) {
    case SHAPE_INT:
    case SHAPE_NUMBER: return check_number(w, s, in, out);
    case SHAPE_STRING: return check_string(w, s, in, out);
    case SHAPE_LIST: return check_list(w, s, in, out);
    case SHAPE_OBJECT: return check_object(w, s, in, out);
    case SHAPE_BOOL:
    case SHAPE_MAP:
    case SHAPE_UNION: break;
    }
    *out = *in;
    return true;
}

static bool check_root(struct walk *w, const struct shape *shape, const struct json *in, const struct json **out)
{
    static const struct json nothing = {.type = JSON_OBJECT};
    assert(shape->kind == SHAPE_OBJECT);
    struct json *root = arena_take(w->arena, 1, sizeof *root, w->e);
    if (!root || !check(w, shape, in ? in : &nothing, root)) return false;
    root->next = NULL;
    *out = root;
    return true;
}

bool validate(const struct shape *shape, const struct json *in, struct arena *a,
              const struct json **out, struct err *e)
{
    struct walk w = {.arena = a, .e = e, .from_text = shape->from_text};
    return check_root(&w, shape, in, out);
}

bool validate_open(const struct shape *shape, const struct json *in, bool (*open)(const struct json *v),
                   struct arena *a, const struct json **out, struct err *e)
{
    struct walk w = {.arena = a, .e = e, .from_text = shape->from_text, .open = open};
    return check_root(&w, shape, in, out);
}
