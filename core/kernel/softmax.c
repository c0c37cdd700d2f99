#include "softmax.h"

#include <math.h>

#include "simd.h"

KERNEL void softmax_row(float *p, uint32_t n)
{
    float top = -INFINITY, total = 0;
    for (uint32_t i = 0; i < n; i++) top = p[i] > top ? p[i] : top;
    v16 sum = {0};
    for (uint32_t i = 0; i < n; i += LANES) {
        uint32_t k = n - i < LANES ? n - i : LANES;
        v16 x = exp16((k == LANES ? load16(p + i) : load_tail(p + i, k, -INFINITY)) - top);
        if (k == LANES) {
            store16(p + i, x);
            sum += x;
        } else {
            store_tail(p + i, x, k);
            sum += load_tail(p + i, k, 0);
        }
    }
    total = 1.0f / sum16(sum);
    for (uint32_t i = 0; i < n; i++) p[i] *= total;
}
