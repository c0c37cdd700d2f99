/* Statements, and the template as a whole. */
#include <string.h>

#include "jinja.h"
#include "parse_int.h"

static bool parse_body(struct parser *p, const char *const *until, struct node **out);

static bool expect_tag_end(struct parser *p)
{
    if (p->at->type != TOKEN_TAG_END) return parse_fault(p, "expected the end of the tag") != NULL;
    p->at++;
    return true;
}

/* A body up to one of the tags named, whose name is then at hand. */
static bool parse_block(struct parser *p, const char *const *until, struct node **out)
{
    return expect_tag_end(p) && parse_body(p, until, out);
}

static struct node *parse_if(struct parser *p)
{
    static const char *const until[] = {"elif", "else", "endif", NULL};
    struct node *n = node_new(p, NODE_IF), **tail = n ? &n->list : NULL;
    for (bool last = false; n;) {
        struct node *branch = *tail = node_new(p, NODE_BRANCH);
        if (!branch) return NULL;
        if (!last && !(branch->a = parse_tuple(p, parse_without_if, false))) return NULL;
        if (!parse_block(p, last ? until + 2 : until, &branch->list)) return NULL;
        if (skip_name(p, "endif")) return n;
        last = at_name(p, "else");
        p->at++;
        tail = &branch->next;
    }
    return NULL;
}

static struct node *parse_for(struct parser *p)
{
    static const char *const until[] = {"else", "endfor", NULL};
    struct node *n = node_new(p, NODE_FOR);
    if (!n || !(n->a = parse_target(p))) return NULL;
    if (!skip_name(p, "in")) return parse_fault(p, "expected \"in\"");
    if (!(n->b = parse_tuple(p, parse_without_if, false))) return NULL;
    if (skip_name(p, "if") && !(n->c = parse_expression(p))) return NULL;
    if (at_name(p, "recursive")) return parse_refuse(p, "a recursive loop");
    p->loops++;
    if (!parse_block(p, until, &n->list)) return NULL;
    p->loops--;
    if (skip_name(p, "else") && !parse_block(p, until + 1, &n->named)) return NULL;
    p->at++;
    return n;
}

/* A body whose breaks cannot reach a loop around it. */
static bool parse_closed(struct parser *p, const char *end, struct node **out)
{
    const char *const until[] = {end, NULL};
    unsigned loops = p->loops;
    p->loops = 0;
    if (!parse_block(p, until, out)) return false;
    p->loops = loops;
    p->at++;
    return true;
}

static struct node *parse_set(struct parser *p)
{
    struct node *n = node_new(p, NODE_SET);
    if (!n || !(n->a = parse_target(p))) return NULL;
    if (skip_op(p, '=')) return (n->b = parse_tuple(p, parse_expression, false)) ? n : NULL;
    n->kind = NODE_CAPTURE;
    struct node *nothing = node_new(p, NODE_CONST);
    if (!nothing || !(n->b = parse_filters(p, nothing))) return NULL;
    return parse_closed(p, "endset", &n->list) ? n : NULL;
}

/* {% filter name | … %}: what the body prints goes through them. */
static struct node *parse_filter_block(struct parser *p)
{
    struct node *n = node_new(p, NODE_CAPTURE), *nothing = n ? node_new(p, NODE_CONST) : NULL;
    if (!nothing || !(n->b = parse_filter(p, nothing)) || !(n->b = parse_filters(p, n->b))) return NULL;
    return parse_closed(p, "endfilter", &n->list) ? n : NULL;
}

static struct node *parse_macro(struct parser *p)
{
    struct node *n = node_new(p, NODE_MACRO), **tail = n ? &n->named : NULL;
    if (!n) return NULL;
    if (p->at->type != TOKEN_NAME) return parse_fault(p, "expected the name of a macro");
    n->name = p->at->text;
    p->at++;
    if (!expect_op(p, '(')) return NULL;
    while (!skip_op(p, ')')) {
        if (n->named && !expect_op(p, ',')) return NULL;
        struct node *param = *tail = node_new(p, NODE_PARAM);
        if (!param) return NULL;
        if (p->at->type != TOKEN_NAME) return parse_fault(p, "expected a parameter's name");
        param->name = p->at->text;
        p->at++;
        if (skip_op(p, '=') && !(param->a = parse_expression(p))) return NULL;
        tail = &param->next;
    }
    return parse_closed(p, "endmacro", &n->list) ? n : NULL;
}

static struct node *parse_generation(struct parser *p)
{
    struct node *n = node_new(p, NODE_SCOPE);
    return n && parse_closed(p, "endgeneration", &n->list) ? n : NULL;
}

static struct node *parse_jump(struct parser *p)
{
    bool is_break = p->at[-1].text.s[0] == 'b';
    if (!p->loops) return parse_fault(p, "break or continue outside of a loop");
    return node_new(p, is_break ? NODE_BREAK : NODE_CONTINUE);
}

static const struct {
    const char *name;
    struct node *(*parse)(struct parser *p);
} statements[] = {
    {"if", parse_if},
    {"for", parse_for},
    {"set", parse_set},
    {"macro", parse_macro},
    {"break", parse_jump},
    {"continue", parse_jump},
    {"generation", parse_generation},
    {"filter", parse_filter_block},
};

static struct node *parse_statement(struct parser *p)
{
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        if (!skip_name(p, statements[i].name)) continue;
        unsigned line = p->at[-1].line;
        struct node *n = parse_enter(p) ? statements[i].parse(p) : NULL;
        if (!n || !expect_tag_end(p)) return NULL;
        p->depth--;
        n->line = line;
        return n;
    }
    return parse_fault(p, "a statement that is not one we have");
}

static struct node *parse_print(struct parser *p)
{
    struct node *n = node_new(p, NODE_OUTPUT);
    if (!n || !(n->a = parse_tuple(p, parse_expression, false))) return NULL;
    if (p->at->type != TOKEN_PRINT_END) return parse_fault(p, "expected the end of {{ }}");
    p->at++;
    return n;
}

static bool at_any(const struct parser *p, const char *const *names)
{
    for (; names && *names; names++)
        if (at_name(p, *names)) return true;
    return false;
}

static bool parse_body(struct parser *p, const char *const *until, struct node **out)
{
    for (struct node **tail = out;; tail = &(*tail)->next) {
        const struct token *t = p->at;
        if (t->type == TOKEN_END) {
            if (!until) return true;
            char what[48] = "expected {% ";
            strncat(what, until[0], 16);
            strcat(what, " %}");
            return parse_fault(p, what) != NULL;
        }
        p->at++;
        if (t->type == TOKEN_TAG && at_any(p, until)) return true;
        if (t->type == TOKEN_TEXT) {
            if ((*tail = node_new(p, NODE_TEXT))) (*tail)->constant = value_text(t->text);
        } else {
            *tail = t->type == TOKEN_TAG ? parse_statement(p) : parse_print(p);
        }
        if (!*tail) return false;
    }
}

struct jinja *jinja_new(const char *text, size_t len, struct err *e)
{
    struct jinja *t = mem_new(sizeof *t);
    struct arena tokens;
    struct token *token = NULL;
    struct node *body = NULL;
    arena_init(&t->arena, 0);
    arena_init(&tokens, 0);
    bool ok = jinja_lex(text, len, &t->arena, &tokens, &token, e);
    struct parser p = {.at = token, .arena = &t->arena, .e = e};
    ok = ok && parse_body(&p, NULL, &body);
    arena_release(&tokens);
    t->body = body;
    if (ok) return t;
    jinja_free(t);
    return NULL;
}

void jinja_free(struct jinja *t)
{
    if (!t) return;
    arena_release(&t->arena);
    mem_drop(t);
}
