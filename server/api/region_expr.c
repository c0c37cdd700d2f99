#include "region_expr.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/site.h"

struct reading {
    const struct model *m;
    const char *model_id;
    struct ledger_reader *r;
    struct arena *a;
    struct region_told *out; /* whose names are shared */
};

struct value { /* of a part of the expression */
    enum region_unit unit;
    struct region set;
};

enum { FIELD = 120 };
static const char *below(char out[FIELD], const char *field, const char *fmt, ...) PRINTF_LIKE(3, 4);
static const char *below(char out[FIELD], const char *field, const char *fmt, ...)
{
    int n = snprintf(out, FIELD, "%.90s", field);
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(out + n, (size_t)(FIELD - n), fmt, ap);
    va_end(ap);
    return out;
}

/* ---- members ------------------------------------------------------------------------------------------- */

static bool only(const struct json *v, const char *field, const char *a, const char *b, const char *c, struct err *e)
{
    if (v->type != JSON_OBJECT) return err_field(e, ERR_INVALID, field, "a member is an object");
    for (const struct json *k = v->child; k; k = k->next)
        if (strcmp(k->key, a) != 0 && (!b || strcmp(k->key, b) != 0) && (!c || strcmp(k->key, c) != 0))
            return err_field(e, ERR_INVALID, field, "unknown field \"%.64s\"; a member here has %s%s%s%s%s", k->key, a, b ? ", " : "",
                             b ? b : "", c ? ", " : "", c ? c : "");
    return true;
}

static bool number(const struct json *v, const char *name, uint64_t n, const char *field, uint64_t *out, struct err *e)
{
    char at[FIELD];
    const struct json *x = json_get(v, name);
    if (!x || x->type != JSON_NUMBER || !x->is_int || x->integer < 0 || (uint64_t)x->integer >= n)
        return err_field(e, ERR_INVALID, below(at, field, ".%s", name), "an integer, 0 to %llu", (unsigned long long)n - 1);
    *out = (uint64_t)x->integer;
    return true;
}

static bool text(const struct json *v, const char *name, const char *field, const char **out, struct err *e)
{
    char at[FIELD];
    const struct json *x = json_get(v, name);
    if (!x || x->type != JSON_STRING || !x->len) return err_field(e, ERR_INVALID, below(at, field, ".%s", name), "a text");
    *out = x->text;
    return true;
}

static bool range(const struct json *v, const char *name, uint64_t n, const char *field, uint64_t *from, uint64_t *to, struct err *e)
{
    char at[FIELD];
    const struct json *x = json_get(v, name);
    *from = 0;
    *to = n;
    if (!x) return true;
    const struct json *a = x->type == JSON_ARRAY && x->len == 2 ? x->child : NULL, *b = a ? a->next : NULL;
    if (!a || !a->is_int || !b->is_int || a->integer < 0 || a->integer >= b->integer || (uint64_t)b->integer > n)
        return err_field(e, ERR_INVALID, below(at, field, ".%s", name), "[from, to) within 0..%llu", (unsigned long long)n);
    *from = (uint64_t)a->integer;
    *to = (uint64_t)b->integer;
    return true;
}

struct at { /* a member: where it stands, and the space it is read into */
    const struct json *v;
    const char *field;
    const struct region_space *s;
};

static bool read_layer(struct reading *r, const struct at *x, struct region *out, struct err *e)
{
    uint64_t layer = 0;
    return only(x->v, x->field, "layer", NULL, NULL, e) && number(x->v, "layer", r->m->arch.n_layers, x->field, &layer, e) &&
           region_add(out, layer, layer + 1, e);
}

static bool in_layer(struct reading *r, const struct at *x, const char *name, uint64_t n, struct region *out, struct err *e)
{
    uint64_t layer = 0, i = 0;
    return only(x->v, x->field, "layer", name, NULL, e) && number(x->v, "layer", r->m->arch.n_layers, x->field, &layer, e) &&
           number(x->v, name, n, x->field, &i, e) && region_add(out, x->s->first[layer] + i, x->s->first[layer] + i + 1, e);
}

static bool read_head(struct reading *r, const struct at *x, struct region *out, struct err *e)
{
    return in_layer(r, x, "head", r->m->arch.n_heads, out, e);
}

static bool read_neuron(struct reading *r, const struct at *x, struct region *out, struct err *e)
{
    return in_layer(r, x, "neuron", r->m->arch.d_mlp, out, e);
}

/* Rows and columns of a tensor; what is no matrix is one row. */
static void shape_of(const struct tensor *t, uint64_t *rows, uint64_t *cols)
{
    bool matrix = (uint64_t)t->rows * t->cols == t->n_elements;
    *rows = matrix ? t->rows : 1;
    *cols = matrix ? t->cols : t->n_elements;
}

static bool read_tensor(struct reading *r, const struct at *x, struct region *out, struct err *e)
{
    char at[FIELD];
    const char *name = "";
    size_t i = 0;
    uint64_t rows, cols, r0 = 0, r1 = 0, c0 = 0, c1 = 0;
    if (!only(x->v, x->field, "tensor", "rows", "cols", e) || !text(x->v, "tensor", x->field, &name, e)) return false;
    while (i < r->m->n_tensors && strcmp(r->m->tensors[i].name, name) != 0) i++;
    if (i == r->m->n_tensors)
        return err_field(e, ERR_INVALID, below(at, x->field, ".tensor"), "this model has no tensor \"%.64s\"", name);
    shape_of(&r->m->tensors[i], &rows, &cols);
    if (!range(x->v, "rows", rows, x->field, &r0, &r1, e) || !range(x->v, "cols", cols, x->field, &c0, &c1, e)) return false;
    for (uint64_t row = r0; row < r1; row++)
        if (!region_add(out, x->s->first[i] + row * cols + c0, x->s->first[i] + row * cols + c1, e)) return false;
    return true;
}

static bool read_site(struct reading *r, const struct at *x, struct region *out, struct err *e)
{
    char at[FIELD];
    const char *name = "";
    struct site site;
    uint64_t head = 0;
    size_t i = 0;
    if (!only(x->v, x->field, "site", "head", NULL, e) || !text(x->v, "site", x->field, &name, e)) return false;
    if (!site_parse(&r->m->arch, name, &site, e)) {
        (void)snprintf(e->field, sizeof e->field, "%s", below(at, x->field, ".site"));
        return false;
    }
    for (struct site s = site_at(&r->m->arch, 0); s.hook != site.hook || s.layer != site.layer;) s = site_at(&r->m->arch, ++i);
    uint64_t n = x->s->first[i + 1] - x->s->first[i];
    if (!json_get(x->v, "head")) return region_add(out, x->s->first[i], x->s->first[i + 1], e);
    if (hook_info(site.hook)->axis == AXIS_PLAIN) return err_field(e, ERR_INVALID, below(at, x->field, ".head"), "%s has no heads", name);
    return number(x->v, "head", n, x->field, &head, e) && region_add(out, x->s->first[i] + head, x->s->first[i] + head + 1, e);
}

static bool read_position(struct reading *r, const struct at *x, struct region *out, struct err *e)
{
    const char *name = "";
    struct region_told *t = r->out;
    size_t i = 0;
    if (!only(x->v, x->field, "span", NULL, NULL, e) || !text(x->v, "span", x->field, &name, e)) return false;
    while (i < t->n_names && strcmp(t->name[i], name) != 0) i++;
    if (i == REGION_NAMES_MOST) return err_field(e, ERR_TOO_LARGE, x->field, "more than %d spans", REGION_NAMES_MOST);
    if (i == t->n_names && !(t->name[t->n_names++] = arena_text(r->a, name, strlen(name), e))) return false;
    return region_add(out, i, i + 1, e);
}

static bool (*const readers[REGION_UNITS])(struct reading *, const struct at *, struct region *, struct err *) = {
    [REGION_LAYER] = read_layer, [REGION_HEAD] = read_head, [REGION_NEURON] = read_neuron,
    [REGION_TENSOR] = read_tensor, [REGION_SITE] = read_site, [REGION_POSITION] = read_position,
};

static bool unit_of(const struct json *v, const char *field, enum region_unit *out, struct err *e)
{
    return (v && v->type == JSON_STRING && region_unit_parse(v->text, out)) ||
           err_field(e, ERR_INVALID, field, "a unit is layer, head, neuron, tensor, site or position");
}

static bool read_members(struct reading *r, const struct json *v, const char *field, struct value *out, struct err *e)
{
    char at[FIELD];
    const struct json *members = json_get(v, "members");
    struct region_space s;
    size_t i = 0;
    if (!unit_of(json_get(v, "unit"), below(at, field, ".unit"), &out->unit, e)) return false;
    if (!members || members->type != JSON_ARRAY) return err_field(e, ERR_INVALID, below(at, field, ".members"), "a list");
    if (!region_space_init(&s, r->m, out->unit, 0, e)) return false;
    bool ok = true;
    for (const struct json *k = members->child; ok && k; k = k->next)
        ok = readers[out->unit](r, &(struct at){k, below(at, field, ".members[%zu]", i++), &s}, &out->set, e);
    region_space_release(&s);
    if (ok) region_settle(&out->set);
    return ok;
}

/* ---- expressions --------------------------------------------------------------------------------------- */

static bool evaluate(struct reading *r, const struct json *v, const char *field, struct value *out, struct err *e);

static bool read_named(struct reading *r, const struct json *v, const char *field, struct value *out, struct err *e)
{
    struct artefact_row row;
    struct buf b = {0};
    const struct json *name = v, *content = NULL;
    if (name->type != JSON_STRING) return err_field(e, ERR_INVALID, field, "the id or name of a region");
    bool ok = ledger_artefact(r->r, "region", r->model_id, name->text, &row, e);
    if (!ok && !e->field[0]) (void)snprintf(e->field, sizeof e->field, "%s", field);
    if (!ok) return false;
    if (strcmp(row.model, r->model_id) != 0) ok = err_field(e, ERR_INVALID, field, "%s is a region of another model", row.id);
    ok = ok && ledger_artefact_content(r->r, &row, &b, e) && (content = json_parse(b.data, b.len, r->a, e)) != NULL &&
         read_members(r, content, field, out, e);
    buf_release(&b);
    artefact_row_release(&row);
    return ok;
}

static bool read_all(struct reading *r, const struct json *v, const char *field, struct value *out, struct err *e)
{
    struct region_space s;
    if (!unit_of(v, field, &out->unit, e)) return false;
    if (out->unit == REGION_POSITION) return err_field(e, ERR_INVALID, field, "positions are names: there is no whole of them");
    if (!region_space_init(&s, r->m, out->unit, 0, e)) return false;
    bool ok = region_add(&out->set, 0, s.first[s.n_lanes], e);
    region_space_release(&s);
    return ok;
}

static bool read_complement(struct reading *r, const struct json *v, const char *field, struct value *out, struct err *e)
{
    struct value a = {0};
    struct region_space s;
    bool ok = evaluate(r, v, field, &a, e);
    out->unit = a.unit;
    if (ok && a.unit == REGION_POSITION) ok = err_field(e, ERR_INVALID, field, "positions are names: there is no whole of them");
    if (ok && (ok = region_space_init(&s, r->m, a.unit, 0, e))) {
        ok = region_complement(&s, &a.set, &out->set, e);
        region_space_release(&s);
    }
    region_release(&a.set);
    return ok;
}

typedef bool (*operation)(const struct region *a, const struct region *b, struct region *out, struct err *e);

static bool fold(struct reading *r, const struct json *v, const char *field, operation op, size_t most, struct value *out, struct err *e)
{
    char at[FIELD];
    size_t i = 0;
    if (v->type != JSON_ARRAY || !v->len || (most && v->len != most))
        return err_field(e, ERR_INVALID, field, most ? "a list of two regions" : "a list of at least one region");
    for (const struct json *k = v->child; k; k = k->next, i++) {
        struct value b = {0};
        struct region both = {0};
        bool ok = evaluate(r, k, below(at, field, "[%zu]", i), &b, e);
        if (ok && i && b.unit != out->unit)
            ok = err_field(e, ERR_INVALID, at, "its unit is %s, that of the ones before %s", region_unit_word(b.unit), region_unit_word(out->unit));
        if (ok && !i) {
            *out = b;
            continue;
        }
        ok = ok && op(&out->set, &b.set, &both, e);
        region_release(&b.set);
        if (!ok) return false;
        region_release(&out->set);
        out->set = both;
    }
    return true;
}

static bool read_union(struct reading *r, const struct json *v, const char *field, struct value *out, struct err *e)
{
    return fold(r, v, field, region_union, 0, out, e);
}
static bool read_intersect(struct reading *r, const struct json *v, const char *field, struct value *out, struct err *e)
{
    return fold(r, v, field, region_intersect, 0, out, e);
}
static bool read_minus(struct reading *r, const struct json *v, const char *field, struct value *out, struct err *e)
{
    return fold(r, v, field, region_minus, 2, out, e);
}

static const struct {
    const char *word;
    bool (*read)(struct reading *, const struct json *, const char *, struct value *, struct err *);
} forms[] = {
    {"region", read_named}, {"union", read_union}, {"intersect", read_intersect},
    {"minus", read_minus}, {"complement", read_complement}, {"all", read_all},
};

static bool evaluate(struct reading *r, const struct json *v, const char *field, struct value *out, struct err *e)
{
    char at[FIELD];
    if (v->type == JSON_OBJECT && v->len == 2 && json_get(v, "unit") && json_get(v, "members")) return read_members(r, v, field, out, e);
    for (size_t i = 0; v->type == JSON_OBJECT && v->len == 1 && i < sizeof forms / sizeof *forms; i++)
        if (strcmp(v->child->key, forms[i].word) == 0)
            return forms[i].read(r, v->child, below(at, field, ".%s", forms[i].word), out, e);
    return err_field(e, ERR_INVALID, field, "a region is {\"unit\",\"members\"}, or one of region, union, intersect, minus, complement, all");
}

bool region_expr(const struct json *expr, const char *field, const struct model *m, const char *model_id, struct ledger_reader *reader,
                 struct arena *a, struct region_told *out, struct err *e)
{
    struct value v = {0};
    struct reading r = {m, model_id, reader, a, out};
    *out = (struct region_told){0};
    bool ok = evaluate(&r, expr, field, &v, e);
    out->unit = v.unit;
    out->set = v.set;
    if (!ok) region_told_release(out);
    return ok;
}

void region_told_release(struct region_told *t) { region_release(&t->set); }
