#include "quant.h"

#include <assert.h>
#include <string.h>

#include "quant_widen.h"

static const struct dtype_info infos[] = {
#define DTYPE(name, word, gguf_id, safetensors, block, bytes) \
    {word, gguf_id, safetensors, block, bytes},
#include "quant.def"
#undef DTYPE
};
static_assert(sizeof infos / sizeof *infos == DTYPE_COUNT, "one row per type");

const struct dtype_info *dtype_info(enum dtype t)
{
    assert((unsigned)t < DTYPE_COUNT);
    return &infos[t];
}

bool dtype_from_gguf(uint32_t id, enum dtype *out)
{
    for (unsigned t = 0; t < DTYPE_COUNT; t++) {
        if (infos[t].gguf_id < 0 || (uint32_t)infos[t].gguf_id != id) continue;
        *out = (enum dtype)t;
        return true;
    }
    return false;
}

bool dtype_from_safetensors(const char *name, enum dtype *out)
{
    for (unsigned t = 0; t < DTYPE_COUNT; t++) {
        if (!infos[t].safetensors || strcmp(infos[t].safetensors, name) != 0) continue;
        *out = (enum dtype)t;
        return true;
    }
    return false;
}

/* ---- 16-bit forms --------------------------------------------------------------------------- */

float f16_to_f32(uint16_t h) { return quant_half(h); }

float bf16_to_f32(uint16_t h) { return quant_from_bits((uint32_t)h << 16); }

/* value >> shift, to nearest, ties to even. */
static uint32_t shift_round(uint32_t value, unsigned shift)
{
    uint32_t kept = value >> shift, rest = value & ((1u << shift) - 1), half = 1u << (shift - 1);
    return kept + (rest > half || (rest == half && (kept & 1)));
}

uint16_t f32_to_f16(float x)
{
    uint32_t bits = quant_to_bits(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) { /* NaN: keep what fits of the payload, but stay a NaN */
        uint32_t payload = magnitude >> 13 & 0x3FF;
        return (uint16_t)(sign | 0x7C00 | (payload ? payload : 0x200));
    }
    if (magnitude >= 0x47800000) return (uint16_t)(sign | 0x7C00); /* 65536 and up */
    /* Normal: rounding may carry into the exponent, even to infinity. */
    if (magnitude >= 0x38800000)
        return (uint16_t)(sign | shift_round(magnitude - ((127 - 15) << 23), 13));
    unsigned exponent = magnitude >> 23; /* subnormal: in units of 2^-24 */
    if (exponent < 127 - 25) return (uint16_t)sign;
    return (uint16_t)(sign | shift_round((magnitude & 0x7FFFFF) | 0x800000, 126 - exponent));
}

uint16_t f32_to_bf16(float x)
{
    uint32_t bits = quant_to_bits(x);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) /* NaN, as above */
        return (uint16_t)(bits >> 16 | ((bits >> 16 & 0x7F) ? 0 : 0x40));
    return (uint16_t)shift_round(bits, 16);
}

/* ---- widening ------------------------------------------------------------------------------- */

void quant_widen_F32(const unsigned char *src, float *dst, size_t n)
{
    memcpy(dst, src, n * sizeof *dst);
}

void quant_widen_F16(const unsigned char *src, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, src + i * sizeof h, sizeof h);
        dst[i] = quant_half(h);
    }
}

void quant_widen_BF16(const unsigned char *src, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, src + i * sizeof h, sizeof h);
        dst[i] = quant_from_bits((uint32_t)h << 16);
    }
}

void dtype_widen(enum dtype t, const void *src, float *dst, size_t n)
{
    static void (*const widen[])(const unsigned char *, float *, size_t) = {
#define DTYPE(name, word, gguf_id, safetensors, block, bytes) quant_widen_##name,
#include "quant.def"
#undef DTYPE
    };
    assert(n % dtype_info(t)->block == 0);
    if (n) widen[t](src, dst, n);
}
