/* What dtype_widen consists of, for core/file/quant*.c and for kernels that must agree with it: one
 * function per element type, widening n elements. src needs no alignment: blocks are copied to a local
 * first, which rules out aliasing too.
 *
 * Every product of a scale and a number is exact: float16's 11 significant bits, a group's scale
 * and the number have at most 24 together (Q8_K, whose scale is float32, has no offset). So an offset is
 * added with one rounding whether or not the compiler fuses it, and the bytes depend on no flag.
 */
#ifndef ENGRAM_QUANT_WIDEN_H
#define ENGRAM_QUANT_WIDEN_H

#include <string.h>

#include "quant.h"
#include "quant_layout.h"

#define DTYPE(name, word, gguf_id, safetensors, block, bytes) \
    void quant_widen_##name(const unsigned char *src, float *dst, size_t n);
#include "quant.def"
#undef DTYPE

static inline float quant_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t quant_to_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Branch-free, so that loops over it vectorise, and without subnormal float32 operands, so that no
 * flush-to-zero mode can change it. */
static inline float quant_half(uint16_t h)
{
    const uint32_t rebias = (127 - 15) << 23;
    uint32_t magnitude = h & 0x7FFFu;
    uint32_t normal = (magnitude << 13) + rebias;
    uint32_t special = 0u - (uint32_t)(magnitude >= 0x7C00); /* infinity, NaN */
    uint32_t subnormal = 0u - (uint32_t)(magnitude < 0x0400);
    uint32_t tiny = quant_to_bits((float)(int32_t)magnitude * 0x1p-24f);
    uint32_t bits = ((normal + (special & rebias)) & ~subnormal) | (tiny & subnormal);
    return quant_from_bits(bits | (uint32_t)(h & 0x8000) << 16);
}

#endif
