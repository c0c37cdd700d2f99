/* Adam (arXiv 1412.6980) without weight decay, on one float32 array.
 *
 *     m ← β1·m + (1−β1)·g     v ← β2·v + (1−β2)·g²
 *     w ← w − lr · (m / (1−β1ᵗ)) / (sqrt(v / (1−β2ᵗ)) + eps)
 */
#ifndef ENGRAM_ADAM_H
#define ENGRAM_ADAM_H

#include <stdint.h>

#include "par.h"

struct adam {
    double lr, beta1, beta2, eps;
    size_t n;
    float *m, *v; /* zero at first */
    uint64_t step;
};

bool adam_init(struct adam *a, size_t n, double lr, struct err *e) MUST_CHECK; /* β 0.9, 0.999, eps 1e-8 */
void adam_release(struct adam *a);
void adam_step(struct adam *a, struct par *par, const float *g, float *w);

#endif
