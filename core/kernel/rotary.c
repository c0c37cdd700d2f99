#include "rotary.h"

#include <math.h>

#include "simd.h"

void rotary_angles(const float *inv_freq, uint32_t half, uint32_t pos, float *cosine, float *sine)
{
    for (uint32_t i = 0; i < half; i++) {
        float angle = (float)pos * inv_freq[i];
        cosine[i] = cosf(angle);
        sine[i] = sinf(angle);
    }
}

KERNEL void rotary_turn(float *x, uint32_t heads, uint32_t half, const float *cosine,
                        const float *sine, float direction)
{
    for (uint32_t h = 0; h < heads; h++, x += 2 * half)
        for (uint32_t i = 0; i < half; i++) {
            float a = x[i], b = x[i + half], s = direction * sine[i];
            x[i] = a * cosine[i] - b * s;
            x[i + half] = b * cosine[i] + a * s;
        }
}
