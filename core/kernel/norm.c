#include "norm.h"

#include <math.h>

#include "simd.h"

KERNEL void norm_forward(const float *x, const float *gain, float eps, float *y, size_t rows, uint32_t d)
{
    for (size_t r = 0; r < rows; r++, x += d, y += d) {
        float inverse = 1.0f / sqrtf(dot(x, x, d) / (float)d + eps);
        for (uint32_t i = 0; i < d; i++) y[i] = x[i] * inverse * gain[i];
    }
}

/* With n = x/s and g = gain·dy:  dx = (g − n · mean(g·n)) / s. */
KERNEL void norm_backward(const float *x, const float *gain, float eps, const float *dy, float *dx,
                          size_t rows, uint32_t d)
{
    for (size_t r = 0; r < rows; r++, x += d, dy += d, dx += d) {
        float inverse = 1.0f / sqrtf(dot(x, x, d) / (float)d + eps), mean = 0;
        for (uint32_t i = 0; i < d; i++) mean += gain[i] * dy[i] * x[i];
        mean *= inverse / (float)d;
        for (uint32_t i = 0; i < d; i++)
            dx[i] += (gain[i] * dy[i] - x[i] * inverse * mean) * inverse;
    }
}
