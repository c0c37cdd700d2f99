/* Writing one feature of a sparse autoencoder at its site, as a map of the values there (core/hook.h).
 *
 *     add    x ← x + w · W_dec[i]
 *     set    x ← x + (w − a_i) · W_dec[i]
 *     scale  x ← x + (w − 1) · a_i · W_dec[i]
 *
 * a_i is the feature's activation at that position, of x as it is found there. What the autoencoder does not explain,
 * x − x̂, stays (the error term of arXiv 2403.19647). Where rows are normalised first, W_dec[i] is taken back to x's own
 * scale as a decoded row is. An autoencoder of all heads side by side is met one head at a time: only `add` without
 * normalisation can be written there.
 *
 * set and scale of topk encode the whole row: k·d multiplications a position.
 *
 * Borrowed: the autoencoder, work. Of one pass; the compute thread.
 */
#ifndef ENGRAM_FEATURE_WRITE_H
#define ENGRAM_FEATURE_WRITE_H

#include "core/hook.h"
#include "core/sae.h"

enum feature_op { FEATURE_SET, FEATURE_ADD, FEATURE_SCALE };

struct feature_write {
    const struct sae *sae;
    uint32_t feature;
    enum feature_op op;
    float weight;
    float *work;        /* feature_work floats; several may share it */
    struct tap_map map; /* made by feature_write_map */
    float changed;      /* the largest change so far */
};

size_t feature_work(const struct sae_cfg *c);
/* Can it be written at that hook? A sentence, or NULL. */
const char *feature_write_refused(const struct sae_cfg *c, enum hook at, enum feature_op op);
/* The map of a tap; w must stay where it is. */
const struct tap_map *feature_write_map(struct feature_write *w);

#endif
