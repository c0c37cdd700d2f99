/* A method of localization: it gives every unit a score from the rows it is shown, and knows nothing of halves,
 * rankings, regions or controls (probes/localize.h).
 *
 * A unit is a query head of a layer, or a layer (all of its heads); unit l·heads + h, heads being 1 for layers.
 * Rows are pairs of prompts with a metric, or data to train on: texts, or couples of a chosen and a rejected one.
 * One file each; the list is probes/localize.def.
 *
 * Ownership: what open returns is the method's, until close; it borrows the rows. One thread; a step is bounded.
 */
#ifndef ENGRAM_LOCALIZER_H
#define ENGRAM_LOCALIZER_H

#include "fit.h"
#include "patch.h"

enum localizer_kind {
#define LOCALIZER(NAME, word, rows, writes, source, summary) LOCALIZER_##NAME,
#include "localize.def"
#undef LOCALIZER
    LOCALIZER_COUNT
};
enum localizer_rows { LOCALIZER_PAIRS, LOCALIZER_DATA };
enum localizer_writes { LOCALIZER_SOURCE, LOCALIZER_ZERO, LOCALIZER_SCALES }; /* the other run's z, none, its own times 1 + A */
enum localizer_param {
#define LOCALIZER_PARAM(METHOD, name, kind, initial, least, most, help) LOCALIZER_##METHOD##_##name,
#include "localize_param.def"
#undef LOCALIZER_PARAM
    LOCALIZER_PARAMS
};
struct localizer_param_info {
    enum localizer_kind method;
    const char *name, *help;
    bool whole;
    double initial, least, most;
};
const struct localizer_param_info *localizer_param_info(enum localizer_param p);

struct localizer_ask {         /* what a method is shown */
    struct patch_request patch; /* view, pairs, direction; site HOOK_Z; axis PATCH_LAYER_HEAD or PATCH_LAYER */
    const struct fit_example *example; /* data: [n_data], of couples [2·n_data], in the place of pairs */
    size_t n_data;
    bool couples;
    uint64_t seed;
    double param[LOCALIZER_PARAMS];
};
void localizer_defaults(double param[LOCALIZER_PARAMS]);
static inline size_t localizer_n(const struct localizer_ask *q) { return q->n_data ? q->n_data : q->patch.n_pairs; }

struct localizer {
    void (*plan)(const struct localizer_ask *q, int threads, struct plan *p);
    bool brief;                /* its tape is given back when it is done */
    void *(*open)(const struct localizer_ask *q, struct err *e);
    enum step (*step)(void *state, struct session *s, struct err *e);
    void (*progress)(const void *state, size_t *done, size_t *total);
    void (*close)(void *state);
    /* After STEP_DONE: of one row and unit; the score is the mean over rows. */
    double (*value)(const void *state, size_t row, size_t unit);
    bool flat;                 /* the value is of all rows together */
    double threshold;          /* the region is the units that score more; 0: the k best */
    /* or NULL: there is none */
    const struct patch_grid *(*grid)(const void *state);
    const struct stream_params *(*scales)(const void *state);
    const double *(*losses)(const void *state, size_t *n); /* of each update, without the penalty */
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
