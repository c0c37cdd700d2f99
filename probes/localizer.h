/* A method of localization: it gives every unit a score from the rows it is shown, and knows nothing of halves,
 * rankings, regions or controls (probes/localize.h).
 *
 * A unit is a query head of a layer, or a layer (all of its heads); unit l·heads + h, heads being 1 for layers.
 * Rows are pairs of prompts with a metric. One file each; the list is probes/localize.def.
 *
 * Ownership: what open returns is the method's, until close; it borrows the rows. One thread; a step is bounded.
 */
#ifndef ENGRAM_LOCALIZER_H
#define ENGRAM_LOCALIZER_H

#include "patch.h"

enum localizer_kind {
#define LOCALIZER(NAME, word, rows, writes, source, summary) LOCALIZER_##NAME,
#include "localize.def"
#undef LOCALIZER
    LOCALIZER_COUNT
};
enum localizer_rows { LOCALIZER_PAIRS };
enum localizer_writes { LOCALIZER_SOURCE, LOCALIZER_ZERO }; /* the other run's z, or none */

struct localizer_ask {         /* what a method is shown */
    struct patch_request patch; /* view, pairs, direction; site HOOK_Z; axis PATCH_LAYER_HEAD or PATCH_LAYER */
    uint64_t seed;
};

struct localizer {
    void (*plan)(const struct localizer_ask *q, int threads, struct plan *p);
    void *(*open)(const struct localizer_ask *q, struct err *e);
    enum step (*step)(void *state, struct session *s, struct err *e);
    void (*progress)(const void *state, size_t *done, size_t *total);
    void (*close)(void *state);
    /* After STEP_DONE: of one row and unit; the score is the mean over rows. */
    double (*value)(const void *state, size_t row, size_t unit);
    const struct patch_grid *(*grid)(const void *state); /* or NULL: there is none */
};

struct localizer_info {
    const char *word, *source, *summary;
    enum localizer_rows rows;
    enum localizer_writes writes;
    const struct localizer *run;
};
const struct localizer_info *localizer_info(enum localizer_kind k);
bool localizer_parse(const char *word, enum localizer_kind *out);

/* Towards the source counts as positive, whichever way that is. */
double localizer_towards(const struct patch_scores *s, bool denoise, double change);
uint32_t localizer_heads(const struct localizer_ask *q); /* units of a layer */
size_t localizer_units(const struct localizer_ask *q);

#define LOCALIZER(NAME, word, rows, writes, source, summary) extern const struct localizer localizer_##word;
#include "localize.def"
#undef LOCALIZER

#endif
