#include "state.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { BYTES_A_STEP = 16 };

bool run_refuse(struct run *r, const char *fmt, ...)
{
    char what[400];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    return err_set(r->e, ERR_UNSUPPORTED, "template, line %u: cannot evaluate %s", r->line, what);
}

bool run_refuse_type(struct run *r, const char *what, const struct value *v)
{
    static const char *const words[V_TYPES] = {
        [V_ABSENT] = "nothing", [V_NONE] = "none",         [V_BOOL] = "a bool",       [V_INT] = "an int",
        [V_FLOAT] = "a float",  [V_TEXT] = "a string",     [V_LIST] = "a list",       [V_DICT] = "a dict",
        [V_LOOP] = "loop",      [V_SPACE] = "a namespace", [V_MACRO] = "a macro",     [V_METHOD] = "a method",
        [V_FUNCTION] = "a function"};
    if (v->type == V_UNDEFINED)
        return run_refuse(r, "%s of \"%.*s\", which is undefined", what,
                      text_shown(v->name), v->name.len ? v->name.s : "");
    if (v->type == V_LIST && v->list->kind == STREAM) return run_refuse(r, "%s of what a filter streams", what);
    return run_refuse(r, "%s of %s", what, words[v->type]);
}

bool run_spend(struct run *r, size_t steps)
{
    if (steps > r->steps)
        return err_set(r->e, ERR_TOO_LARGE, "template, line %u: more than %d steps", r->line, JINJA_STEPS_MAX);
    r->steps -= steps;
    return true;
}

bool run_spend_bytes(struct run *r, size_t bytes)
{
    if (bytes > JINJA_OUTPUT_MAX)
        return err_set(r->e, ERR_TOO_LARGE, "template, line %u: a text of more than %d bytes", r->line,
                       JINJA_OUTPUT_MAX);
    return run_spend(r, 1 + bytes / BYTES_A_STEP);
}

static bool too_much(struct run *r)
{
    return err_set(r->e, ERR_TOO_LARGE, "template, line %u: needs more than %zu MiB", r->line, r->arena.budget_bytes >> 20);
}

bool run_spend_on(struct run *r, const struct sink *s, size_t bytes)
{
    if (s->text.len + bytes > r->arena.budget_bytes / 2) return too_much(r); /* bytes and their origins */
    return run_spend_bytes(r, bytes);
}

void *run_take(struct run *r, size_t count, size_t size)
{
    size_t bytes, total;
    if (!size_mul(count, size, &bytes) || !size_add(bytes, r->arena.used_bytes, &total) ||
        total + 64 > r->arena.budget_bytes) {
        (void)too_much(r);
        return NULL;
    }
    return run_spend_bytes(r, bytes) ? arena_take(&r->arena, count, size, r->e) : NULL;
}

bool run_enter(struct run *r)
{
    if (++r->depth <= JINJA_DEPTH_MAX) return true;
    return err_set(r->e, ERR_TOO_LARGE, "template, line %u: nested deeper than %d", r->line, JINJA_DEPTH_MAX);
}

/* ---- names ------------------------------------------------------------------------------------- */

bool scope_push(struct run *r, struct scope *parent)
{
    struct scope *s = run_take(r, 1, sizeof *s);
    if (!s) return false;
    s->parent = parent;
    r->scope = s;
    return true;
}

static bool same(struct text a, struct text b) { return a.len == b.len && memcmp(a.s, b.s, a.len) == 0; }

bool name_bind(struct run *r, struct text name, struct value v)
{
    for (struct binding *b = r->scope->first; b; b = b->next) {
        if (!run_spend(r, 1)) return false;
        if (!same(b->name, name)) continue;
        b->value = v;
        return true;
    }
    struct binding *b = run_take(r, 1, sizeof *b);
    if (!b) return false;
    *b = (struct binding){name, v, r->scope->first};
    r->scope->first = b;
    return true;
}

/* Names that Jinja or the reference tokenizer would give a meaning we do not have. Without this
 * they would be undefined, and print as nothing. */
static bool is_missing(struct text name)
{
    static const char *const names[] = {
        "varargs",   "kwargs",    "caller",    "self",       "super",     "lipsum",
        "cycler",    "joiner",    "pad_token", "unk_token",  "sep_token", "cls_token",
        "mask_token", "additional_special_tokens"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (text_is(name, names[i])) return true;
    return false;
}

bool name_find(struct run *r, struct text name, struct value *out)
{
    for (const struct scope *s = r->scope; s; s = s->parent)
        for (const struct binding *b = s->first; b; b = b->next) {
            if (!run_spend(r, 1)) return false;
            if (!same(b->name, name)) continue;
            *out = b->value;
            return true;
        }
    for (size_t i = 0; i < r->in->n; i++)
        if (text_is(name, r->in->variable[i].name)) {
            *out = r->in->variable[i].value;
            return true;
        }
    const struct callee *f = callee_find(jinja_functions, name);
    if (is_missing(name)) return run_refuse(r, "the variable %.*s", text_shown(name), name.s);
    if (f && !(text_is(name, "strftime_now") && !r->in->date))
        *out = (struct value){.type = V_FUNCTION, .function = f};
    else
        *out = value_undefined(name);
    return true;
}
