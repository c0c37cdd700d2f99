/* Where a grid looks, as requests say it: a site, axes behind "layer", blocks of neurons. Patch and attribution
 * grids read them here. HTTP threads; no state. Errors name the field.
 */
#ifndef ENGRAM_PATCH_PLACE_H
#define ENGRAM_PATCH_PLACE_H

#include "pairs.h"
#include "probes/patch.h"

struct patch_axes { /* what a grid goes by behind "layer" */
    const char *word[2];
    bool head, pos, block; /* block: heads are blocks of neurons */
    enum patch_axis axis;
};

/* A hook of a layer that this model has and that can be written: its spelling, or its word. */
bool patch_site_read(const struct json *site, const struct arch *a, enum hook *out, struct err *e) MUST_CHECK;
/* Axes and block of a request for that site. */
bool patch_axes_read(const struct json *request, enum hook site, const struct patch_axes **out, uint32_t *block,
                     struct err *e) MUST_CHECK;
/* Values by position stand in one table: all pairs must have them. And all must fit an answer. */
bool patch_bounded(const struct pairs *p, const struct patch_request *q, struct err *e) MUST_CHECK;

#endif
