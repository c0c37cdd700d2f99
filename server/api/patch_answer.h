/* The answer of a grid, of POST /v1/patch or /v1/attribution: one, or a list of results with means over the pairs. */
#ifndef ENGRAM_PATCH_ANSWER_H
#define ENGRAM_PATCH_ANSWER_H

#include "patch_place.h"
#include "probes/patch_stats.h"

/* Below these the model does not show what is being looked for: shares of pairs with LD_clean above 0, and
 * mean LD_clean in logits. */
#define SHOWN_ACCURACY 0.75
#define SHOWN_DIFFERENCE 0.5

struct patch_told {
    const struct pairs *pairs;
    const struct patch_axes *axes;
    uint32_t block;                  /* neurons of one cell, where they are an axis */
    const struct patch_grid *grid;
    const struct patch_stats *stats; /* NULL where the request did not list */
    const double *drop;              /* of an attribution: c(n), laid out as all values; else NULL */
};

/* Into o the axes, and one grid, or a list of results with means over the pairs. */
void patch_put_grid(const struct patch_told *t, const struct look *l, jout *o);
/* "behaviour", where a metric shows it; and warnings of it and of prompts that are the same. */
void patch_put_behaviour(const struct patch_told *t, struct look *l, jout *root);

/* All but "cost", and the warnings that go with it. */
void patch_answer(const struct patch_told *t, struct look *l, jout *root);

#endif
