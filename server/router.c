#include "router.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum { PARAMS = sizeof((struct matched *)0)->param / sizeof(const char *) };

static bool fits(const char *template, const struct path *path, const char *param[PARAMS])
{
    size_t i = 0, n_params = 0;
    for (size_t k = 0; k < PARAMS; k++) param[k] = NULL;
    assert(template[0] == '/');
    for (const char *p = template + 1; *p; i++) {
        size_t len = strcspn(p, "/");
        if (i == path->n) return false;
        const char *have = path->segment[i];
        if (*p == '{') {
            assert(n_params < PARAMS);
            if (!*have) return false;
            param[n_params++] = have;
        } else if (strlen(have) != len || memcmp(have, p, len) != 0) {
            return false;
        }
        p += len;
        if (*p == '/') p++;
    }
    return i == path->n;
}

static bool serves(const char *row_method, const char *method)
{
    return strcmp(row_method, method) == 0 ||
           (strcmp(row_method, "GET") == 0 && strcmp(method, "HEAD") == 0);
}

static void allow(char *list, size_t cap, const char *method)
{
    size_t n = strlen(list);
    (void)snprintf(list + n, cap - n, "%s%s%s", n ? ", " : "", method,
                   strcmp(method, "GET") == 0 ? ", HEAD" : "");
}

enum match router_match(const struct route *table, size_t n, const char *method,
                        const struct path *path, struct matched *out)
{
    *out = (struct matched){0};
    for (size_t i = 0; i < n; i++) {
        const char *param[PARAMS];
        if (!fits(table[i].path, path, param)) continue;
        if (!serves(table[i].method, method)) {
            allow(out->allow, sizeof out->allow, table[i].method);
            continue;
        }
        out->route = &table[i];
        memcpy(out->param, param, sizeof param);
        return MATCH_FOUND;
    }
    return out->allow[0] ? MATCH_METHOD : MATCH_NOTHING;
}

const struct route *router_path(const struct route *table, size_t n, const struct path *path)
{
    const char *param[PARAMS];
    for (size_t i = 0; i < n; i++)
        if (fits(table[i].path, path, param)) return &table[i];
    return NULL;
}
