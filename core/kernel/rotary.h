/* Rotary position embedding (RoFormer, arXiv 2104.09864): pair i of the first 2·pairs dimensions of
 * a head is turned by pos · inv_freq[i]. Pairs are (i, i + pairs) (NeoX, Llama) or adjacent
 * (2i, 2i+1) (GPT-J); the rest of the head is left alone. */
#ifndef ENGRAM_ROTARY_H
#define ENGRAM_ROTARY_H

#include <stdbool.h>
#include <stdint.h>

/* cos and sin of one position, [pairs] each, times `attention`. Angles are float32 products, as in
 * the reference. */
void rotary_angles(const float *inv_freq, uint32_t pairs, uint32_t pos, float attention, float *cosine, float *sine);
/* Turn `heads` consecutive heads of width e in place; direction −1 is the transpose (backward). */
void rotary_turn(float *x, uint32_t heads, uint32_t e, uint32_t pairs, bool adjacent, const float *cosine,
                 const float *sine, float direction);

#endif
