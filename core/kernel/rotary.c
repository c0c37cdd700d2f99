#include "rotary.h"

#include <math.h>

#include "simd.h"

void rotary_angles(const float *inv_freq, uint32_t pairs, uint32_t pos, float attention, float *cosine, float *sine)
{
    for (uint32_t i = 0; i < pairs; i++) {
        float angle = (float)pos * inv_freq[i];
        cosine[i] = attention * cosf(angle);
        sine[i] = attention * sinf(angle);
    }
}

INLINE void turn_pair(float *a, float *b, float cosine, float sine)
{
    float x = *a, y = *b;
    *a = x * cosine - y * sine;
    *b = y * cosine + x * sine;
}

KERNEL void rotary_turn(float *x, uint32_t heads, uint32_t e, uint32_t pairs, bool adjacent, const float *cosine,
                        const float *sine, float direction)
{
    for (uint32_t h = 0; h < heads; h++, x += e)
        if (adjacent)
            for (uint32_t i = 0; i < pairs; i++)
                turn_pair(x + 2 * i, x + 2 * i + 1, cosine[i], direction * sine[i]);
        else
            for (uint32_t i = 0; i < pairs; i++) turn_pair(x + i, x + i + pairs, cosine[i], direction * sine[i]);
}
