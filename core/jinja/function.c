/* Functions that a template can call by name. */
#include <string.h>

#include "core/text/codepoint.h"
#include "state.h"

enum { RANGE_MAX = 100000, MESSAGE_MAX = 400 }; /* the sandbox has that range; a sentence of err.h */

static bool fn_range(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    int64_t from = 0, end, step = 1, n = 0;
    (void)self;
    bool one = arg[1].type == V_ABSENT;
    if (!arg_int(r, &arg[0], 0, one ? &end : &from) || (!one && !arg_int(r, &arg[1], 0, &end)) ||
        !arg_int(r, &arg[2], 1, &step))
        return false;
    const int64_t far = INT64_C(1) << 40;
    if (step == 0 || from > far || from < -far || end > far || end < -far || step > far || step < -far)
        return run_refuse(r, "a range with these bounds");
    if (step > 0 && end > from) n = (end - from - 1) / step + 1;
    if (step < 0 && end < from) n = (from - end - 1) / -step + 1;
    if (n > RANGE_MAX) return run_refuse(r, "a range of more than %d", RANGE_MAX);
    if (!value_list(r, RANGE, (size_t)n, out)) return false;
    for (int64_t i = 0; i < n; i++) out->list->item[i] = value_int(from + i * step);
    return true;
}

static bool fn_raise(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    struct text t;
    (void)self, (void)out;
    if (!value_as_text(r, arg, &t)) return false;
    size_t n = t.len;
    for (uint32_t cp; n > MESSAGE_MAX;) n -= cp_before(t.s, n, &cp);
    return err_set(r->e, ERR_INVALID, "the chat template says: %.*s", (int)n, t.s);
}

static bool fn_now(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    struct text format;
    (void)self;
    return arg_text(r, arg, &format) && date_text(r, format, out);
}

/* The names are added by the caller (eval.c). */
static bool fn_names(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    struct dict *d = run_take(r, 1, sizeof *d);
    (void)self;
    if (!d) return false;
    if (arg->type == V_DICT)
        for (size_t i = 0; i < arg->dict->n; i++)
            if (!dict_put(r, d, arg->dict->pair[i].key, arg->dict->pair[i].value)) return false;
    if (arg->type != V_DICT && arg->type != V_ABSENT) return run_refuse_type(r, "making a dict", arg);
    *out = (struct value){.type = V_DICT, .dict = d};
    return true;
}

static bool fn_namespace(struct run *r, const struct value *self, const struct value *arg, struct value *out)
{
    if (!fn_names(r, self, arg, out)) return false;
    for (size_t i = 0; i < out->dict->n; i++)
        if (!is_text(&out->dict->pair[i].key))
            return run_refuse_type(r, "an attribute named by the value", &out->dict->pair[i].key);
    out->type = V_SPACE;
    return true;
}

const struct callee jinja_functions[] = {
    {"range", "- - -", 1, fn_range},
    {"raise_exception", "message", 1, fn_raise},
    {"strftime_now", "format", 1, fn_now},
    {"dict", "- **", 0, fn_names},
    {"namespace", "- **", 0, fn_namespace},
    {NULL, NULL, 0, NULL},
};
