/* generate OUT_DIR VERSION API_H TYPES ROUTES WEB_FILE… */
#include "generate.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void refuse(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("schema: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

char *format(const char *fmt, ...)
{
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0) refuse("no memory");
    va_end(ap);
    return text;
}

const cJSON *member(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

const char *text_of(const cJSON *object, const char *key)
{
    return cJSON_GetStringValue(member(object, key));
}

bool flag_of(const cJSON *object, const char *key) { return cJSON_IsTrue(member(object, key)); }

const cJSON *type_named(const struct schema *s, const char *name)
{
    const cJSON *t = member(s->types, name);
    if (!t) refuse("there is no type \"%s\"", name);
    return t;
}

bool is_primitive(const char *type)
{
    static const char *const names[] = {"bool", "int", "number", "string", "map", "any"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(type, names[i]) == 0) return true;
    return false;
}

const char *list_item(const char *type)
{
    size_t n = strlen(type);
    if (n < 3 || type[0] != '[' || type[n - 1] != ']') return NULL;
    return format("%.*s", (int)(n - 2), type + 1);
}

/* ---- consistency ------------------------------------------------------------------------------- */

static void only_known(const cJSON *object, const char *where, const char *known)
{
    EACH(m, object)
        if (!strstr(known, format(" %s ", m->string)))
            refuse("%s: unknown word \"%s\"", where, m->string);
}

static void no_twins(const cJSON *object, const char *where)
{
    EACH(a, object)
        for (const cJSON *b = a->next; b; b = b->next)
            if (strcmp(a->string, b->string) == 0) refuse("%s: \"%s\" twice", where, a->string);
}

static void check_expression(const struct schema *s, const char *type, const char *where)
{
    const char *item = list_item(type);
    if (item) check_expression(s, item, where);
    else if (strcmp(type, "object") != 0 && !is_primitive(type) && !member(s->types, type))
        refuse("%s: there is no type \"%s\"", where, type);
}

static void check_type(const struct schema *s, const cJSON *t, const char *where)
{
    only_known(t, where,
               " type doc min max enum later_enum pattern format fields exactly required optional "
               "default later null answer ");
    no_twins(t, where);
    const cJSON *type = member(t, "type"), *fields = member(t, "fields");
    if (!type) refuse("%s: no type", where);
    if (cJSON_IsString(type)) check_expression(s, type->valuestring, where);
    EACH(m, cJSON_IsArray(type) ? type : NULL) check_expression(s, m->valuestring, where);
    no_twins(fields, where);
    EACH(f, fields) check_type(s, f, format("%s.%s", where, f->string));
    EACH(group, member(t, "exactly"))
        EACH(name, group)
            if (!member(fields, name->valuestring))
                refuse("%s: exactly names \"%s\", no field", where, name->valuestring);
}

static bool has_prototype(const struct schema *s, const char *handler, bool work)
{
    return strstr(s->api, format(work ? "\nstruct work *%s(struct call *" : "\nbool %s(struct call *",
                                 handler)) != NULL;
}

static void check_answers(const struct schema *s, const cJSON *r, const char *where)
{
    const cJSON *answers = member(r, "answers");
    if (!answers || !answers->child) refuse("%s: no response shape", where);
    EACH(a, answers) {
        if (!cJSON_IsArray(a) && !cJSON_IsString(a)) refuse("%s: answer %s", where, a->string);
        const cJSON *one = cJSON_IsArray(a) ? a->child : a;
        for (; one; one = cJSON_IsArray(a) ? one->next : NULL)
            if (!strchr(one->valuestring, '/')) (void)type_named(s, one->valuestring);
    }
}

static void check_route(const struct schema *s, const cJSON *r)
{
    const char *method = text_of(r, "method"), *path = text_of(r, "path");
    if (!method || !path || path[0] != '/') refuse("a route without method or path");
    const char *where = format("%s %s", method, path), *serves = text_of(r, "serves"),
               *handler = text_of(r, "handler"), *body = text_of(r, "body");
    only_known(r, where,
               " method path handler serves role tag summary description query body answers "
               "example writes limit etag dialect lines ");
    if (!text_of(r, "summary") || !serves || !text_of(r, "role"))
        refuse("%s: summary, serves and role are needed", where);
    if (body) (void)type_named(s, body);
    if (strcmp(serves, "later") == 0 || strcmp(serves, "events") == 0) {
        if (handler) refuse("%s: a handler that would never be called", where);
    } else if (!handler || !has_prototype(s, handler, strcmp(serves, "work") == 0)) {
        refuse("%s: no such %s handler in server/api/handlers.h: %s", where, serves, handler ? handler : "?");
    }
    if (strcmp(serves, "later") != 0) check_answers(s, r, where);
    EACH(q, member(r, "query")) check_type(s, q, format("%s?%s", where, q->string));
}

/* The path with parameter names taken out: two routes may not differ by those alone. */
static const char *pattern_of(const char *path)
{
    char *out = format("%s", path), *o = out;
    for (const char *p = path; *p; p++) {
        *o++ = *p;
        if (*p == '{') p = strchr(p, '}');
        if (!p) refuse("%s: a brace that does not close", path);
    }
    *o = '\0';
    return out;
}

static void check(const struct schema *s)
{
    no_twins(s->types, "types");
    EACH(t, s->types) check_type(s, t, t->string);
    EACH(r, s->routes) check_route(s, r);
    EACH(a, s->routes)
        for (const cJSON *b = a->next; b; b = b->next)
            if (strcmp(text_of(a, "method"), text_of(b, "method")) == 0 &&
                strcmp(pattern_of(text_of(a, "path")), pattern_of(text_of(b, "path"))) == 0)
                refuse("%s %s twice", text_of(b, "method"), text_of(b, "path"));
}

/* ---- files ------------------------------------------------------------------------------------- */

static char *read_text(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) refuse("cannot read %s", path);
    size_t n = 0, cap = 1 << 20;
    char *text = malloc(cap + 1);
    if (!text) refuse("no memory");
    n = fread(text, 1, cap, f);
    if (n == cap || ferror(f)) refuse("cannot read all of %s", path);
    text[n] = '\0';
    fclose(f);
    return text;
}

static const cJSON *read_json(const char *path)
{
    const char *text = read_text(path), *end = NULL;
    const cJSON *v = cJSON_ParseWithOpts(text, &end, true);
    if (v) return v;
    size_t line = 1;
    for (const char *p = text; p < end; p++) line += *p == '\n';
    refuse("%s:%zu: not JSON", path, line);
}

static FILE *create(const char *dir, const char *name)
{
    const char *path = format("%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (!f) refuse("cannot write %s", path);
    return f;
}

static void finish(FILE *f)
{
    if (fflush(f) != 0 || ferror(f) || fclose(f) != 0) refuse("cannot write everything");
}

int main(int argc, char **argv)
{
    if (argc < 6) refuse("usage: generate OUT_DIR VERSION API_H TYPES ROUTES WEB_FILE...");
    const char *dir = argv[1];
    struct schema s = {.version = argv[2],
                       .api = read_text(argv[3]),
                       .types = read_json(argv[4]),
                       .routes = read_json(argv[5])};
    check(&s);

    FILE *c = create(dir, "shapes.c"), *h = create(dir, "shapes.h");
    emit_shapes(&s, c, h);
    finish(c);
    finish(h);

    emit_routes(&s, c = create(dir, "routes.c"));
    finish(c);

    FILE *doc = create(dir, "openapi.json");
    char *text = cJSON_PrintUnformatted(openapi(&s));
    if (!text) refuse("no memory");
    fputs(text, doc);
    finish(doc);

    const char *files[64];
    size_t n = 0;
    files[n++] = format("%s/openapi.json", dir);
    for (int i = 6; i < argc && n < sizeof files / sizeof *files; i++) files[n++] = argv[i];
    c = create(dir, "assets.c");
    FILE *assembler = create(dir, "embed.S");
    emit_assets(files, n, c, assembler);
    finish(c);
    finish(assembler);
    return 0;
}
