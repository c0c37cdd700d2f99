/* References in a recipe's plan, and what they stand for.
 *
 *     {"$param": "name.path"}    a parameter, or a part of one
 *     {"$step": "id.path"}       the answer of an earlier step; of one with for_each the list of its answers
 *     {"$each": "path"}          with for_each: the element it runs for
 *     {"$top": {"of", "k", "by"}}  the first k of a list, or the k whose member `by` is largest, that first
 *
 * A path is members and numbers of elements with dots between, and * for each element of a list; "" is all of it.
 * There is nothing else: no arithmetic, no text put together.
 *
 * Before a recipe runs (live false) answers are not there: such a reference is checked and stays as it is, "open".
 * A step that was left out has no answer, and references to it are null.
 *
 * Results lie in the arena and borrow texts of plan, parameters and answers. Pure functions; any thread.
 */
#ifndef ENGRAM_RECIPE_REFS_H
#define ENGRAM_RECIPE_REFS_H

#include "core/base/json.h"

struct ref_step {
    const char *id;
    const struct json *answer; /* NULL: not there yet, or never */
    bool skipped;
    bool used; /* somebody refers to it: set by refs_resolve */
};

struct refs {
    const struct json *params; /* an object: every parameter's value */
    struct ref_step *step;     /* [n], all of the plan… */
    size_t n, at;              /* …of which those before `at` may be named */
    bool live;
    bool in_each;              /* the step has for_each… */
    const struct json *each;   /* …and this is the element; NULL: not known yet */
    struct arena *arena;
};

/* A copy of v in which every reference is what it stands for. Errors name the place behind `field`. */
bool refs_resolve(const struct refs *r, const struct json *v, const char *field, struct json *out, struct err *e) MUST_CHECK;
bool refs_open(const struct json *v); /* is it a reference that is left? */
bool refs_any_open(const struct json *v); /* is one in it? */
/* A deep copy in the arena. */
bool refs_copy(struct arena *a, const struct json *v, struct json *out, struct err *e) MUST_CHECK;

#endif
