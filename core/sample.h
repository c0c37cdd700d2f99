/* Choosing the next token from logits. temperature 0 is greedy (the lowest id among equals);
 * otherwise softmax(logits/temperature) restricted to the top_k most probable tokens (0: all) and
 * to the smallest set whose probability reaches top_p (1: all), in float64. */
#ifndef ENGRAM_SAMPLE_H
#define ENGRAM_SAMPLE_H

#include "core/base/err.h"
#include "core/base/random.h"

struct sampling {
    double temperature, top_p;
    uint32_t top_k;
};

bool sample(const float *logits, uint32_t n_vocab, const struct sampling *how, struct random *random,
            uint32_t *id, struct err *e) MUST_CHECK;

/* The k ids with the largest logits, descending, ties by id. k ≤ n_vocab. */
bool top_logits(const float *logits, uint32_t n_vocab, uint32_t k, uint32_t *ids, struct err *e) MUST_CHECK;
/* The same by a sorted list with insertion: for the small k that people ask for. */
void top_few(const float *logits, uint32_t n_vocab, uint32_t k, uint32_t *ids);

#endif
