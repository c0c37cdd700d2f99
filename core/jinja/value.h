/* Values of a template, as Python would have them, with one thing more: every byte of a text knows
 * whether the template wrote it.
 *
 * A struct text is two parallel arrays: bytes, and beside each byte 1 when it comes from the
 * template (its literals, the numbers and words it prints) or 0 when it was given to it (what people
 * wrote). Slices point into them, everything that joins texts joins both, so the origin survives
 * concatenation, trimming, replacing, splitting and quoting. Texts are valid UTF-8 without NUL;
 * lengths and positions that a template sees count characters, as Python's do.
 *
 * Values are small and copied; what they point to lives in an arena and is never changed, but for
 * attributes of a namespace and whether a stream was read. V_ABSENT is an argument not given.
 *
 * Lists come in five kinds, because templates can tell them apart: LIST and TUPLE; RANGE; VIEW (a
 * dict's keys, values, items: no subscripts); STREAM (what map, select… give: always true, without
 * length, read once).
 */
#ifndef ENGRAM_JINJA_VALUE_H
#define ENGRAM_JINJA_VALUE_H

#include "core/base/mem.h"

enum value_type {
    V_ABSENT, V_UNDEFINED, V_NONE, V_BOOL, V_INT, V_FLOAT, V_TEXT, V_LIST, V_DICT, V_SPACE, V_LOOP,
    V_MACRO, V_METHOD, V_FUNCTION, V_TYPES
};
enum list_kind { LIST, TUPLE, RANGE, VIEW, STREAM };

struct text {
    const char *s;
    const unsigned char *own; /* per byte: 1 the template's, 0 given to it */
    size_t len;
};
struct value {
    enum value_type type;
    bool markup; /* of V_TEXT: made by `safe`; joining it to a plain text would escape that one */
    union {
        bool truth;
        int64_t integer;
        double number;
        struct text text;
        struct text name; /* V_UNDEFINED: of what */
        struct list *list;
        struct dict *dict; /* V_DICT and V_SPACE, a namespace */
        const struct loop *loop;
        const struct macro *macro;
        const struct bound *bound;
        const struct callee *function;
    };
};
struct list {
    enum list_kind kind;
    bool used; /* of a STREAM */
    size_t n;
    struct value *item;
};
struct pair {
    struct value key, value;
};
struct dict { /* in the order of insertion */
    size_t n, cap;
    struct pair *pair;
};
struct loop { /* the variable `loop` */
    size_t at, n;
    const struct value *item;
};
struct bound { /* text.strip before it is called */
    struct value self;
    const struct callee *method;
};

#define VALUE_NONE ((struct value){.type = V_NONE})
static inline struct value value_bool(bool b) { return (struct value){.type = V_BOOL, .truth = b}; }
static inline struct value value_int(int64_t i) { return (struct value){.type = V_INT, .integer = i}; }
static inline struct value value_text(struct text t) { return (struct value){.type = V_TEXT, .text = t}; }
/* Bytes of a text that an error shows: whole characters. */
static inline int text_shown(struct text t)
{
    size_t n = t.len < 60 ? t.len : 60;
    while (n && n < t.len && ((unsigned char)t.s[n] & 0xC0) == 0x80) n--;
    return (int)n;
}
static inline struct value value_undefined(struct text name)
{
    return (struct value){.type = V_UNDEFINED, .name = name};
}

#endif
