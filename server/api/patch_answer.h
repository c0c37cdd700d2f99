/* What POST /v1/patch and /v1/attribution have in common: sites and axes, and the answer of a grid, or of a list of
 * results with means over the pairs. */
#ifndef ENGRAM_PATCH_ANSWER_H
#define ENGRAM_PATCH_ANSWER_H

#include "pairs.h"
#include "probes/patch_stats.h"

struct patch_axes { /* what a grid goes by behind "layer" */
    const char *word[2];
    bool head, pos;
    enum patch_axis axis;
};

/* Below these the model does not show what is being looked for: shares of pairs with LD_clean above 0, and
 * mean LD_clean in logits. */
#define SHOWN_ACCURACY 0.75
#define SHOWN_DIFFERENCE 0.5

struct patch_told {
    const struct pairs *pairs;
    const struct patch_axes *axes;
    const struct patch_grid *grid;
    const struct patch_stats *stats; /* NULL where the request did not list */
    const double *drop;              /* of an attribution: c(n), laid out as all values; else NULL */
};

/* The site and axes of a request. */
bool patch_site_read(const struct json *site, const struct arch *a, enum hook *out, struct err *e) MUST_CHECK;
bool patch_axes_read(const struct json *axes, enum hook site, const struct patch_axes **out, struct err *e) MUST_CHECK;
/* Values by position stand in one table: all pairs must have them. And all must fit an answer. */
bool patch_bounded(const struct pairs *p, const struct patch_request *q, struct err *e) MUST_CHECK;

/* Into o the axes, and one grid, or a list of results with means over the pairs. */
void patch_put_grid(const struct patch_told *t, const struct look *l, jout *o);
/* "behaviour", where a metric shows it; and warnings of it and of prompts that are the same. */
void patch_put_behaviour(const struct patch_told *t, struct look *l, jout *root);

/* All but "cost", and the warnings that go with it. */
void patch_answer(const struct patch_told *t, struct look *l, jout *root);

#endif
