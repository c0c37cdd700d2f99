/* Rotary position embedding (RoFormer, arXiv 2104.09864), halves convention: dimension i of a
 * head is paired with i + e/2 and the pair is turned by pos · inv_freq[i]. */
#ifndef ENGRAM_ROTARY_H
#define ENGRAM_ROTARY_H

#include <stdint.h>

/* cos and sin of one position, [e/2] each. Angles are float32 products, as in the reference. */
void rotary_angles(const float *inv_freq, uint32_t half, uint32_t pos, float *cosine, float *sine);
/* Turn `heads` consecutive heads of width 2·half in place; direction −1 turns back (backward). */
void rotary_turn(float *x, uint32_t heads, uint32_t half, const float *cosine, const float *sine,
                 float direction);

#endif
