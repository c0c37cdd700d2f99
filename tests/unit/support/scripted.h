/* A model that says what it is told: from a token, the next one. Attention and MLPs are silenced,
 * each token of the script has a dimension of the stream to itself, and the head reads it. So every
 * logit is known: `weight` for the token that follows (as many as there are lines), 0 for all
 * others; after a token without a line all logits are 0, and the lowest id, 0, is greedy's choice,
 * which ends generation in the tiny models.
 */
#ifndef ENGRAM_TEST_SCRIPTED_H
#define ENGRAM_TEST_SCRIPTED_H

#include "golden.h"

struct line {
    uint32_t from, to;
    double weight; /* the logit */
};
/* For an untied model; at most d different tokens to come from. view_drop it. */
struct view *scripted_view(const struct golden *g, const struct line *line, size_t n);
/* The token of that one byte. */
uint32_t byte_token(const struct golden *g, char byte);
/* −log p where one token has the logit `weight` and all others 0: of that token, or of another. */
double scripted_nll(const struct golden *g, double weight, bool right);

#endif
