#include <string.h>

#include "methods.h"

static const struct method *const methods[] = {
#define METHOD(name) &method_##name,
#include "method.def"
#undef METHOD
};
enum { N_METHODS = sizeof methods / sizeof *methods };

const struct param method_seed = {"seed", PARAM_INT, 0, 0, 9007199254740991.0, "of all random choices"};

const struct method *method_at(size_t i) { return i < N_METHODS ? methods[i] : NULL; }

const struct method *method_find(const char *name)
{
    for (size_t i = 0; i < N_METHODS; i++)
        if (strcmp(methods[i]->name, name) == 0) return methods[i];
    return NULL;
}

size_t method_param(const struct method *m, const char *name)
{
    size_t i = 0;
    while (i < m->n_params && strcmp(m->params[i].name, name) != 0) i++;
    return i;
}

struct edit_params method_defaults(const struct method *m)
{
    struct edit_params p = {{0}};
    for (size_t i = 0; i < m->n_params; i++) p.value[i] = m->params[i].initial;
    return p;
}
