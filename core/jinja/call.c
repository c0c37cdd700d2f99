#include <string.h>

#include "state.h"

const struct callee *callee_find(const struct callee *table, struct text name)
{
    for (; table->name; table++)
        if (text_is(name, table->name)) return table;
    return NULL;
}

/* ---- parameters -------------------------------------------------------------------------------- */

struct param { /* a word of callee.params */
    const char *name;
    size_t len;
    bool only_named;
};

static size_t split_params(const char *params, struct param out[ARGUMENTS_MAX])
{
    size_t n = 0;
    while (*params && n < ARGUMENTS_MAX) {
        size_t len = strcspn(params, " ");
        bool star = *params == '*';
        out[n++] = (struct param){params + star, len - star, star};
        params += len + (params[len] == ' ');
    }
    return n;
}

static bool place_named(struct run *r, const struct callee *c, const struct binding *given,
                        const struct param *param, size_t n, struct value *arg)
{
    for (size_t i = 0; i < n; i++) {
        if (param[i].len != given->name.len || memcmp(param[i].name, given->name.s, param[i].len) != 0) continue;
        if (arg[i].type != V_ABSENT)
            return run_refuse(r, "%s with %.*s given twice", c->name, (int)param[i].len, param[i].name);
        arg[i] = given->value;
        return true;
    }
    return run_refuse(r, "%s with an argument %.*s", c->name, text_shown(given->name),
                  given->name.s);
}

bool callee_call(struct run *r, const struct callee *c, const struct value *self, const struct args *args,
                 struct value *out)
{
    struct param param[ARGUMENTS_MAX];
    struct value arg[ARGUMENTS_MAX] = {{.type = V_ABSENT}};
    size_t n = split_params(c->params, param), places = 0;
    while (places < n && !param[places].only_named) places++;
    if (args->n > places) return run_refuse(r, "%s with %zu arguments", c->name, args->n);
    for (size_t i = 0; i < args->n; i++) arg[i] = args->at[i];
    for (const struct binding *b = args->named; b; b = b->next)
        if (!place_named(r, c, b, param, n, arg)) return false;
    for (size_t i = 0; i < c->least; i++)
        if (arg[i].type == V_ABSENT) return run_refuse(r, "%s without its arguments", c->name);
    return run_spend(r, 1) && c->call(r, self, arg, out);
}

bool filter_call(struct run *r, struct text name, const struct value *self, const struct args *args,
                 struct value *out)
{
    const struct callee *c = callee_find(jinja_filters, name);
    if (!c) return run_refuse(r, "the filter %.*s", text_shown(name), name.s);
    return callee_call(r, c, self, args, out);
}

bool test_call(struct run *r, struct text name, const struct value *self, const struct args *args, bool *out)
{
    struct value v;
    const struct callee *c = callee_find(jinja_tests, name);
    if (!c) return run_refuse(r, "the test %.*s", text_shown(name), name.s);
    if (!callee_call(r, c, self, args, &v)) return false;
    *out = value_is_true(&v);
    return true;
}

bool arg_text(struct run *r, const struct value *v, struct text *out)
{
    if (!is_text(v) || v->markup) return run_refuse_type(r, "a string wanted in place", v);
    *out = v->text;
    return true;
}

bool arg_int(struct run *r, const struct value *v, int64_t otherwise, int64_t *out)
{
    *out = otherwise;
    if (v->type == V_ABSENT || v->type == V_NONE) return true;
    if (v->type != V_INT && v->type != V_BOOL) return run_refuse_type(r, "a whole number wanted in place", v);
    *out = v->type == V_INT ? v->integer : v->truth;
    return true;
}
