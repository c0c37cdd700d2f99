/* The question of patch and localize: pairs of prompts of equal length, and metrics.
 *
 *     "clean", "corrupt", "metric"         one of each: the answer is one grid
 *     "input", "metric"                    where a route has it: a clean prompt and no corrupt one (ids NULL)
 *     "pairs": [{"id","clean","corrupt","answer","foil","group"}], "metrics": […]
 *                                          either in the place of the single forms: the answer lists results
 *     "set": "id or name", "split", "limit"
 *                                          in the place of pairs: rows of a set (set_rows.h), whose subject is
 *                                          their group where they have none
 *
 * A pair's own answer and foil stand in the place of a metric's. Pairs of one group (a template, a subject)
 * are not independent of each other: intervals are taken over groups; without, each pair is a group.
 *
 * Refused, naming the field: prompts of a pair of different lengths; metrics at different positions; with
 * an axis of positions, pairs of different lengths. Lists live in the look's arena.
 */
#ifndef ENGRAM_PAIRS_H
#define ENGRAM_PAIRS_H

#include "input.h"
#include "look.h"
#include "probes/patch.h"

struct pair {
    struct input clean, corrupt;
    const char *id;
};

struct pairs {
    size_t n, n_metrics, n_groups;
    bool listed;               /* in the request: so in the answer */
    bool denoise;
    struct pair *pair;         /* [n] */
    uint32_t *group;           /* [n] of each pair, below n_groups */
    struct metric *metric;     /* [n][n_metrics] */
    struct patch_pair *asked;  /* [n] as probes take them */
};

bool pairs_read(struct pairs *p, struct look *l, struct call *c, struct err *e) MUST_CHECK;
void pairs_release(struct pairs *p);

/* Put them and the look's view into a request; site, axis and source are the caller's. */
void pairs_ask(const struct pairs *p, const struct look *l, struct patch_request *out);
/* Of one pair and metric, into o: "baseline", "tokens", "answer", "foil"; of messages "rendered" and "template". */
void pairs_echo(const struct pairs *p, size_t pair, size_t metric, const struct look *l, const struct patch_scores *s, jout *o);

#endif
