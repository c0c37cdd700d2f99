/* A template as a tree: node.def says what the members of each kind mean.
 *
 * Children are linked by `next`. Everything lives in the template's arena and is read-only once
 * parsed. Lines count from 1.
 */
#ifndef ENGRAM_JINJA_NODE_H
#define ENGRAM_JINJA_NODE_H

#include "value.h"

enum node_kind {
#define EXPRESSION(kind, evaluates) NODE_##kind,
#define STATEMENT(kind, executes) NODE_##kind,
#include "node.def"
#undef EXPRESSION
#undef STATEMENT
    NODE_KINDS
};

struct node {
    enum node_kind kind;
    unsigned op;   /* of BINARY and OPERAND: an operator as lex.h spells it */
    unsigned line;
    struct text name;
    struct value constant;
    struct node *a, *b, *c, *d;
    struct node *list, *named; /* named: arguments with a name, the name in `name` and a the value */
    struct node *next;
};

struct jinja {
    struct arena arena;
    const struct node *body;
};

#endif
