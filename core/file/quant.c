#include "quant.h"

#include <assert.h>
#include <string.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "weight files are little-endian");

/* ggml's blocks. `d` is the scale and `m` the offset, both float16; nibble j of `qs` is element j,
 * its upper half element j + 16; bit j of `qh` is the fifth bit of element j. */
enum { HALF = 16, BLOCK = 2 * HALF };
struct block_F32 {
    float x;
};
struct block_F16 {
    uint16_t x;
};
struct block_BF16 {
    uint16_t x;
};
struct block_Q4_0 {
    uint16_t d;
    uint8_t qs[HALF];
};
struct block_Q4_1 {
    uint16_t d, m;
    uint8_t qs[HALF];
};
struct block_Q5_0 {
    uint16_t d;
    uint8_t qh[4], qs[HALF];
};
struct block_Q5_1 {
    uint16_t d, m;
    uint8_t qh[4], qs[HALF];
};
struct block_Q8_0 {
    uint16_t d;
    int8_t qs[BLOCK];
};
#define DTYPE(name, word, gguf_id, safetensors, block, bytes) \
    static_assert(sizeof(struct block_##name) == (bytes), "size of a " word " block");
#include "quant.def"
#undef DTYPE

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

static float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t to_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Branch-free, so that loops over it vectorise, and without subnormal float32 operands, so that no
 * flush-to-zero mode can change it. */
static inline float half_to_float(uint16_t h)
{
    const uint32_t rebias = (127 - 15) << 23;
    uint32_t magnitude = h & 0x7FFFu;
    uint32_t normal = (magnitude << 13) + rebias;
    uint32_t special = 0u - (uint32_t)(magnitude >= 0x7C00); /* infinity, NaN */
    uint32_t subnormal = 0u - (uint32_t)(magnitude < 0x0400);
    uint32_t tiny = to_bits((float)(int32_t)magnitude * 0x1p-24f);
    uint32_t bits = ((normal + (special & rebias)) & ~subnormal) | (tiny & subnormal);
    return from_bits(bits | (uint32_t)(h & 0x8000) << 16);
}

float f16_to_f32(uint16_t h) { return half_to_float(h); }

float bf16_to_f32(uint16_t h) { return from_bits((uint32_t)h << 16); }

/* value >> shift, to nearest, ties to even. */
static uint32_t shift_round(uint32_t value, unsigned shift)
{
    uint32_t kept = value >> shift, rest = value & ((1u << shift) - 1), half = 1u << (shift - 1);
    return kept + (rest > half || (rest == half && (kept & 1)));
}

uint16_t f32_to_f16(float x)
{
    uint32_t bits = to_bits(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
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
    uint32_t bits = to_bits(x);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) /* NaN, as above */
        return (uint16_t)(bits >> 16 | ((bits >> 16 & 0x7F) ? 0 : 0x40));
    return (uint16_t)shift_round(bits, 16);
}

/* ---- widening -------------------------------------------------------------------------------
 *
 * Every product d * q is exact: 11 significant bits times at most 8 fit float32's 24. So d * q + m
 * rounds once whether or not the compiler fuses it, and the bytes do not depend on flags.
 *
 * Blocks are copied to a local first: that needs no alignment and rules out aliasing. */

static void widen_F32(const unsigned char *src, float *dst, size_t n)
{
    memcpy(dst, src, n * sizeof *dst);
}

static void widen_F16(const unsigned char *src, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, src + i * sizeof h, sizeof h);
        dst[i] = half_to_float(h);
    }
}

static void widen_BF16(const unsigned char *src, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, src + i * sizeof h, sizeof h);
        dst[i] = from_bits((uint32_t)h << 16);
    }
}

static void widen_Q4_0(const unsigned char *src, float *dst, size_t n)
{
    for (struct block_Q4_0 b; n; n -= BLOCK, src += sizeof b, dst += BLOCK) {
        memcpy(&b, src, sizeof b);
        float d = half_to_float(b.d);
        for (int j = 0; j < HALF; j++) dst[j] = d * (float)((b.qs[j] & 15) - 8);
        for (int j = 0; j < HALF; j++) dst[j + HALF] = d * (float)((b.qs[j] >> 4) - 8);
    }
}

static void widen_Q4_1(const unsigned char *src, float *dst, size_t n)
{
    for (struct block_Q4_1 b; n; n -= BLOCK, src += sizeof b, dst += BLOCK) {
        memcpy(&b, src, sizeof b);
        float d = half_to_float(b.d), m = half_to_float(b.m);
        for (int j = 0; j < HALF; j++) dst[j] = d * (float)(b.qs[j] & 15) + m;
        for (int j = 0; j < HALF; j++) dst[j + HALF] = d * (float)(b.qs[j] >> 4) + m;
    }
}

/* The five-bit numbers of a block, 0..31. */
static void join_fifth(const uint8_t qs[HALF], const uint8_t qh[4], uint8_t q[BLOCK])
{
    static const uint8_t bit[BLOCK] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128,
                                       1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8_t high[BLOCK];
    for (int k = 0; k < 4; k++) memset(high + 8 * k, qh[k], 8);
    for (int j = 0; j < HALF; j++) q[j] = qs[j] & 15;
    for (int j = 0; j < HALF; j++) q[j + HALF] = qs[j] >> 4;
    for (int j = 0; j < BLOCK; j++) q[j] |= (uint8_t)((high[j] & bit[j]) ? 16 : 0);
}

static void widen_Q5_0(const unsigned char *src, float *dst, size_t n)
{
    for (struct block_Q5_0 b; n; n -= BLOCK, src += sizeof b, dst += BLOCK) {
        uint8_t q[BLOCK];
        memcpy(&b, src, sizeof b);
        join_fifth(b.qs, b.qh, q);
        float d = half_to_float(b.d);
        for (int j = 0; j < BLOCK; j++) dst[j] = d * (float)(q[j] - 16);
    }
}

static void widen_Q5_1(const unsigned char *src, float *dst, size_t n)
{
    for (struct block_Q5_1 b; n; n -= BLOCK, src += sizeof b, dst += BLOCK) {
        uint8_t q[BLOCK];
        memcpy(&b, src, sizeof b);
        join_fifth(b.qs, b.qh, q);
        float d = half_to_float(b.d), m = half_to_float(b.m);
        for (int j = 0; j < BLOCK; j++) dst[j] = d * (float)q[j] + m;
    }
}

static void widen_Q8_0(const unsigned char *src, float *dst, size_t n)
{
    for (struct block_Q8_0 b; n; n -= BLOCK, src += sizeof b, dst += BLOCK) {
        memcpy(&b, src, sizeof b);
        float d = half_to_float(b.d);
        for (int j = 0; j < BLOCK; j++) dst[j] = d * (float)b.qs[j];
    }
}

void dtype_widen(enum dtype t, const void *src, float *dst, size_t n)
{
    static void (*const widen[])(const unsigned char *, float *, size_t) = {
#define DTYPE(name, word, gguf_id, safetensors, block, bytes) widen_##name,
#include "quant.def"
#undef DTYPE
    };
    assert(n % dtype_info(t)->block == 0);
    if (n) widen[t](src, dst, n);
}
