#include "recipe_plan.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "core/base/json_write.h"
#include "server/part.h"
#include "server/recipes.h"
#include "server/validate.h"
#include "shapes.h"

enum { FIELD = sizeof((struct err *)0)->field };

/* ---- where plans come from ------------------------------------------------------------------------------- */

static const struct built_in *built_in(const char *name)
{
    for (size_t i = 0; i < n_built_ins; i++)
        if (strcmp(built_ins[i].name, name) == 0) return &built_ins[i];
    return NULL;
}

bool recipe_is_built_in(const char *name) { return built_in(name) != NULL; }

/* The ledger's sentence, and a built-in name that is spelled nearly so. */
static bool not_found(const char *name, const char *field, struct err *e)
{
    const char *names[64];
    size_t n = 0;
    for (; n < n_built_ins && n < 64; n++) names[n] = built_ins[n].name;
    const char *near = nearest_name(name, names, n);
    return err_field(e, ERR_NOT_FOUND, field, "no recipe \"%.64s\"%s%s; GET /v1/recipes lists them", name, near ? "; did you mean " : "",
                     near ? near : "");
}

bool recipe_open(struct recipe_source *s, struct ledger_reader *r, const char *name, const char *field, struct err *e)
{
    const struct built_in *b = built_in(name);
    *s = (struct recipe_source){.built_in = b != NULL};
    if (b) {
        s->text = b->text;
        s->len = (size_t)(b->end - b->text);
        return true;
    }
    if (!ledger_artefact(r, "recipe", NULL, name, &s->row, e)) return e->code == ERR_NOT_FOUND ? not_found(name, field, e) : false;
    if (!ledger_artefact_content(r, &s->row, &s->stored, e)) {
        recipe_close(s);
        return false;
    }
    s->text = s->stored.data;
    s->len = s->stored.len;
    return true;
}

void recipe_close(struct recipe_source *s)
{
    artefact_row_release(&s->row);
    buf_release(&s->stored);
}

const struct json *recipe_parse(const char *text, size_t len, struct arena *a, struct err *e)
{
    const struct json *in = json_parse(text, len, a, e), *out;
    return in && validate(&shape_Recipe, in, a, &out, e) ? out : NULL;
}

/* ---- parameters ------------------------------------------------------------------------------------------ */

/* Of a path's first word, so no dots; and of documents' tables. */
static bool good_name(const char *name, const char *field, struct err *e)
{
    for (const char *p = name; *p; p++)
        if (!isalnum((unsigned char)*p) && *p != '_')
            return err_field(e, ERR_INVALID, field, "\"%.64s\": a name has letters, digits and underscores", name);
    return true;
}

static const struct { const char *word; enum json_type type; } types[] = {
    {"bool", JSON_BOOL}, {"int", JSON_NUMBER}, {"number", JSON_NUMBER}, {"string", JSON_STRING},
    {"list", JSON_ARRAY}, {"object", JSON_OBJECT}, {"any", JSON_NULL},
};
enum { TYPES = sizeof types / sizeof *types };

static bool type_fits(const char *type, const struct json *v)
{
    if (strcmp(type, "int") == 0 && !v->is_int) return false;
    for (size_t i = 0; i < TYPES; i++)
        if (strcmp(types[i].word, type) == 0 && types[i].type != JSON_NULL) return v->type == types[i].type;
    return v->type != JSON_NULL; /* any */
}

/* {"type", "default", "min", "max", "doc"} */
static bool check_spec(const struct json *spec, const char *field, struct err *e)
{
    static const struct { const char *word; enum json_type type; } members[] = {
        {"type", JSON_STRING}, {"default", JSON_NULL}, {"min", JSON_NUMBER}, {"max", JSON_NUMBER}, {"doc", JSON_STRING},
    };
    if (spec->type != JSON_OBJECT) return err_field(e, ERR_INVALID, field, "must be an object with \"type\", \"default\", \"min\", \"max\", \"doc\"");
    for (const struct json *m = spec->child; m; m = m->next) {
        size_t i = 0, n = sizeof members / sizeof *members;
        while (i < n && strcmp(members[i].word, m->key) != 0) i++;
        if (i == n) return err_field(e, ERR_INVALID, field, "\"%.64s\": a parameter has \"type\", \"default\", \"min\", \"max\", \"doc\"", m->key);
        if (members[i].type != JSON_NULL && m->type != members[i].type)
            return err_field(e, ERR_INVALID, field, "\"%s\" is of the wrong type", m->key);
    }
    const struct json *type = json_get(spec, "type");
    for (size_t i = 0; type && i < TYPES; i++)
        if (strcmp(types[i].word, type->text) == 0) return true;
    return err_field(e, ERR_INVALID, field, "\"type\" must be bool, int, number, string, list, object or any");
}

static bool in_range(const struct json *spec, const struct json *v, const char *field, struct err *e)
{
    const struct json *min = json_get(spec, "min"), *max = json_get(spec, "max");
    double x = v->type == JSON_NUMBER ? v->number : (double)v->len;
    const char *what = v->type == JSON_STRING ? " bytes" : v->type == JSON_ARRAY ? " elements" : "";
    if (v->type == JSON_BOOL || v->type == JSON_OBJECT) return true;
    if (min && x < min->number) return err_field(e, ERR_INVALID, field, "must be at least %.17g%s", min->number, what);
    if (max && x > max->number) return err_field(e, ERR_INVALID, field, "must be at most %.17g%s", max->number, what);
    return true;
}

static bool check_value(const struct json *spec, const struct json *v, const char *field, struct err *e)
{
    const char *type = json_get(spec, "type")->text;
    if (type_fits(type, v)) return in_range(spec, v, field, e);
    return err_field(e, ERR_INVALID, field, "must be of type %s", type);
}

/* The value of one parameter into out: the caller's, or its default. */
static bool take_param(const struct json *spec, const struct json *given, struct arena *a, struct json *out, struct err *e)
{
    char where[FIELD], said[FIELD];
    (void)snprintf(where, sizeof where, "recipe.params.%.64s", spec->key);
    (void)snprintf(said, sizeof said, "params.%.64s", spec->key);
    if (!good_name(spec->key, where, e) || !check_spec(spec, where, e)) return false;
    const struct json *v = json_get(given, spec->key), *otherwise = json_get(spec, "default");
    if (v && v->type == JSON_NULL) v = NULL;
    if (otherwise && !check_value(spec, otherwise, strcat(where, ".default"), e)) return false;
    if (!v && !otherwise) return err_field(e, ERR_INVALID, said, "required by the recipe");
    return (!v || check_value(spec, v, said, e)) && refs_copy(a, v ? v : otherwise, out, e);
}

static bool none_unknown(const struct json *specs, const struct json *given, struct err *e)
{
    const char *names[64];
    char field[FIELD];
    size_t n = 0;
    for (const struct json *m = specs->child; m && n < 64; m = m->next) names[n++] = m->key;
    for (const struct json *m = given ? given->child : NULL; m; m = m->next) {
        if (json_get(specs, m->key)) continue;
        const char *near = nearest_name(m->key, names, n);
        (void)snprintf(field, sizeof field, "params.%.100s", m->key);
        return err_field(e, ERR_INVALID, field, "the recipe has no such parameter%s%s", near ? "; did you mean " : "", near ? near : "");
    }
    return true;
}

static bool take_params(struct recipe_plan *p, const struct json *given, struct arena *a, struct err *e)
{
    const struct json *specs = json_get(p->json, "params");
    p->params = (struct json){.type = JSON_OBJECT, .len = specs->len};
    struct json **tail = &p->params.child;
    for (const struct json *m = specs->child; m; m = m->next) {
        struct json *v = arena_take(a, 1, sizeof *v, e);
        if (!v || !take_param(m, given, a, v, e)) return false;
        v->key = m->key;
        v->key_len = m->key_len;
        *tail = v;
        tail = &v->next;
    }
    return none_unknown(specs, given, e);
}

/* ---- steps ----------------------------------------------------------------------------------------------- */

bool recipe_blame(const struct recipe_plan *p, size_t i, struct err *e)
{
    char field[FIELD];
    (void)snprintf(field, sizeof field, "recipe.steps[%zu].request%s", i, e->field[0] ? "." : "");
    if (strncmp(e->field, "recipe.", 7) != 0) {
        size_t n = strlen(field), left = sizeof field - 1 - n, more = strlen(e->field);
        if (more > left) more = left;
        memcpy(field + n, e->field, more);
        field[n + more] = '\0';
        memcpy(e->field, field, sizeof e->field);
    }
    return err_while(e, "in step \"%.64s\"", p->step[i].id);
}

static bool take_step(struct recipe_plan *p, size_t i, const struct json *v, const struct recipe_ask *ask, struct err *e)
{
    char field[FIELD];
    struct recipe_step *s = &p->step[i];
    *s = (struct recipe_step){.id = json_get(v, "id")->text, .json = v};
    (void)snprintf(field, sizeof field, "recipe.steps[%zu].id", i);
    if (!good_name(s->id, field, e)) return false;
    for (size_t k = 0; k < i; k++)
        if (strcmp(p->step[k].id, s->id) == 0) return err_field(e, ERR_INVALID, field, "two steps are called \"%.64s\"", s->id);
    p->known[i].id = s->id;
    (void)snprintf(field, sizeof field, "recipe.steps[%zu].verb", i);
    s->route = part_verb(json_get(v, "verb")->text, field, e);
    if (!s->route) return false;
    return ask->level >= s->route->level ||
           err_field(e, ERR_FORBIDDEN, field, "this token's role may not ask for %s", s->route->path);
}

static bool has_field(const struct shape *s, const char *name)
{
    for (size_t i = 0; i < s->n_fields; i++)
        if (strcmp(s->fields[i].name, name) == 0) return true;
    return false;
}

struct refs recipe_refs(const struct recipe_plan *p, size_t i, bool live, struct arena *a)
{
    bool each = i < p->n && json_get(p->step[i].json, "for_each");
    return (struct refs){.params = &p->params, .step = p->known, .n = p->n, .at = i, .live = live, .in_each = each, .arena = a};
}

/* The recipe's view, where the verb looks at one and the step names none. */
static bool add_view(const struct recipe_step *s, const struct refs *r, const char *view, struct json *body, struct err *e)
{
    const struct json *own = json_get(body, "view");
    if (s->route->writes || !has_field(s->route->body, "view") || (own && own->type != JSON_NULL)) return true;
    struct json *v = arena_take(r->arena, 1, sizeof *v, e), **tail = &body->child;
    if (!v) return false;
    *v = (struct json){.type = JSON_STRING, .text = view, .len = strlen(view), .key = "view", .key_len = 4};
    while (*tail) {
        if (strcmp((*tail)->key, "view") == 0) { /* null */
            *tail = (*tail)->next;
            body->len--;
        } else {
            tail = &(*tail)->next;
        }
    }
    *tail = v;
    body->len++;
    return true;
}

bool recipe_request(const struct recipe_plan *p, size_t i, const struct refs *r, const char *view, struct json *out, struct err *e)
{
    char field[FIELD];
    (void)snprintf(field, sizeof field, "recipe.steps[%zu].request", i);
    if (!refs_resolve(r, json_get(p->step[i].json, "request"), field, out, e)) return false;
    if (out->type != JSON_OBJECT || refs_open(out)) return err_field(e, ERR_INVALID, field, "must be an object of the verb's fields");
    if (json_get(out, "model")) return err_field(e, ERR_INVALID, strcat(field, ".model"), "all steps are of the recipe's own model");
    return add_view(&p->step[i], r, view, out, e);
}

bool recipe_each(const struct recipe_plan *p, size_t i, const struct refs *r, struct json *out, bool *known, struct err *e)
{
    char field[FIELD];
    struct refs outside = *r;
    outside.in_each = false;
    (void)snprintf(field, sizeof field, "recipe.steps[%zu].for_each", i);
    if (!refs_resolve(&outside, json_get(p->step[i].json, "for_each"), field, out, e)) return false;
    *known = !refs_open(out);
    if (!*known) return true;
    if (out->type == JSON_NULL) *out = (struct json){.type = JSON_ARRAY}; /* of a step left out */
    if (out->type != JSON_ARRAY) return err_field(e, ERR_INVALID, field, "must be a reference to a list");
    return out->len <= RECIPE_EACH_MOST || err_field(e, ERR_INVALID, field, "%zu elements; at most %d", out->len, RECIPE_EACH_MOST);
}

bool recipe_when(const struct recipe_plan *p, size_t i, const struct refs *r, bool *run, struct err *e)
{
    char field[FIELD];
    struct json v;
    struct refs outside = *r;
    const struct json *when = json_get(p->step[i].json, "when");
    *run = true;
    if (!when) return true;
    outside.in_each = false;
    (void)snprintf(field, sizeof field, "recipe.steps[%zu].when", i);
    if (!refs_resolve(&outside, when, field, &v, e)) return false;
    if (refs_open(&v)) return true;
    *run = v.type == JSON_BOOL ? v.boolean : v.type == JSON_NUMBER ? v.number != 0 : v.type != JSON_NULL && v.len > 0;
    return true;
}

/* ---- all of it before anything runs ---------------------------------------------------------------------- */

static bool check_body(const struct recipe_plan *p, size_t i, const struct refs *r, const struct recipe_ask *ask, struct err *e)
{
    struct json body;
    const struct json *out;
    if (!recipe_request(p, i, r, ask->view, &body, e)) return recipe_blame(p, i, e);
    return validate_open(p->step[i].route->body, &body, refs_open, r->arena, &out, e) || recipe_blame(p, i, e);
}

static bool check_step(const struct recipe_plan *p, size_t i, const struct recipe_ask *ask, struct arena *a, struct err *e)
{
    struct refs r = recipe_refs(p, i, false, a);
    struct json list;
    bool known = true, run;
    if (!recipe_when(p, i, &r, &run, e)) return recipe_blame(p, i, e);
    if (!run) { /* it need not fit, but what it refers to must be there */
        struct json body;
        return recipe_request(p, i, &r, ask->view, &body, e) || recipe_blame(p, i, e);
    }
    if (!r.in_each) return check_body(p, i, &r, ask, e);
    if (!recipe_each(p, i, &r, &list, &known, e)) return recipe_blame(p, i, e);
    if (!known || !list.child) return check_body(p, i, &r, ask, e);
    for (r.each = list.child; r.each; r.each = r.each->next)
        if (!check_body(p, i, &r, ask, e)) return false;
    return true;
}

static bool check_answer(const struct recipe_plan *p, struct arena *a, struct err *e)
{
    struct json out;
    struct refs r = recipe_refs(p, p->n, false, a);
    return refs_resolve(&r, json_get(p->json, "answer"), "recipe.answer", &out, e);
}

static bool hash_plan(struct recipe_plan *p, struct err *e)
{
    struct buf b = {0};
    json_write(p->json, &b);
    bool ok = buf_ok(&b, e);
    if (ok) sha256(b.data, b.len, p->hash);
    buf_release(&b);
    return ok;
}

bool recipe_read(struct recipe_plan *p, const struct json *plan, const struct recipe_ask *ask, struct arena *a, struct err *e)
{
    const struct json *steps = json_get(plan, "steps");
    *p = (struct recipe_plan){.json = plan, .name = json_get(plan, "recipe")->text, .n = steps->len};
    p->step = arena_take(a, p->n, sizeof *p->step, e);
    p->known = arena_take(a, p->n, sizeof *p->known, e);
    if (!p->step || !p->known || !hash_plan(p, e) || !take_params(p, ask->params, a, e)) return false;
    size_t i = 0;
    for (const struct json *v = steps->child; v; v = v->next, i++)
        if (!take_step(p, i, v, ask, e)) return false;
    for (i = 0; i < p->n; i++)
        if (!check_step(p, i, ask, a, e)) return false;
    return check_answer(p, a, e);
}
