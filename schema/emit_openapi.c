/* The contract for clients: OpenAPI 3.1, whose schemas are JSON Schema 2020-12. */
#include "generate.h"

#include <stdlib.h>
#include <string.h>

/* ---- types ------------------------------------------------------------------------------------- */

static cJSON *schema_of(const struct schema *s, const cJSON *t);

static cJSON *object(void)
{
    cJSON *o = cJSON_CreateObject();
    if (!o) refuse("no memory");
    return o;
}

static void put(cJSON *o, const char *key, cJSON *v)
{
    if (!v || !cJSON_AddItemToObject(o, key, v)) refuse("no memory");
}

static void put_text(cJSON *o, const char *key, const char *text)
{
    put(o, key, cJSON_CreateString(text));
}

static void push(cJSON *list, cJSON *v)
{
    if (!v || !cJSON_AddItemToArray(list, v)) refuse("no memory");
}

static cJSON *reference(const char *kind, const char *name)
{
    cJSON *o = object();
    put_text(o, "$ref", format("#/components/%s/%s", kind, name));
    return o;
}

static const char *json_word(const char *type)
{
    static const char *const words[][2] = {{"bool", "boolean"}, {"int", "integer"},
                                           {"number", "number"}, {"string", "string"},
                                           {"map", "object"},   {"object", "object"}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(type, words[i][0]) == 0) return words[i][1];
    return NULL; /* any */
}

static cJSON *schema_expr(const struct schema *s, const char *type)
{
    const char *item = list_item(type);
    if (item) {
        cJSON *o = object();
        put_text(o, "type", "array");
        put(o, "items", schema_expr(s, item));
        return o;
    }
    if (!is_primitive(type) && strcmp(type, "object") != 0) return reference("schemas", type);
    cJSON *o = object();
    if (json_word(type)) put_text(o, "type", json_word(type));
    return o;
}

static bool is_later(const struct schema *s, const cJSON *field)
{
    const char *type = text_of(field, "type"), *item = type ? list_item(type) : NULL;
    const cJSON *named = member(s->types, item ? item : type ? type : "");
    return flag_of(field, "later") || flag_of(named, "later");
}

static void put_bounds(cJSON *o, const cJSON *t)
{
    const char *type = text_of(t, "type");
    bool list = type && list_item(type), string = type && strcmp(type, "string") == 0;
    const cJSON *min = member(t, "min"), *max = member(t, "max");
    if (min)
        put(o, list ? "minItems" : string ? "minLength" : "minimum",
            cJSON_CreateNumber(min->valuedouble));
    if (max) /* our limit is in bytes, which are never fewer than characters */
        put(o, list ? "maxItems" : string ? "maxLength" : "maximum",
            cJSON_CreateNumber(max->valuedouble));
    if (member(t, "enum")) put(o, "enum", cJSON_Duplicate(member(t, "enum"), true));
    if (text_of(t, "pattern")) put_text(o, "pattern", text_of(t, "pattern"));
    if (text_of(t, "format")) put_text(o, "format", text_of(t, "format"));
    if (member(t, "default")) put(o, "default", cJSON_Duplicate(member(t, "default"), true));
    if (text_of(t, "doc")) put_text(o, "description", text_of(t, "doc"));
}

/* Groups of which exactly one field is given; one that is `later` does not count. */
static void put_groups(const struct schema *s, cJSON *o, const cJSON *t, cJSON *required)
{
    cJSON *all = cJSON_CreateArray();
    EACH(group, member(t, "exactly")) {
        const char *shown = NULL;
        int n = 0;
        cJSON *choices = cJSON_CreateArray();
        EACH(name, group) {
            if (is_later(s, member(member(t, "fields"), name->valuestring))) continue;
            n++;
            shown = name->valuestring;
            cJSON *choice = object(), *names = cJSON_CreateArray();
            push(names, cJSON_CreateString(shown));
            put(choice, "required", names);
            push(choices, choice);
        }
        if (n == 1) {
            push(required, cJSON_CreateString(shown));
            continue;
        }
        cJSON *one = object();
        put(one, "oneOf", choices);
        push(all, one);
    }
    if (all->child) put(o, "allOf", all);
}

static void put_fields(const struct schema *s, cJSON *o, const cJSON *t)
{
    bool answer = flag_of(t, "answer");
    cJSON *properties = object(), *required = cJSON_CreateArray();
    EACH(f, member(t, "fields")) {
        if (is_later(s, f)) continue;
        put(properties, f->string, schema_of(s, f));
        if (answer ? !flag_of(f, "optional") : flag_of(f, "required"))
            push(required, cJSON_CreateString(f->string));
    }
    put_groups(s, o, t, required);
    put(o, "properties", properties);
    if (required->child) put(o, "required", required);
    put(o, "additionalProperties", cJSON_CreateBool(answer));
}

static cJSON *or_null(cJSON *o)
{
    cJSON *type = cJSON_GetObjectItemCaseSensitive(o, "type");
    if (type) {
        cJSON *both = cJSON_CreateArray();
        push(both, cJSON_CreateString(type->valuestring));
        push(both, cJSON_CreateString("null"));
        if (!cJSON_ReplaceItemInObjectCaseSensitive(o, "type", both)) refuse("no memory");
        return o;
    }
    cJSON *whole = object(), *choices = cJSON_CreateArray(), *null = object();
    put_text(null, "type", "null");
    push(choices, o);
    push(choices, null);
    put(whole, "anyOf", choices);
    return whole;
}

static cJSON *schema_of(const struct schema *s, const cJSON *t)
{
    const cJSON *type = member(t, "type");
    cJSON *o;
    if (cJSON_IsArray(type)) {
        cJSON *choices = cJSON_CreateArray();
        EACH(m, type) push(choices, schema_expr(s, m->valuestring));
        o = object();
        put(o, "anyOf", choices);
    } else {
        o = schema_expr(s, type->valuestring);
    }
    put_bounds(o, t);
    if (cJSON_IsString(type) && strcmp(type->valuestring, "object") == 0) put_fields(s, o, t);
    return flag_of(t, "null") ? or_null(o) : o;
}

/* ---- operations -------------------------------------------------------------------------------- */

static cJSON *parameter(const char *name, const char *in, bool required, cJSON *schema)
{
    cJSON *p = object();
    put_text(p, "name", name);
    put_text(p, "in", in);
    put(p, "required", cJSON_CreateBool(required));
    const cJSON *doc = member(schema, "description");
    if (doc) put_text(p, "description", doc->valuestring);
    put(p, "schema", schema);
    return p;
}

static cJSON *text_schema(const char *doc)
{
    cJSON *o = object();
    put_text(o, "type", "string");
    if (doc) put_text(o, "description", doc);
    return o;
}

static cJSON *parameters(const struct schema *s, const cJSON *r)
{
    cJSON *list = cJSON_CreateArray();
    const char *path = text_of(r, "path");
    for (const char *p = strchr(path, '{'); p; p = strchr(p + 1, '{'))
        push(list, parameter(format("%.*s", (int)strcspn(p + 1, "}"), p + 1), "path", true,
                             text_schema(NULL)));
    EACH(q, member(r, "query")) push(list, parameter(q->string, "query", false, schema_of(s, q)));
    if (strcmp(text_of(r, "serves"), "work") == 0 && !text_of(r, "dialect")) {
        push(list, parameter("Prefer", "header", false,
                             text_schema("`wait=SECONDS` (30): how long to wait before a 202.")));
        push(list, parameter("Cache-Control", "header", false,
                             text_schema("`no-cache` forces a fresh run.")));
    }
    if (flag_of(r, "writes")) {
        push(list, parameter("Idempotency-Key", "header", false,
                             text_schema("The same key and body get the same answer, done once.")));
        push(list, parameter("If-Match", "header", false,
                             text_schema("A quoted revision id: 412 when the head is another.")));
    }
    if (flag_of(r, "etag"))
        push(list, parameter("If-None-Match", "header", false,
                             text_schema("An ETag: 304 when nothing changed.")));
    return list;
}

static cJSON *content(const char *media, cJSON *schema)
{
    cJSON *types = object(), *one = object();
    put(one, "schema", schema);
    put(types, media, one);
    return types;
}

static cJSON *answer(const struct schema *s, const char *status, const cJSON *what)
{
    cJSON *o = object(), *types = object();
    put_text(o, "description", strcmp(status, "201") == 0   ? "Created."
                               : strcmp(status, "202") == 0 ? "Accepted."
                                                            : "As asked.");
    const cJSON *one = cJSON_IsArray(what) ? what->child : what;
    for (; one; one = cJSON_IsArray(what) ? one->next : NULL) {
        bool media = strchr(one->valuestring, '/') != NULL;
        cJSON *body = object();
        put(body, "schema",
            media ? text_schema(NULL) : schema_expr(s, one->valuestring));
        put(types, media ? one->valuestring : "application/json", body);
    }
    put(o, "content", types);
    return o;
}

enum when { ALWAYS, GUARDED, WITH_BODY, WORK, WRITES, OWN_WORK };

static const struct {
    const char *status;
    enum when when;
    const char *doc;
} problems[] = {
    {"400", ALWAYS, "Malformed, of the wrong type, unknown or out of range; `field` names it."},
    {"401", GUARDED, "A token is needed."},
    {"403", GUARDED, "The token's role does not suffice."},
    {"404", ALWAYS, "There is no such thing."},
    {"409", WRITES, "The branch head moved, or the idempotency key came with another body."},
    {"411", WITH_BODY, "A body needs a declared length."},
    {"412", WRITES, "The branch head is not the revision of If-Match."},
    {"413", WITH_BODY, "The body is over the limit, or the question needs more memory than it can ever have."},
    {"415", WITH_BODY, "The body is not application/json."},
    {"422", WORK, "Well formed, but without an answer."},
    {"501", OWN_WORK, "Known, not offered yet."},
    {"503", ALWAYS, "Too busy, other works hold the memory it needs, stopping, or the ledger cannot be written; see Retry-After."},
    {"507", WRITES, "Out of disk: nothing was published."},
    {"4XX", ALWAYS, "Any other refusal."},
    {"5XX", ALWAYS, "Any other failure."},
};

static bool applies(enum when w, const cJSON *r)
{
    switch (w) {
    case ALWAYS: return true;
    case GUARDED: return strcmp(text_of(r, "role"), "open") != 0;
    case WITH_BODY: return text_of(r, "body") != NULL;
    case WORK: return strcmp(text_of(r, "serves"), "work") == 0;
    case OWN_WORK: return strcmp(text_of(r, "serves"), "work") == 0 && !text_of(r, "dialect");
    case WRITES: break;
    }
    return flag_of(r, "writes");
}

static cJSON *responses(const struct schema *s, const cJSON *r)
{
    cJSON *all = object();
    EACH(a, member(r, "answers")) put(all, a->string, answer(s, a->string, a));
    if (strcmp(text_of(r, "serves"), "work") == 0 && !text_of(r, "dialect")) {
        cJSON *accepted = object(), *headers = object(), *location = object();
        put_text(accepted, "description", "Not done within the wait; the job goes on.");
        put(location, "schema", text_schema(NULL));
        put(headers, "Location", location);
        put(accepted, "headers", headers);
        put(accepted, "content", content("application/json", reference("schemas", "Job")));
        put(all, "202", accepted);
    }
    if (flag_of(r, "etag")) {
        cJSON *unchanged = object();
        put_text(unchanged, "description", "Unchanged.");
        put(all, "304", unchanged);
    }
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
        if (!applies(problems[i].when, r)) continue;
        cJSON *p = reference("responses", text_of(r, "dialect") ? "OpenAIError" : "Problem");
        put_text(p, "description", problems[i].doc);
        put(all, problems[i].status, p);
    }
    return all;
}

static const char *operation_id(const cJSON *r)
{
    char *id = format("%s%s", text_of(r, "method"), text_of(r, "path")), *o = id;
    for (char *p = id; *p; p++) {
        bool upper = *p >= 'A' && *p <= 'Z', plain = upper || (*p >= 'a' && *p <= 'z') ||
                     (*p >= '0' && *p <= '9');
        if (plain) *o++ = (char)(upper ? *p + 32 : *p);
        else if (o[-1] != '_') *o++ = '_';
    }
    while (o[-1] == '_') o--;
    *o = '\0';
    return id;
}

static bool needs_something(const cJSON *type)
{
    EACH(f, member(type, "fields"))
        if (flag_of(f, "required")) return true;
    return member(type, "exactly") != NULL;
}

static cJSON *operation(const struct schema *s, const cJSON *r)
{
    cJSON *o = object(), *tags = cJSON_CreateArray();
    const char *role = text_of(r, "role"), *body = text_of(r, "body"), *tag = text_of(r, "tag");
    if (!tag) refuse("%s: no tag", text_of(r, "path"));
    push(tags, cJSON_CreateString(tag));
    put(o, "tags", tags);
    put_text(o, "operationId", operation_id(r));
    put_text(o, "summary", text_of(r, "summary"));
    if (text_of(r, "description")) put_text(o, "description", text_of(r, "description"));
    put_text(o, "x-role", role);
    if (strcmp(role, "open") == 0) put(o, "security", cJSON_CreateArray());
    put(o, "parameters", parameters(s, r));
    if (body) {
        cJSON *request = object(), *types = content("application/json", reference("schemas", body));
        if (member(r, "example"))
            put(types->child, "example", cJSON_Duplicate(member(r, "example"), true));
        if (flag_of(r, "lines")) {
            cJSON *lines = content("application/x-ndjson", object());
            cJSON *of = cJSON_DetachItemFromObject(lines, "application/x-ndjson");
            put(types, "application/x-ndjson", of);
        }
        put(request, "required", cJSON_CreateBool(needs_something(type_named(s, body))));
        put(request, "content", types);
        put(o, "requestBody", request);
    }
    put(o, "responses", responses(s, r));
    return o;
}

/* ---- document ---------------------------------------------------------------------------------- */

static cJSON *paths(const struct schema *s)
{
    cJSON *all = object();
    EACH(r, s->routes) {
        if (strcmp(text_of(r, "serves"), "later") == 0) continue;
        cJSON *path = cJSON_GetObjectItemCaseSensitive(all, text_of(r, "path"));
        if (!path) put(all, text_of(r, "path"), path = object());
        char *method = format("%s", text_of(r, "method"));
        for (char *p = method; *p; p++) *p = (char)(*p + 32);
        put(path, method, operation(s, r));
    }
    return all;
}

static cJSON *components(const struct schema *s)
{
    cJSON *all = object(), *schemas = object(), *responses_ = object(), *problem = object(),
          *error = object(), *security = object(), *bearer = object();
    EACH(t, s->types)
        if (!flag_of(t, "later")) put(schemas, t->string, schema_of(s, t));
    put_text(problem, "description", "A problem (RFC 9457).");
    put(problem, "content", content("application/problem+json", reference("schemas", "Problem")));
    put(responses_, "Problem", problem);
    put_text(error, "description", "An error, in the words of OpenAI's protocol.");
    put(error, "content", content("application/json", reference("schemas", "OpenAIError")));
    put(responses_, "OpenAIError", error);
    put_text(bearer, "type", "http");
    put_text(bearer, "scheme", "bearer");
    put(security, "bearer", bearer);
    put(all, "schemas", schemas);
    put(all, "responses", responses_);
    put(all, "securitySchemes", security);
    return all;
}

cJSON *openapi(const struct schema *s)
{
    cJSON *doc = object(), *info = object(), *license = object(), *security = cJSON_CreateArray(),
          *bearer = object();
    put_text(doc, "openapi", "3.1.0");
    put_text(info, "title", "engramd");
    put_text(info, "version", s->version);
    put_text(info, "description",
             "A language model in memory whose weights are versioned. null and an absent field mean "
             "the same in requests.");
    put_text(license, "name", "Apache-2.0");
    put_text(license, "identifier", "Apache-2.0");
    put(info, "license", license);
    put(doc, "info", info);
    put(bearer, "bearer", cJSON_CreateArray());
    push(security, bearer);
    push(security, object()); /* on loopback without a token file none is needed */
    put(doc, "security", security);
    put(doc, "paths", paths(s));
    put(doc, "components", components(s));
    return doc;
}
