/* Statements, macros, and a rendering as a whole. */
#include <string.h>

#include "state.h"

static bool exec_text(struct run *r, const struct node *n)
{
    return value_print(r, &n->constant, r->out);
}

static bool exec_output(struct run *r, const struct node *n)
{
    struct value v;
    return node_evaluate(r, n->a, &v) && value_print(r, &v, r->out);
}

static bool exec_if(struct run *r, const struct node *n)
{
    for (const struct node *b = n->list; b; b = b->next) {
        struct value test = value_bool(true);
        if (b->a && !node_evaluate(r, b->a, &test)) return false;
        if (value_is_true(&test)) return node_execute(r, b->list);
    }
    return true;
}

/* ---- setting ----------------------------------------------------------------------------------- */

static bool assign(struct run *r, const struct node *target, struct value v);

static bool assign_all(struct run *r, const struct node *targets, const struct value *v)
{
    struct list *l;
    size_t n = 0;
    for (const struct node *t = targets; t; t = t->next) n++;
    if (!value_elements(r, v, &l)) return false;
    if (l->n != n) return run_refuse(r, "setting %zu names from %zu values", n, l->n);
    size_t i = 0;
    for (const struct node *t = targets; t; t = t->next)
        if (!assign(r, t, l->item[i++])) return false;
    return true;
}

static bool assign(struct run *r, const struct node *target, struct value v)
{
    struct value space;
    if (target->kind == NODE_NAME) return name_bind(r, target->name, v);
    if (target->kind == NODE_TUPLE) return assign_all(r, target->list, &v);
    if (!node_evaluate(r, target->a, &space)) return false;
    if (space.type != V_SPACE) return run_refuse_type(r, "setting an attribute", &space);
    if (target->kind != NODE_ATTR || target->name.s[0] == '_')
        return run_refuse(r, "setting an attribute of this name");
    return dict_put(r, space.dict, value_text(target->name), v);
}

static bool exec_set(struct run *r, const struct node *n)
{
    struct value v;
    return node_evaluate(r, n->b, &v) && assign(r, n->a, v);
}

/* ---- bodies with an output or a scope of their own ---------------------------------------------- */

static bool in_scope(struct run *r, struct scope *parent, const struct node *body)
{
    struct scope *had = r->scope;
    bool ok = scope_push(r, parent) && node_execute(r, body);
    r->scope = had;
    return ok;
}

static bool exec_scope(struct run *r, const struct node *n) { return in_scope(r, r->scope, n->list); }

/* Run a body into a text, in the scope at hand. */
static bool captured(struct run *r, const struct node *body, struct value *out)
{
    struct sink s = {0}, *had = r->out;
    r->out = &s;
    bool ok = node_execute(r, body);
    r->out = had;
    if (ok) return sink_value(r, &s, out);
    sink_release(&s);
    return false;
}

/* The chain of filters around a CONST that stands for v. */
static bool filtered(struct run *r, const struct node *chain, struct value *v)
{
    struct args args = {0};
    struct value *at = NULL;
    if (chain->kind == NODE_CONST) return true;
    if (!run_enter(r) || !filtered(r, chain->a, v)) return false;
    run_leave(r);
    size_t n = 0;
    for (const struct node *c = chain->list; c; c = c->next) n++;
    if (!(at = run_take(r, n, sizeof *at))) return false;
    args = (struct args){at, n, NULL};
    for (const struct node *c = chain->list; c; c = c->next)
        if (!node_evaluate(r, c, at++)) return false;
    if (chain->named) return run_refuse(r, "a named argument of a block's filter");
    struct value self = *v;
    return filter_call(r, chain->name, &self, &args, v);
}

static bool exec_capture(struct run *r, const struct node *n)
{
    struct value v;
    struct scope *had = r->scope;
    bool ok = scope_push(r, had) && captured(r, n->list, &v);
    r->scope = had;
    if (!ok || !filtered(r, n->b, &v)) return false;
    return n->a ? assign(r, n->a, v) : value_print(r, &v, r->out);
}

/* ---- loops ------------------------------------------------------------------------------------- */

static bool exec_jump(struct run *r, const struct node *n)
{
    r->flow = n->kind == NODE_BREAK ? FLOW_BREAK : FLOW_CONTINUE;
    return true;
}

/* Only the elements for which n->c holds. */
static bool kept(struct run *r, const struct node *n, struct list *all, struct list **out)
{
    struct scope *had = r->scope;
    struct value list;
    *out = all;
    if (!n->c) return true;
    if (!value_list(r, LIST, all->n, &list)) return false;
    *out = list.list;
    (*out)->n = 0;
    for (size_t i = 0; i < all->n; i++) {
        struct value test;
        bool ok = scope_push(r, had) && assign(r, n->a, all->item[i]) && node_evaluate(r, n->c, &test);
        r->scope = had;
        if (!ok) return false;
        if (value_is_true(&test)) (*out)->item[(*out)->n++] = all->item[i];
    }
    return true;
}

static bool one_turn(struct run *r, const struct node *n, struct loop *loop)
{
    static const struct text name = {"loop", NULL, 4};
    const struct value self = {.type = V_LOOP, .loop = loop};
    struct scope *had = r->scope;
    bool ok = scope_push(r, had) && name_bind(r, name, self) && assign(r, n->a, loop->item[loop->at]) &&
              node_execute(r, n->list);
    r->scope = had;
    return ok;
}

static bool exec_for(struct run *r, const struct node *n)
{
    struct value over;
    struct list *list;
    struct loop *loop = run_take(r, 1, sizeof *loop);
    if (!loop || !node_evaluate(r, n->b, &over) || !value_elements(r, &over, &list) ||
        !kept(r, n, list, &list))
        return false;
    if (!list->n) return in_scope(r, r->scope, n->named);
    *loop = (struct loop){0, list->n, list->item};
    for (bool done = false; !done && loop->at < loop->n; loop->at++) {
        if (!one_turn(r, n, loop)) return false;
        done = r->flow == FLOW_BREAK;
        r->flow = FLOW_ON;
    }
    return true;
}

/* ---- macros ------------------------------------------------------------------------------------ */

static bool exec_macro(struct run *r, const struct node *n)
{
    struct macro *m = run_take(r, 1, sizeof *m);
    if (!m) return false;
    *m = (struct macro){n, r->scope};
    return name_bind(r, n->name, (struct value){.type = V_MACRO, .macro = m});
}

static const struct binding *argument(const struct args *args, struct text name)
{
    for (const struct binding *b = args->named; b; b = b->next)
        if (text_compare(b->name, name) == 0) return b;
    return NULL;
}

/* Parameters become names of the macro's scope; a default may use those before it. */
static bool bind_params(struct run *r, const struct macro *m, const struct args *args)
{
    size_t i = 0, named = 0, used = 0;
    for (const struct binding *b = args->named; b; b = b->next) named++;
    for (const struct node *p = m->def->named; p; p = p->next, i++) {
        const struct binding *b = argument(args, p->name);
        struct value v = i < args->n ? args->at[i] : b ? b->value : value_undefined(p->name);
        if (b && i < args->n) return run_refuse(r, "an argument given twice");
        used += b != NULL;
        if (i >= args->n && !b && p->a && !node_evaluate(r, p->a, &v)) return false;
        if (!name_bind(r, p->name, v)) return false;
    }
    if (i < args->n || used < named)
        return run_refuse(r, "an argument that the macro %.*s does not take",
                      text_shown(m->def->name), m->def->name.s);
    return true;
}

bool macro_call(struct run *r, const struct macro *m, const struct args *args, struct value *out)
{
    struct scope *had = r->scope;
    bool ok = scope_push(r, m->home) && bind_params(r, m, args) && captured(r, m->def->list, out);
    r->scope = had;
    return ok;
}

/* ---- all --------------------------------------------------------------------------------------- */

bool node_execute(struct run *r, const struct node *body)
{
    static bool (*const by_kind[NODE_KINDS])(struct run *r, const struct node *n) = {
#define EXPRESSION(kind, evaluates)
#define STATEMENT(kind, executes) [NODE_##kind] = executes,
#include "node.def"
#undef EXPRESSION
#undef STATEMENT
    };
    if (!run_enter(r)) return false;
    for (; body && r->flow == FLOW_ON; body = body->next) {
        r->line = body->line;
        if (!run_spend(r, 1) || !by_kind[body->kind](r, body)) return false;
    }
    run_leave(r);
    return true;
}

bool jinja_render(const struct jinja *t, const struct jinja_input *in, struct sink *out, struct err *e)
{
    struct run r = {.e = e, .in = in, .out = out, .steps = JINJA_STEPS_MAX, .line = 1};
    arena_init(&r.arena, JINJA_MEMORY + 64 * in->bytes);
    bool ok = scope_push(&r, NULL) && node_execute(&r, t->body) && buf_ok(&out->text, e) && buf_ok(&out->own, e);
    arena_release(&r.arena);
    return ok;
}
