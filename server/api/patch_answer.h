/* The answer of POST /v1/patch: one grid, or a list of results with means over the pairs. */
#ifndef ENGRAM_PATCH_ANSWER_H
#define ENGRAM_PATCH_ANSWER_H

#include "pairs.h"
#include "probes/patch_stats.h"

struct patch_axes { /* what a grid goes by behind "layer" */
    const char *word[2];
    bool head, pos, block; /* block: heads are blocks of neurons */
    enum patch_axis axis;
};

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
};

/* All but "cost", and the warnings that go with it. */
void patch_answer(const struct patch_told *t, struct look *l, jout *root);

#endif
