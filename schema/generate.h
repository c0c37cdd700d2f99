/* From schema/ to code: the one source of the public contract made into what the daemon links.
 *
 *     types.json   what a value looks like: fields, defaults, bounds, choices
 *     routes.json  what may be asked: method, path, handler, role, body, answers
 *         │
 *         ├── shapes.c, shapes.h   validator tables of everything a request can hold
 *         ├── routes.c             the route table with its handlers
 *         ├── openapi.json         the same, for clients
 *         └── assets.c, embed.S    openapi.json and web/ inside the binary, with their ETags
 *
 * A type is `{"type": T, …}` where T is a primitive (bool, int, number, string, map, any), a name
 * of types.json, "[T]" for a list, or a list of such for a union whose members differ in JSON type.
 * `min` and `max` bound a number's value, a string's bytes or a list's length. Fields of requests
 * are optional unless `required`, fields of answers required unless `optional`; types of answers
 * say `"answer": true`. What is `later` (or in `later_enum`) is accepted, so that its handler can
 * answer 501, and is kept out of openapi.json. `exactly` lists groups of fields of which exactly
 * one must be given. A route with `lines` takes application/x-ndjson beside JSON. A route may name a `dialect` other than our own (server/call.h).
 *
 * A program of the build, single threaded: it stops with one sentence at the first contradiction
 * and leaves its memory to the system.
 */
#ifndef ENGRAM_SCHEMA_GENERATE_H
#define ENGRAM_SCHEMA_GENERATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include <cjson/cJSON.h>

struct schema {
    const cJSON *types, *routes; /* types: object; routes: list */
    const char *version;
    const char *api; /* text of server/api/handlers.h */
};

#define EACH(item, list) for (const cJSON *item = (list) ? (list)->child : NULL; item; item = item->next)

__attribute__((noreturn, format(printf, 1, 2))) void refuse(const char *fmt, ...);
__attribute__((format(printf, 1, 2))) char *format(const char *fmt, ...); /* never freed */

const cJSON *member(const cJSON *object, const char *key); /* or NULL */
const char *text_of(const cJSON *object, const char *key); /* or NULL */
bool flag_of(const cJSON *object, const char *key);
/* The named type; refuses an unknown name. */
const cJSON *type_named(const struct schema *s, const char *name);
bool is_primitive(const char *type);
/* "[X]" → "X", else NULL */
const char *list_item(const char *type);

void emit_shapes(const struct schema *s, FILE *c, FILE *h);
void emit_routes(const struct schema *s, FILE *c);
/* The symbol of a route's query shape. */
const char *query_symbol(const cJSON *route);
cJSON *openapi(const struct schema *s);
/* Table and assembler source of files[n]; a file "dir/name" is served as "/name". */
void emit_assets(const char *const *files, size_t n, FILE *c, FILE *assembler);

#endif
