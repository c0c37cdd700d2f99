/* Requests against the contract: a body or query is checked and completed before a handler sees it.
 *
 * A shape is a row of tables that the generator writes from schema/types.json. validate() walks
 * value and shape together and turns the one tree into the other where it lies: members in the
 * shape's order (so equal requests have equal bytes), null members gone, every default filled in,
 * whole numbers as exact integers. A handler therefore finds every field that has a default, and any optional field
 * without one is either there and well formed or NULL from json_get.
 *
 * The first fault is ERR_INVALID with `field` the dotted path ("facts[3].target_new") and a
 * sentence with the allowed range, the choices, or the nearest known name. What a field means
 * (does that layer exist?) is the handler's business.
 *
 * Shapes are constant. Any thread. `in` is used up: what comes out is made of its nodes, so that a
 * body is in memory once; only defaults and the root are new in the arena.
 */
#ifndef ENGRAM_VALIDATE_H
#define ENGRAM_VALIDATE_H

#include "core/base/json.h"

enum shape_kind {
    SHAPE_BOOL, SHAPE_INT, SHAPE_NUMBER, SHAPE_STRING, SHAPE_LIST, SHAPE_OBJECT,
    SHAPE_MAP,   /* any object; its members are checked elsewhere */
    SHAPE_UNION, /* the member of the value's own JSON type */
};

struct shape {
    enum shape_kind kind;
    bool from_text;             /* a query: members are strings, converted; empty is absent */
    double min, max;            /* value; bytes of a string; elements of a list */
    const char *const *choices; /* SHAPE_STRING: NULL terminated, or NULL */
    size_t n_choices_shown;     /* the rest are accepted, not advertised */
    const struct shape *item;   /* SHAPE_LIST */
    const struct field *fields; /* SHAPE_OBJECT */
    size_t n_fields;
    const struct exactly *exactly; /* SHAPE_OBJECT: of each of these groups exactly one */
    size_t n_exactly;
    const struct shape *const *of; /* SHAPE_UNION: NULL terminated, of different JSON types */
};

struct field {
    const char *name;
    const struct shape *shape;
    bool required;
    bool shown;               /* false: accepted, not advertised */
    const char *default_json; /* or NULL */
};

struct exactly {
    const char *const *names; /* NULL terminated */
    const char *said;         /* "prompt or messages" */
};

/* in: an object; NULL is an empty one. */
bool validate(const struct shape *shape, const struct json *in, struct arena *a,
              const struct json **out, struct err *e) MUST_CHECK;

/* The same of a body that is not all known yet: a value of which open(v) is true may stand wherever a value may, and
 * stays as it is. */
bool validate_open(const struct shape *shape, const struct json *in, bool (*open)(const struct json *v),
                   struct arena *a, const struct json **out, struct err *e) MUST_CHECK;

/* The candidate nearest to `name` in spelling, or NULL when none is close. n names. */
const char *nearest_name(const char *name, const char *const *names, size_t n);

#endif
