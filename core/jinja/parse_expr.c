/* Expressions. The order of binding is Jinja's: ~ binds tighter than +, and filters and tests
 * tighter than any operator. */
#include <stdlib.h>
#include <string.h>

#include "jinja.h"
#include "parse_int.h"

static struct node *parse_unary(struct parser *p, bool jinja_filters);

void *parse_fault(struct parser *p, const char *what)
{
    const struct token *t = p->at;
    if (t->type == TOKEN_END)
        (void)err_set(p->e, ERR_UNSUPPORTED, "template, line %u: %s, but it ends", t->line, what);
    else
        (void)err_set(p->e, ERR_UNSUPPORTED, "template, line %u: %s near \"%.*s\"", t->line, what,
                      text_shown(t->text), t->text.len ? t->text.s : "");
    return NULL;
}

struct node *parse_refuse(struct parser *p, const char *what)
{
    (void)err_set(p->e, ERR_UNSUPPORTED, "template, line %u: %s is not something we have",
                  p->at->line, what);
    return NULL;
}

struct node *node_new(struct parser *p, enum node_kind kind)
{
    struct node *n = arena_take(p->arena, 1, sizeof *n, p->e);
    if (!n) return NULL;
    n->kind = kind;
    n->line = p->at->line;
    return n;
}

bool parse_enter(struct parser *p)
{
    if (++p->depth <= JINJA_DEPTH_MAX) return true;
    return err_set(p->e, ERR_TOO_LARGE, "template, line %u: nested deeper than %d", p->at->line,
                   JINJA_DEPTH_MAX);
}

bool at_op(const struct parser *p, unsigned op) { return p->at->type == TOKEN_OP && p->at->op == op; }

static bool named(const struct token *t, const char *name)
{
    return t->type == TOKEN_NAME && t->text.len == strlen(name) &&
           memcmp(t->text.s, name, t->text.len) == 0;
}

bool at_name(const struct parser *p, const char *name) { return named(p->at, name); }

bool skip_op(struct parser *p, unsigned op)
{
    bool is = at_op(p, op);
    p->at += is;
    return is;
}

bool skip_name(struct parser *p, const char *name)
{
    bool is = at_name(p, name);
    p->at += is;
    return is;
}

bool expect_op(struct parser *p, unsigned op)
{
    if (skip_op(p, op)) return true;
    char what[16] = "expected \"?\"";
    what[10] = (char)op;
    return parse_fault(p, what) != NULL;
}

/* ---- literals and names ------------------------------------------------------------------------ */

static struct node *constant(struct parser *p, struct value v)
{
    struct node *n = node_new(p, NODE_CONST);
    if (n) n->constant = v;
    return n;
}

/* Strings side by side are one. */
static struct node *parse_string(struct parser *p)
{
    struct node *n = constant(p, value_text(p->at->text));
    p->at++;
    if (!n || p->at->type != TOKEN_STRING) return n;
    size_t len = n->constant.text.len, at = len;
    for (const struct token *t = p->at; t->type == TOKEN_STRING; t++) len += t->text.len;
    char *s = arena_take(p->arena, len + 1, 1, p->e);
    if (!s) return NULL;
    memcpy(s, n->constant.text.s, at);
    for (; p->at->type == TOKEN_STRING; p->at++) {
        memcpy(s + at, p->at->text.s, p->at->text.len);
        at += p->at->text.len;
    }
    n->constant.text = (struct text){s, n->constant.text.own, len};
    return n;
}

static struct node *parse_number(struct parser *p)
{
    char digits[64] = "";
    memcpy(digits, p->at->text.s, p->at->text.len);
    struct value v = {.type = V_FLOAT, .number = strtod(digits, NULL)};
    if (p->at->type == TOKEN_INT) {
        if (p->at->text.len > 18) return parse_refuse(p, "a whole number of more than 18 digits");
        v = value_int(strtoll(digits, NULL, 10));
    }
    p->at++;
    return constant(p, v);
}

static struct node *parse_name(struct parser *p)
{
    static const struct {
        const char *name;
        struct value value;
    } words[] = {
        {"true", {.type = V_BOOL, .truth = true}}, {"True", {.type = V_BOOL, .truth = true}},
        {"false", {.type = V_BOOL}},               {"False", {.type = V_BOOL}},
        {"none", {.type = V_NONE}},                {"None", {.type = V_NONE}},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (skip_name(p, words[i].name)) return constant(p, words[i].value);
    struct node *n = node_new(p, NODE_NAME);
    if (n) n->name = p->at->text;
    p->at++;
    return n;
}

/* After "[" or "{": members up to the closing bracket; a comma may end them. */
static struct node *parse_members(struct parser *p, enum node_kind kind, unsigned close)
{
    struct node *n = node_new(p, kind), **tail = n ? &n->list : NULL;
    while (n && !skip_op(p, close)) {
        if (n->list && !expect_op(p, ',')) return NULL;
        if (n->list && skip_op(p, close)) break;
        if (!(*tail = parse_expression(p))) return NULL;
        tail = &(*tail)->next;
        if (kind != NODE_DICT) continue;
        if (!expect_op(p, ':') || !(*tail = parse_expression(p))) return NULL;
        tail = &(*tail)->next;
    }
    return n;
}

static struct node *parse_primary(struct parser *p)
{
    switch (p->at->type) {
    case TOKEN_NAME: return parse_name(p);
    case TOKEN_STRING: return parse_string(p);
    case TOKEN_INT:
    case TOKEN_FLOAT: return parse_number(p);
    default: break;
    }
    if (skip_op(p, '[')) return parse_members(p, NODE_LIST, ']');
    if (skip_op(p, '{')) return parse_members(p, NODE_DICT, '}');
    if (!skip_op(p, '(')) return parse_fault(p, "expected a value");
    struct node *n = parse_tuple(p, parse_expression, true);
    return n && expect_op(p, ')') ? n : NULL;
}

/* ---- what may follow --------------------------------------------------------------------------- */

static struct node *parse_subscript(struct parser *p, struct node *of)
{
    struct node *n = node_new(p, NODE_ITEM);
    if (!n) return NULL;
    n->a = of;
    if (!at_op(p, ':') && !(n->b = parse_expression(p))) return NULL;
    if (at_op(p, ',')) return parse_refuse(p, "a subscript with a comma");
    if (skip_op(p, ':')) {
        n->kind = NODE_SLICE;
        if (!at_op(p, ']') && !at_op(p, ':') && !(n->c = parse_expression(p))) return NULL;
        if (skip_op(p, ':') && !at_op(p, ']') && !(n->d = parse_expression(p))) return NULL;
    }
    return expect_op(p, ']') ? n : NULL;
}

static struct node *parse_dot(struct parser *p, struct node *of)
{
    struct node *n = node_new(p, NODE_ATTR);
    if (!n) return NULL;
    n->a = of;
    if (p->at->type == TOKEN_INT) { /* a.0 */
        n->kind = NODE_ITEM;
        return (n->b = parse_number(p)) ? n : NULL;
    }
    if (p->at->type != TOKEN_NAME) return parse_fault(p, "expected a name");
    n->name = p->at->text;
    p->at++;
    return n;
}

/* After "(": values, then name=value. */
static bool parse_arguments(struct parser *p, struct node *n)
{
    struct node **tail = &n->list, **named_tail = &n->named;
    bool any = false;
    while (!skip_op(p, ')')) {
        if (any && !expect_op(p, ',')) return false;
        if (any && skip_op(p, ')')) break;
        any = true;
        if (skip_op(p, '*') || skip_op(p, OP2('*', '*'))) n->op = '*'; /* refused when it is called */
        if (p->at->type == TOKEN_NAME && p->at[1].type == TOKEN_OP && p->at[1].op == '=') {
            struct node *arg = *named_tail = node_new(p, NODE_PARAM);
            if (!arg) return false;
            arg->name = p->at->text;
            p->at += 2;
            if (!(arg->a = parse_expression(p))) return false;
            named_tail = &arg->next;
            continue;
        }
        if (n->named) return parse_fault(p, "a value after a named argument") != NULL;
        if (!(*tail = parse_expression(p))) return false;
        tail = &(*tail)->next;
    }
    return true;
}

static struct node *parse_call(struct parser *p, struct node *of)
{
    struct node *n = node_new(p, NODE_CALL);
    if (!n) return NULL;
    n->a = of;
    return parse_arguments(p, n) ? n : NULL;
}

static struct node *parse_postfix(struct parser *p, struct node *n)
{
    while (n) {
        if (skip_op(p, '.')) n = parse_dot(p, n);
        else if (skip_op(p, '[')) n = parse_subscript(p, n);
        else if (skip_op(p, '(')) n = parse_call(p, n);
        else break;
    }
    return n;
}

struct node *parse_filter(struct parser *p, struct node *of)
{
    struct node *n = node_new(p, NODE_FILTER);
    if (!n) return NULL;
    if (p->at->type != TOKEN_NAME) return parse_fault(p, "expected the name of a filter");
    n->a = of;
    n->name = p->at->text;
    p->at++;
    return !skip_op(p, '(') || parse_arguments(p, n) ? n : NULL;
}

struct node *parse_filters(struct parser *p, struct node *of)
{
    while (skip_op(p, '|'))
        if (!(of = parse_filter(p, of))) return NULL;
    return of;
}

/* A test's one argument may stand without parentheses. */
static bool begins_argument(const struct parser *p)
{
    static const char *const not_these[] = {"else", "or", "and"};
    for (size_t i = 0; i < sizeof not_these / sizeof *not_these; i++)
        if (at_name(p, not_these[i])) return false;
    return p->at->type == TOKEN_NAME || p->at->type == TOKEN_STRING || p->at->type == TOKEN_INT ||
           p->at->type == TOKEN_FLOAT || at_op(p, '[') || at_op(p, '{');
}

static struct node *parse_test(struct parser *p, struct node *of)
{
    struct node *n = node_new(p, NODE_TEST), *inverse = NULL;
    if (!n) return NULL;
    if (skip_name(p, "not") && !(inverse = node_new(p, NODE_NOT))) return NULL;
    if (p->at->type != TOKEN_NAME) return parse_fault(p, "expected the name of a test");
    n->a = of;
    n->name = p->at->text;
    p->at++;
    if (skip_op(p, '(')) {
        if (!parse_arguments(p, n)) return NULL;
    } else if (begins_argument(p)) {
        if (at_name(p, "is")) return parse_fault(p, "tests cannot be chained");
        n->list = parse_postfix(p, parse_primary(p));
        if (!n->list) return NULL;
    }
    if (!inverse) return n;
    inverse->a = n;
    return inverse;
}

static struct node *parse_filters_and_tests(struct parser *p, struct node *n)
{
    while (n) {
        if (skip_op(p, '|')) n = parse_filter(p, n);
        else if (skip_name(p, "is")) n = parse_test(p, n);
        else if (skip_op(p, '(')) n = parse_call(p, n); /* what a filter gives may be called */
        else break;
    }
    return n;
}

/* ---- operators --------------------------------------------------------------------------------- */

static struct node *parse_unary(struct parser *p, bool jinja_filters)
{
    struct node *n;
    if (!parse_enter(p)) return NULL;
    if (at_op(p, '-') || at_op(p, '+')) {
        n = node_new(p, at_op(p, '-') ? NODE_NEGATIVE : NODE_POSITIVE);
        p->at++;
        if (!n || !(n->a = parse_unary(p, false))) return NULL;
    } else {
        n = parse_primary(p);
    }
    n = n ? parse_postfix(p, n) : NULL;
    if (n && jinja_filters) n = parse_filters_and_tests(p, n);
    p->depth--;
    return n;
}

static struct node *binary(struct parser *p, struct node *left, struct node *(*operand)(struct parser *p))
{
    struct node *n = node_new(p, NODE_BINARY);
    if (!n) return NULL;
    n->op = p->at->op;
    p->at++;
    n->a = left;
    return (n->b = operand(p)) ? n : NULL;
}

static struct node *parse_power_operand(struct parser *p) { return parse_unary(p, true); }

static struct node *parse_factor(struct parser *p)
{
    struct node *n = parse_unary(p, true);
    while (n && at_op(p, OP2('*', '*'))) n = binary(p, n, parse_power_operand);
    return n;
}

static struct node *parse_product(struct parser *p)
{
    struct node *n = parse_factor(p);
    while (n && (at_op(p, '*') || at_op(p, '/') || at_op(p, OP2('/', '/')) || at_op(p, '%')))
        n = binary(p, n, parse_factor);
    return n;
}

static struct node *parse_concat(struct parser *p)
{
    struct node *first = parse_product(p), *n, **tail;
    if (!first || !at_op(p, '~')) return first;
    if (!(n = node_new(p, NODE_CONCAT))) return NULL;
    n->list = first;
    for (tail = &first->next; skip_op(p, '~'); tail = &(*tail)->next)
        if (!(*tail = parse_product(p))) return NULL;
    return n;
}

static struct node *parse_sum(struct parser *p)
{
    struct node *n = parse_concat(p);
    while (n && (at_op(p, '+') || at_op(p, '-'))) n = binary(p, n, parse_concat);
    return n;
}

/* The comparison at hand, taken; 0: none. */
static unsigned comparison(struct parser *p)
{
    static const unsigned ops[] = {OP2('=', '='), OP2('!', '='), OP2('<', '='), OP2('>', '='), '<', '>'};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (skip_op(p, ops[i])) return ops[i];
    if (skip_name(p, "in")) return OP_IN;
    if (!at_name(p, "not") || !named(p->at + 1, "in")) return 0;
    p->at += 2;
    return OP_NOT_IN;
}

static struct node *parse_compare(struct parser *p)
{
    struct node *first = parse_sum(p), *n = NULL, **tail = NULL;
    for (unsigned op; first && (op = comparison(p));) {
        if (!n) {
            if (!(n = node_new(p, NODE_COMPARE))) return NULL;
            n->a = first;
            tail = &n->list;
        }
        struct node *operand = *tail = node_new(p, NODE_OPERAND);
        if (!operand || !(operand->a = parse_sum(p))) return NULL;
        operand->op = op;
        tail = &operand->next;
    }
    return n ? n : first;
}

static struct node *parse_not(struct parser *p)
{
    if (!at_name(p, "not")) return parse_compare(p);
    struct node *n = node_new(p, NODE_NOT);
    p->at++;
    if (!n || !parse_enter(p) || !(n->a = parse_not(p))) return NULL;
    p->depth--;
    return n;
}

static struct node *parse_logic(struct parser *p, const char *word, enum node_kind kind,
                                struct node *(*operand)(struct parser *p))
{
    struct node *n = operand(p);
    while (n && skip_name(p, word)) {
        struct node *both = node_new(p, kind);
        if (!both || !(both->b = operand(p))) return NULL;
        both->a = n;
        n = both;
    }
    return n;
}

static struct node *parse_and(struct parser *p) { return parse_logic(p, "and", NODE_AND, parse_not); }

struct node *parse_without_if(struct parser *p) { return parse_logic(p, "or", NODE_OR, parse_and); }

struct node *parse_expression(struct parser *p)
{
    if (!parse_enter(p)) return NULL;
    struct node *n = parse_without_if(p);
    while (n && skip_name(p, "if")) {
        struct node *cond = node_new(p, NODE_COND);
        if (!cond || !(cond->a = parse_without_if(p))) return NULL;
        cond->b = n;
        if (skip_name(p, "else") && !(cond->c = parse_expression(p))) return NULL;
        n = cond;
    }
    p->depth--;
    return n;
}

static bool ends_tuple(const struct parser *p)
{
    return p->at->type == TOKEN_PRINT_END || p->at->type == TOKEN_TAG_END || at_op(p, ')');
}

struct node *parse_tuple(struct parser *p, struct node *(*one)(struct parser *p), bool may_be_empty)
{
    struct node *first = NULL, **tail = &first, *n;
    bool tuple = false;
    for (;;) {
        if (ends_tuple(p)) break;
        if (!(*tail = one(p))) return NULL;
        tail = &(*tail)->next;
        if (!skip_op(p, ',')) break;
        tuple = true;
    }
    if (!tuple && first) return first;
    if (!first && !may_be_empty) return parse_fault(p, "expected a value");
    if ((n = node_new(p, NODE_TUPLE))) n->list = first;
    return n;
}

/* ---- targets ----------------------------------------------------------------------------------- */

static struct node *parse_one_target(struct parser *p)
{
    static const char *const reserved[] = {"true", "false", "none", "True", "False", "None", "loop", "self"};
    if (p->at->type != TOKEN_NAME) return parse_fault(p, "expected a name to set");
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++)
        if (at_name(p, reserved[i])) return parse_fault(p, "a name that cannot be set");
    struct node *n = parse_name(p);
    return n && skip_op(p, '.') ? parse_dot(p, n) : n;
}

struct node *parse_target(struct parser *p)
{
    if (!skip_op(p, '(')) {
        struct node *n = parse_one_target(p), *all, **tail;
        if (!n || !at_op(p, ',')) return n;
        if (!(all = node_new(p, NODE_TUPLE))) return NULL;
        all->list = n;
        for (tail = &n->next; skip_op(p, ',') && p->at->type == TOKEN_NAME && !at_name(p, "in");
             tail = &(*tail)->next)
            if (!(*tail = parse_one_target(p))) return NULL;
        return all;
    }
    struct node *n = parse_enter(p) ? parse_target(p) : NULL;
    p->depth--;
    return n && expect_op(p, ')') ? n : NULL;
}
