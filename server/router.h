/* From a method and a decoded path to a row of the route table.
 *
 * A template is literal segments and {parameters}; a parameter matches one non-empty segment. The
 * table is small (some forty rows) and scanned from the front; literal rows stand before
 * parameter rows where both would match. GET rows also serve HEAD.
 *
 * Three outcomes: a row; a path that exists, but not for that method (405 with what it allows);
 * nothing (404).
 *
 * Pure functions over constant tables: any thread.
 */
#ifndef ENGRAM_ROUTER_H
#define ENGRAM_ROUTER_H

#include "call.h"
#include "path.h"

enum match { MATCH_FOUND, MATCH_METHOD, MATCH_NOTHING };

struct matched {
    const struct route *route; /* of MATCH_FOUND */
    const char *param[2];      /* borrowed from the path; NULL where the template has none */
    char allow[64];            /* of MATCH_METHOD: "GET, HEAD, POST" */
};

enum match router_match(const struct route *table, size_t n, const char *method,
                        const struct path *path, struct matched *out);
/* The first row whose template fits, whatever its method; NULL for none. */
const struct route *router_path(const struct route *table, size_t n, const struct path *path);

#endif
