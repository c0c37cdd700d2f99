/* Blocks of 256, in groups with small scales of their own. The order of the products is the
 * format's: the block's scale times the group's, then times the number. */
#include "quant_widen.h"

enum { SUPER = QUANT_SUPER };

/* Element e's bits out of `qs`: `lane` neighbours share a shift, `per_byte` of these a byte. */
static inline unsigned pick(const uint8_t *qs, int e, int lane, int per_byte)
{
    int bits = 8 / per_byte;
    return (unsigned)qs[e / (lane * per_byte) * lane + e % lane] >> (e / lane % per_byte * bits) & ((1u << bits) - 1);
}

void quant_widen_Q2_K(const unsigned char *src, float *dst, size_t n)
{
    for (struct block_Q2_K b; n; n -= SUPER, src += sizeof b, dst += SUPER) {
        memcpy(&b, src, sizeof b);
        float d = quant_half(b.d), m = quant_half(b.m);
        for (int g = 0; g < SUPER / 16; g++) {
            float scale = d * (float)(b.scales[g] & 15), offset = m * (float)(b.scales[g] >> 4);
            for (int e = 16 * g; e < 16 * (g + 1); e++) dst[e] = scale * (float)pick(b.qs, e, 32, 4) - offset;
        }
    }
}

void quant_widen_Q3_K(const unsigned char *src, float *dst, size_t n)
{
    for (struct block_Q3_K b; n; n -= SUPER, src += sizeof b, dst += SUPER) {
        uint8_t scales[16];
        memcpy(&b, src, sizeof b);
        quant_scales_q3(b.scales, scales);
        float d = quant_half(b.d);
        for (int g = 0; g < SUPER / 16; g++) {
            float scale = d * (float)(scales[g] - 32);
            for (int e = 16 * g; e < 16 * (g + 1); e++)
                dst[e] = scale * (float)((int)(pick(b.qs, e, 32, 4) + 4 * pick(b.high, e, 32, 8)) - 4);
        }
    }
}

/* Eight groups of 32 with a scale and an offset each; `high` (or NULL) holds a fifth bit of each. */
static inline void widen_offset_groups(const uint8_t *packed, float d, float m, const uint8_t *qs, const uint8_t *high,
                                       float *dst)
{
    uint8_t scales[8], offsets[8];
    quant_scales_q4(packed, scales, offsets);
    for (int g = 0; g < SUPER / 32; g++) {
        float scale = d * (float)scales[g], offset = m * (float)offsets[g];
        for (int e = 32 * g; e < 32 * (g + 1); e++)
            dst[e] = scale * (float)(pick(qs, e, 32, 2) + (high ? 16 * pick(high, e, 32, 8) : 0)) - offset;
    }
}

void quant_widen_Q4_K(const unsigned char *src, float *dst, size_t n)
{
    for (struct block_Q4_K b; n; n -= SUPER, src += sizeof b, dst += SUPER) {
        memcpy(&b, src, sizeof b);
        widen_offset_groups(b.scales, quant_half(b.d), quant_half(b.m), b.qs, NULL, dst);
    }
}

void quant_widen_Q5_K(const unsigned char *src, float *dst, size_t n)
{
    for (struct block_Q5_K b; n; n -= SUPER, src += sizeof b, dst += SUPER) {
        memcpy(&b, src, sizeof b);
        widen_offset_groups(b.scales, quant_half(b.d), quant_half(b.m), b.qs, b.high, dst);
    }
}

void quant_widen_Q6_K(const unsigned char *src, float *dst, size_t n)
{
    for (struct block_Q6_K b; n; n -= SUPER, src += sizeof b, dst += SUPER) {
        memcpy(&b, src, sizeof b);
        float d = quant_half(b.d);
        for (int g = 0; g < SUPER / 16; g++) {
            float scale = d * (float)b.scales[g];
            for (int e = 16 * g; e < 16 * (g + 1); e++)
                dst[e] = scale * (float)((int)(pick(b.qs, e, 64, 2) + 16 * pick(b.high, e, 32, 4)) - 32);
        }
    }
}

void quant_widen_Q8_K(const unsigned char *src, float *dst, size_t n)
{
    for (struct block_Q8_K b; n; n -= SUPER, src += sizeof b, dst += SUPER) {
        memcpy(&b, src, sizeof b);
        for (int e = 0; e < SUPER; e++) dst[e] = b.d * (float)b.qs[e];
    }
}

void quant_widen_IQ4_XS(const unsigned char *src, float *dst, size_t n)
{
    static const float curve[16] = QUANT_CURVE;
    for (struct block_IQ4_XS b; n; n -= SUPER, src += sizeof b, dst += SUPER) {
        memcpy(&b, src, sizeof b);
        float d = quant_half(b.d);
        for (int g = 0; g < SUPER / 32; g++) {
            int scale = (b.scales[g / 2] >> (g % 2 * 4) & 15) | (b.scales_high >> (2 * g) & 3) << 4;
            float dl = d * (float)(scale - 32);
            for (int e = 32 * g; e < 32 * (g + 1); e++) dst[e] = dl * curve[pick(b.qs, e, 16, 2)];
        }
    }
}
