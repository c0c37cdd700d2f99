/* Recipes that travel inside the binary: recipes/NAME.json as they are, put there by schema/generate.mk.
 * Constant; any thread. */
#ifndef ENGRAM_RECIPES_H
#define ENGRAM_RECIPES_H

#include <stddef.h>

struct built_in {
    const char *name; /* of its file, without .json */
    const char *text, *end;
};
extern const struct built_in built_ins[]; /* by name */
extern const size_t n_built_ins;

#endif
