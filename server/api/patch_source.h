/* What a grid's cells are given, as a request says it: "from" and "window".
 *
 *     "other" | "zero"
 *     {"view": …}                        the other prompt on another view
 *     {"mean_of": [INPUT…] | {"set"}}    the site's mean over these prompts' positions, layer by layer
 *     {"noise": {"sd"}}                  the base's own value and noise of so many of its standard deviations
 *     {"subspace": [[…]…]}               of the other prompt's value the component in the span of these rows
 *
 * Lists live in the look's arena; inputs and the view are released. HTTP threads; no state.
 */
#ifndef ENGRAM_PATCH_SOURCE_H
#define ENGRAM_PATCH_SOURCE_H

#include "input.h"
#include "look.h"
#include "probes/patch.h"

struct patch_source {
    struct resolved view;     /* view NULL where it is the request's own */
    struct input *mean;
    size_t n_mean;
};

/* Into `out`, whose site is known. */
bool patch_source_read(struct patch_source *s, struct look *l, struct call *c, struct patch_request *out, struct err *e) MUST_CHECK;
void patch_source_release(struct patch_source *s);

#endif
