/* Shared by the two halves of the parser: statements (parse.c) and expressions (parse_expr.c).
 *
 * A recursive descent over the token list with Jinja's grammar; every function returns NULL after
 * setting the error. `depth` bounds the recursion, `loops` says whether break means anything.
 */
#ifndef ENGRAM_JINJA_PARSE_INT_H
#define ENGRAM_JINJA_PARSE_INT_H

#include "lex.h"
#include "node.h"

struct parser {
    const struct token *at;
    struct arena *arena;
    unsigned depth, loops;
    struct err *e;
};

/* Both always NULL. */
void *parse_fault(struct parser *p, const char *what);       /* … near the token at hand */
struct node *parse_refuse(struct parser *p, const char *what); /* is well formed, but not one we have */
struct node *node_new(struct parser *p, enum node_kind kind);
bool parse_enter(struct parser *p); /* one level deeper; p->depth-- leaves it */

bool at_op(const struct parser *p, unsigned op);
bool at_name(const struct parser *p, const char *name);
bool skip_op(struct parser *p, unsigned op);
bool skip_name(struct parser *p, const char *name);
bool expect_op(struct parser *p, unsigned op);

struct node *parse_expression(struct parser *p);
struct node *parse_without_if(struct parser *p); /* the same, without x if c else y */
/* One expression, or several with commas: a tuple. */
struct node *parse_tuple(struct parser *p, struct node *(*one)(struct parser *p), bool may_be_empty);
struct node *parse_filter(struct parser *p, struct node *of);  /* name, name(…) */
struct node *parse_filters(struct parser *p, struct node *of); /* | name … */
/* Of for and set: names, tuples of names, namespace.attribute. */
struct node *parse_target(struct parser *p);

#endif
