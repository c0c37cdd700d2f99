/* Two prompts that differ in two places, and what a run of one shows at a site: for tests that compare a probe with
 * one whole run a cell. */
#ifndef ENGRAM_TEST_PROMPTS_H
#define ENGRAM_TEST_PROMPTS_H

#include "golden.h"
#include "probes/patch.h"

enum { N = 9, READ = 7, FIRST = 2, MOST_LAYERS = 8 }; /* tokens; where metrics read; the first that differs */

struct prompts {
    uint32_t clean[N], corrupt[N];
    struct patch_pair pair;
};
/* They differ at FIRST and 5; the pair's metrics are borrowed. */
void make_pair(const struct golden *g, const struct metric *metrics, struct prompts *p);

struct site_values { /* of one run, by layer: heads × width values a position */
    enum hook hook;
    uint32_t heads, width;
    float *layer[MOST_LAYERS];
};
struct site_values read_site(const struct golden *g, struct view *v, enum hook h, const uint32_t *ids);
void drop_site(struct site_values *s);

#endif
