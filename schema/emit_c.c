/* Validator tables and the route table. Only what a request can reach becomes a shape. */
#include "generate.h"

#include <stdlib.h>
#include <string.h>

struct out {
    const struct schema *schema;
    FILE *c, *h;
    int count;            /* of unnamed symbols */
    const char *done[256]; /* named types already written */
    size_t n_done;
};

static const char *shape_of(struct out *o, const cJSON *t, const char *symbol, bool from_text);

static const char *literal(const char *text)
{
    if (!text) return "NULL";
    char *out = malloc(2 * strlen(text) + 3), *p = out;
    if (!out) refuse("no memory");
    *p++ = '"';
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') *p++ = '\\';
        *p++ = *text;
    }
    memcpy(p, "\"", 2);
    return out;
}

static const char *bound(const cJSON *t, const char *key, const char *otherwise)
{
    const cJSON *v = member(t, key);
    return v ? format("%.17g", v->valuedouble) : otherwise;
}

/* ---- one kind of shape each -------------------------------------------------------------------- */

static const char *shape_expr(struct out *o, const char *type)
{
    if (is_primitive(type)) {
        if (strcmp(type, "any") == 0) refuse("a request may not hold just anything");
        return format("any_%s", type);
    }
    const char *item = list_item(type);
    if (item) {
        const char *of = shape_expr(o, item), *symbol = format("s%d", o->count++);
        fprintf(o->c,
                "static const struct shape %s = {.kind = SHAPE_LIST, .max = INFINITY, .item = &%s};\n",
                symbol, of);
        return symbol;
    }
    const cJSON *t = type_named(o->schema, type);
    const char *symbol = format("shape_%s", type);
    for (size_t i = 0; i < o->n_done; i++)
        if (strcmp(o->done[i], type) == 0) return symbol;
    if (o->n_done == sizeof o->done / sizeof *o->done) refuse("too many types");
    o->done[o->n_done++] = type;
    return shape_of(o, t, symbol, false);
}

static const char *json_kind(const struct schema *s, const char *type)
{
    if (list_item(type)) return "list";
    if (strcmp(type, "int") == 0) return "number";
    if (strcmp(type, "map") == 0) return "object";
    if (is_primitive(type) || strcmp(type, "object") == 0) return type;
    const char *inner = text_of(type_named(s, type), "type");
    if (!inner) refuse("%s: a union inside a union", type);
    return json_kind(s, inner);
}

static void emit_union(struct out *o, const cJSON *types, const char *name)
{
    char *list = format("NULL");
    for (const cJSON *a = types->child; a; a = a->next)
        for (const cJSON *b = a->next; b; b = b->next)
            if (strcmp(json_kind(o->schema, a->valuestring), json_kind(o->schema, b->valuestring)) == 0)
                refuse("union of %s and %s: the same JSON type", a->valuestring, b->valuestring);
    for (int i = cJSON_GetArraySize(types); i-- > 0;)
        list = format("&%s, %s", shape_expr(o, cJSON_GetArrayItem(types, i)->valuestring), list);
    fprintf(o->c, "static const struct shape *const %s_of[] = {%s};\n", name, list);
}

static int emit_choices(struct out *o, const cJSON *t, const char *name)
{
    fprintf(o->c, "static const char *const %s_choices[] = {", name);
    EACH(v, member(t, "enum")) fprintf(o->c, "%s, ", literal(v->valuestring));
    EACH(v, member(t, "later_enum")) fprintf(o->c, "%s, ", literal(v->valuestring));
    fprintf(o->c, "NULL};\n");
    return cJSON_GetArraySize(member(t, "enum"));
}

static bool is_later(const struct schema *s, const cJSON *field)
{
    const char *type = text_of(field, "type"), *item = type ? list_item(type) : NULL;
    const cJSON *named = member(s->types, item ? item : type ? type : "");
    return flag_of(field, "later") || flag_of(named, "later");
}

static void emit_fields(struct out *o, const cJSON *fields, const char *name)
{
    int n = 0, total = cJSON_GetArraySize(fields);
    if (total == 0) return;
    const char **symbol = calloc((size_t)total, sizeof *symbol);
    if (!symbol) refuse("no memory");
    EACH(f, fields) symbol[n++] = shape_of(o, f, NULL, false);
    fprintf(o->c, "static const struct field %s_fields[] = {\n", name);
    n = 0;
    EACH(f, fields) {
        const cJSON *d = member(f, "default");
        if (d && flag_of(f, "required")) refuse("%s: required, with a default", f->string);
        fprintf(o->c, "    {%s, &%s, %s, %s, %s},\n", literal(f->string), symbol[n++],
                flag_of(f, "required") ? "true" : "false",
                is_later(o->schema, f) ? "false" : "true",
                d ? literal(cJSON_PrintUnformatted(d)) : "NULL");
    }
    fprintf(o->c, "};\n");
}

static void emit_exactly(struct out *o, const cJSON *t, const char *name)
{
    const cJSON *groups = member(t, "exactly"), *fields = member(t, "fields");
    int i = 0;
    EACH(g, groups) {
        fprintf(o->c, "static const char *const %s_group%d[] = {", name, i++);
        EACH(m, g) fprintf(o->c, "%s, ", literal(m->valuestring));
        fprintf(o->c, "NULL};\n");
    }
    if (!groups) return;
    fprintf(o->c, "static const struct exactly %s_exactly[] = {\n", name);
    i = 0;
    EACH(g, groups) {
        char *said = NULL;
        EACH(m, g)
            if (!is_later(o->schema, member(fields, m->valuestring)))
                said = said ? format("%s or %s", said, m->valuestring) : m->valuestring;
        fprintf(o->c, "    {%s_group%d, %s},\n", name, i++, literal(said));
    }
    fprintf(o->c, "};\n");
}

/* ---- any shape --------------------------------------------------------------------------------- */

static void parts_of(struct out *o, const cJSON *t, const char *name, const char *type, char **row)
{
    const char *item = list_item(type);
    bool sized = item || strcmp(type, "string") == 0;
    *row = format(".min = %s, .max = %s", bound(t, "min", sized ? "0" : "-INFINITY"),
                  bound(t, "max", "INFINITY"));
    if (item) {
        *row = format(".kind = SHAPE_LIST, %s, .item = &%s", *row, shape_expr(o, item));
    } else if (strcmp(type, "object") == 0) {
        const cJSON *fields = member(t, "fields");
        emit_fields(o, fields, name);
        emit_exactly(o, t, name);
        *row = format(".kind = SHAPE_OBJECT, .fields = %s, .n_fields = %d",
                      cJSON_GetArraySize(fields) ? format("%s_fields", name) : "NULL",
                      cJSON_GetArraySize(fields));
        if (member(t, "exactly"))
            *row = format("%s, .exactly = %s_exactly, .n_exactly = %d", *row, name,
                          cJSON_GetArraySize(member(t, "exactly")));
    } else {
        static const char *const kinds[][2] = {{"bool", "BOOL"}, {"int", "INT"},
                                               {"number", "NUMBER"}, {"string", "STRING"},
                                               {"map", "MAP"}};
        const char *kind = NULL;
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
            if (strcmp(type, kinds[i][0]) == 0) kind = kinds[i][1];
        if (!kind) refuse("%s: not for requests", type);
        *row = format(".kind = SHAPE_%s, %s", kind, *row);
        if (member(t, "enum"))
            *row = format("%s, .choices = %s_choices, .n_choices_shown = %d", *row, name,
                          emit_choices(o, t, name));
    }
}

/* Write the shape of t and return its symbol: `symbol`, or a new static one, or that of the named
 * type it merely refers to. */
static const char *shape_of(struct out *o, const cJSON *t, const char *symbol, bool from_text)
{
    const cJSON *type = member(t, "type");
    const char *text = cJSON_GetStringValue(type);
    if (flag_of(t, "answer")) refuse("%s: a type of answers inside a request", t->string);
    if (member(t, "pattern") || member(t, "format") || flag_of(t, "null") || flag_of(t, "optional"))
        refuse("%s: pattern, format, null and optional are for answers", t->string);
    if (text && !list_item(text) && !is_primitive(text) && strcmp(text, "object") != 0) {
        if (member(t, "min") || member(t, "max") || member(t, "enum"))
            refuse("%s: bounds belong to the type %s itself", t->string, text);
        return shape_expr(o, text);
    }
    bool named = symbol != NULL;
    const char *name = named ? symbol : format("s%d", o->count++);
    char *row = NULL;
    if (text) {
        parts_of(o, t, name, text, &row);
    } else {
        emit_union(o, type, name);
        row = format(".kind = SHAPE_UNION, .of = %s_of", name);
    }
    fprintf(o->c, "%sconst struct shape %s = {%s%s};\n", named ? "" : "static ", name, row,
            from_text ? ", .from_text = true" : "");
    if (named) fprintf(o->h, "extern const struct shape %s;\n", name);
    return name;
}

static const char head[] = "/* Generated from schema/ by schema/generate.c. */\n";

const char *query_symbol(const cJSON *route)
{
    if (!member(route, "query")) return "shape_query_none";
    char *symbol = format("shape_query_%s", text_of(route, "handler"));
    return symbol;
}

static void emit_query(struct out *o, const cJSON *fields, const char *symbol)
{
    emit_fields(o, fields, symbol);
    fprintf(o->c,
            "const struct shape %s = {.kind = SHAPE_OBJECT, .from_text = true, .fields = %s, "
            ".n_fields = %d};\n",
            symbol, fields ? format("%s_fields", symbol) : "NULL", cJSON_GetArraySize(fields));
    fprintf(o->h, "extern const struct shape %s;\n", symbol);
}

void emit_shapes(const struct schema *s, FILE *c, FILE *h)
{
    struct out o = {.schema = s, .c = c, .h = h};
    fprintf(h, "%s#ifndef ENGRAM_GEN_SHAPES_H\n#define ENGRAM_GEN_SHAPES_H\n\n"
               "#include \"server/validate.h\"\n\n", head);
    fprintf(c, "%s#include \"shapes.h\"\n\n#include <math.h>\n\n", head);
    static const char *const any[][2] = {{"bool", "BOOL"}, {"int", "INT"}, {"number", "NUMBER"},
                                         {"string", "STRING"}, {"map", "MAP"}};
    for (size_t i = 0; i < sizeof any / sizeof *any; i++)
        fprintf(c, "__attribute__((unused)) static const struct shape any_%s = {.kind = SHAPE_%s, "
                   ".min = -INFINITY, .max = INFINITY};\n", any[i][0], any[i][1]);
    emit_query(&o, NULL, "shape_query_none");
    EACH(r, s->routes) {
        if (text_of(r, "body")) {
            const char *type = text_of(type_named(s, text_of(r, "body")), "type");
            if (!type || strcmp(type, "object") != 0) refuse("%s is no object", text_of(r, "body"));
            (void)shape_expr(&o, text_of(r, "body"));
        }
        if (member(r, "query")) emit_query(&o, member(r, "query"), query_symbol(r));
    }
    fprintf(h, "\n#endif\n");
}

void emit_routes(const struct schema *s, FILE *c)
{
    static const char *const serves[][2] = {{"sync", "SYNC"}, {"work", "WORK"},
                                            {"events", "EVENTS"}, {"later", "LATER"}};
    static const char *const roles[][2] = {{"open", "NONE"}, {"reader", "READER"},
                                           {"prober", "PROBER"}, {"editor", "EDITOR"},
                                           {"admin", "ADMIN"}};
    static const char *const dialects[][2] = {{"own", "OWN"}, {"openai", "OPENAI"}};
    fprintf(c, "%s#include \"server/api/handlers.h\"\n#include \"shapes.h\"\n\n"
               "const struct route routes[] = {\n", head);
    EACH(r, s->routes) {
        const char *how = text_of(r, "serves"), *role = text_of(r, "role"),
                   *path = text_of(r, "path"), *speaks = text_of(r, "dialect"),
                   *serve = NULL, *level = NULL, *dialect = NULL;
        for (size_t i = 0; i < 4; i++)
            if (strcmp(serves[i][0], how) == 0) serve = serves[i][1];
        for (size_t i = 0; i < 5; i++)
            if (strcmp(roles[i][0], role) == 0) level = roles[i][1];
        for (size_t i = 0; i < 2; i++)
            if (strcmp(dialects[i][0], speaks ? speaks : "own") == 0) dialect = dialects[i][1];
        if (!dialect) refuse("%s: dialect \"%s\"", path, speaks);
        if (!serve || !level) refuse("%s: serves \"%s\", role \"%s\"", path, how, role);
        const cJSON *limit = member(r, "limit");
        bool post = strcmp(text_of(r, "method"), "POST") == 0, later = strcmp(how, "later") == 0;
        fprintf(c, "    {.method = %s, .path = %s, .summary = %s,\n", literal(text_of(r, "method")),
                literal(path), literal(text_of(r, "summary")));
        fprintf(c, "     .dialect = DIALECT_%s,%s\n", dialect, flag_of(r, "lines") ? " .lines = true," : "");
        fprintf(c, "     .serves = SERVES_%s, .level = LEVEL_%s, .writes = %s, .body_limit = %.0f,\n",
                serve, level, flag_of(r, "writes") ? "true" : "false",
                limit ? limit->valuedouble : post ? 1048576.0 : 0.0);
        if (!later) fprintf(c, "     .query = &%s,\n", query_symbol(r));
        if (text_of(r, "body")) fprintf(c, "     .body = &shape_%s,\n", text_of(r, "body"));
        if (text_of(r, "handler"))
            fprintf(c, "     .%s = %s,\n", strcmp(how, "work") == 0 ? "prepare" : "sync",
                    text_of(r, "handler"));
        fprintf(c, "    },\n");
    }
    fprintf(c, "};\nconst size_t n_routes = sizeof routes / sizeof *routes;\n");
}
