/* `against`: the other view of a pair that shares one stream (core/pair.h).
 *
 *     "base"                               a view of the model that is looked at
 *     {"model": name, "view": "main"}      one of another model that is served
 *
 * Another model must have the same description (core/arch.h) and vocabulary size; else it is refused, naming what
 * differs. Ids are those of the look's own model; that the other's tokenizer or chat template would make others,
 * or holds its matrices in another type, is a warning.
 *
 * Ownership: holds the view and its model until it is released; in place, zeroed at first.
 */
#ifndef ENGRAM_AGAINST_H
#define ENGRAM_AGAINST_H

#include "look.h"

struct against {
    struct resolved at;
    struct served *other; /* the model, where it is another; else NULL */
};

/* field: "against". The look's view is resolved. Joins the key of the log. */
bool against_read(struct against *a, struct look *l, struct call *c, const struct json *asked, struct err *e) MUST_CHECK;
void against_release(struct against *a);

#endif
