/* Expressions. */
#include <string.h>

#include "lex.h"
#include "state.h"

static bool eval_const(struct run *r, const struct node *n, struct value *out)
{
    (void)r;
    *out = n->constant;
    return true;
}

static bool eval_name(struct run *r, const struct node *n, struct value *out) { return name_find(r, n->name, out); }

static bool eval_attr(struct run *r, const struct node *n, struct value *out)
{
    struct value of;
    return node_evaluate(r, n->a, &of) && value_attr(r, &of, n->name, out);
}

static bool eval_item(struct run *r, const struct node *n, struct value *out)
{
    struct value of, at;
    return node_evaluate(r, n->a, &of) && node_evaluate(r, n->b, &at) && value_item(r, &of, &at, out);
}

static bool eval_slice(struct run *r, const struct node *n, struct value *out)
{
    struct value of, bound[3] = {{.type = V_ABSENT}};
    const struct node *part[3] = {n->b, n->c, n->d};
    if (!node_evaluate(r, n->a, &of)) return false;
    for (int i = 0; i < 3; i++)
        if (part[i] && !node_evaluate(r, part[i], &bound[i])) return false;
    return value_slice(r, &of, bound, out);
}

/* ---- calls ------------------------------------------------------------------------------------- */

/* A list of expressions, evaluated in order. */
static bool eval_all(struct run *r, const struct node *list, struct value **out, size_t *n)
{
    *n = 0;
    for (const struct node *c = list; c; c = c->next) ++*n;
    if (!(*out = run_take(r, *n, sizeof **out))) return false;
    size_t i = 0;
    for (const struct node *c = list; c; c = c->next)
        if (!node_evaluate(r, c, &(*out)[i++])) return false;
    return true;
}

static bool eval_args(struct run *r, const struct node *n, struct args *out)
{
    struct binding **tail = &out->named;
    out->named = NULL;
    if (!eval_all(r, n->list, &out->at, &out->n)) return false;
    for (const struct node *c = n->named; c; c = c->next) {
        struct binding *b = *tail = run_take(r, 1, sizeof *b);
        if (!b || !node_evaluate(r, c->a, &b->value)) return false;
        b->name = c->name;
        tail = &b->next;
    }
    return true;
}

/* namespace(a=1, …) and dict(a=1, …). */
static bool call_with_names(struct run *r, const struct callee *f, struct args *args, struct value *out)
{
    const struct args unnamed = {args->at, args->n, NULL};
    if (!callee_call(r, f, NULL, &unnamed, out)) return false;
    for (const struct binding *b = args->named; b; b = b->next) {
        if (out->type == V_SPACE && b->name.s[0] == '_')
            return run_refuse(r, "an attribute that begins with an underscore");
        if (!dict_put(r, out->dict, value_text(b->name), b->value)) return false;
    }
    return true;
}

static bool eval_call(struct run *r, const struct node *n, struct value *out)
{
    struct value f;
    struct args args;
    if (!node_evaluate(r, n->a, &f)) return false;
    if (f.type == V_UNDEFINED && text_is(f.name, "strftime_now"))
        return err_set(r->e, ERR_INVALID, "the chat template asks for the day (line %u); give a date with the messages",
                       n->line);
    if (n->op == '*') return run_refuse(r, "a call with * or **");
    if (!eval_args(r, n, &args)) return false;
    switch (f.type) {
    case V_MACRO: return macro_call(r, f.macro, &args, out);
    case V_METHOD:
        if (is_text(&f.bound->self) && f.bound->self.markup) return run_refuse(r, "a method of a string marked safe");
        return callee_call(r, f.bound->method, &f.bound->self, &args, out);
    case V_FUNCTION:
        if (strstr(f.function->params, "**")) return call_with_names(r, f.function, &args, out);
        return callee_call(r, f.function, NULL, &args, out);
    default: return run_refuse_type(r, "a call", &f);
    }
}

static bool eval_filter(struct run *r, const struct node *n, struct value *out)
{
    struct value self;
    struct args args;
    if (n->op == '*') return run_refuse(r, "a filter with * or **");
    return node_evaluate(r, n->a, &self) && eval_args(r, n, &args) && filter_call(r, n->name, &self, &args, out);
}

static bool eval_test(struct run *r, const struct node *n, struct value *out)
{
    struct value self;
    struct args args;
    bool is;
    if (n->op == '*') return run_refuse(r, "a test with * or **");
    if (!node_evaluate(r, n->a, &self) || !eval_args(r, n, &args) || !test_call(r, n->name, &self, &args, &is))
        return false;
    *out = value_bool(is);
    return true;
}

/* ---- operators --------------------------------------------------------------------------------- */

static bool eval_sign(struct run *r, const struct node *n, struct value *out)
{
    struct value v, minus;
    if (!node_evaluate(r, n->a, &v) || !value_negate(r, &v, &minus)) return false;
    if (n->kind == NODE_POSITIVE) return value_negate(r, &minus, out);
    *out = minus;
    return true;
}

static bool eval_binary(struct run *r, const struct node *n, struct value *out)
{
    struct value a, b;
    return node_evaluate(r, n->a, &a) && node_evaluate(r, n->b, &b) && value_arithmetic(r, n->op, &a, &b, out);
}

/* a < b < c is a < b and b < c, b evaluated once. */
static bool eval_compare(struct run *r, const struct node *n, struct value *out)
{
    struct value left, right;
    bool is = true;
    if (!node_evaluate(r, n->a, &left)) return false;
    for (const struct node *c = n->list; c && is; c = c->next, left = right)
        if (!node_evaluate(r, c->a, &right) || !value_compare(r, c->op, &left, &right, &is)) return false;
    *out = value_bool(is);
    return true;
}

static bool eval_concat(struct run *r, const struct node *n, struct value *out)
{
    struct sink s = {0};
    for (const struct node *c = n->list; c; c = c->next) {
        struct value v;
        if (node_evaluate(r, c, &v) && value_print(r, &v, &s)) continue;
        sink_release(&s);
        return false;
    }
    return sink_value(r, &s, out);
}

static bool eval_logic(struct run *r, const struct node *n, struct value *out)
{
    if (!node_evaluate(r, n->a, out)) return false;
    return value_is_true(out) == (n->kind == NODE_OR) || node_evaluate(r, n->b, out);
}

static bool eval_not(struct run *r, const struct node *n, struct value *out)
{
    struct value v;
    if (!node_evaluate(r, n->a, &v)) return false;
    *out = value_bool(!value_is_true(&v));
    return true;
}

static bool eval_cond(struct run *r, const struct node *n, struct value *out)
{
    struct value test;
    if (!node_evaluate(r, n->a, &test)) return false;
    if (value_is_true(&test)) return node_evaluate(r, n->b, out);
    if (n->c) return node_evaluate(r, n->c, out);
    *out = value_undefined((struct text){"an if without else", NULL, 18});
    return true;
}

/* ---- lists and dicts --------------------------------------------------------------------------- */

static bool eval_list(struct run *r, const struct node *n, struct value *out)
{
    struct value *item;
    size_t count;
    if (!eval_all(r, n->list, &item, &count)) return false;
    if (!value_list(r, n->kind == NODE_TUPLE ? TUPLE : LIST, 0, out)) return false;
    out->list->item = item;
    out->list->n = count;
    return true;
}

static bool eval_dict(struct run *r, const struct node *n, struct value *out)
{
    struct dict *d = run_take(r, 1, sizeof *d);
    if (!d) return false;
    for (const struct node *c = n->list; c; c = c->next->next) {
        struct value key, v;
        if (!node_evaluate(r, c, &key) || !node_evaluate(r, c->next, &v) || !dict_put(r, d, key, v)) return false;
    }
    *out = (struct value){.type = V_DICT, .dict = d};
    return true;
}

bool node_evaluate(struct run *r, const struct node *n, struct value *out)
{
    static bool (*const by_kind[NODE_KINDS])(struct run *r, const struct node *n, struct value *out) = {
#define EXPRESSION(kind, evaluates) [NODE_##kind] = evaluates,
#define STATEMENT(kind, executes)
#include "node.def"
#undef EXPRESSION
#undef STATEMENT
    };
    unsigned line = r->line;
    r->line = n->line;
    if (!run_spend(r, 1) || !run_enter(r) || !by_kind[n->kind](r, n, out)) return false;
    run_leave(r);
    r->line = line;
    return true;
}
