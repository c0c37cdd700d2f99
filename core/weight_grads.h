/* Gradients of weights that somebody wants: of one layer, or of the model's ends (embeddings, final norm,
 * unembedding), by group; NULL where not. A backward pass adds to them. Laid out as the group's tensors one
 * after the other, as the model's (input-major families keep their order). The caller owns them. */
#ifndef ENGRAM_WEIGHT_GRADS_H
#define ENGRAM_WEIGHT_GRADS_H

#include "arch.h"

struct weight_grads {
    float *of[GROUP_COUNT];
};

#endif
