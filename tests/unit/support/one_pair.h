/* A patch grid's commonest question, flat: one pair of prompts and one metric. */
#ifndef ENGRAM_TEST_ONE_PAIR_H
#define ENGRAM_TEST_ONE_PAIR_H

#include "probes/patch.h"

struct one_pair {
    struct view *view;
    const uint32_t *clean, *corrupt;
    uint32_t n;
    bool denoise;
    enum hook site;
    enum patch_axis axis;
    struct metric metric;
    size_t memory_bytes;
    struct patch_pair pair; /* filled by one_request */
};

/* As probes take it; good while q is, and must be asked for again when q has changed. */
static inline struct patch_request one_request(struct one_pair *q)
{
    q->pair = (struct patch_pair){q->clean, q->corrupt, q->n, &q->metric};
    return (struct patch_request){.view = q->view, .pair = &q->pair, .n_pairs = 1, .n_metrics = 1, .denoise = q->denoise,
                                  .site = q->site, .axis = q->axis, .memory_bytes = q->memory_bytes};
}

#endif
