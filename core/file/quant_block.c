/* Blocks of 32. */
#include "quant_widen.h"

enum { HALF = QUANT_HALF, BLOCK = QUANT_BLOCK };

void quant_widen_Q4_0(const unsigned char *src, float *dst, size_t n)
{
    for (struct block_Q4_0 b; n; n -= BLOCK, src += sizeof b, dst += BLOCK) {
        memcpy(&b, src, sizeof b);
        float d = quant_half(b.d);
        for (int j = 0; j < HALF; j++) dst[j] = d * (float)((b.qs[j] & 15) - 8);
        for (int j = 0; j < HALF; j++) dst[j + HALF] = d * (float)((b.qs[j] >> 4) - 8);
    }
}

void quant_widen_Q4_1(const unsigned char *src, float *dst, size_t n)
{
    for (struct block_Q4_1 b; n; n -= BLOCK, src += sizeof b, dst += BLOCK) {
        memcpy(&b, src, sizeof b);
        float d = quant_half(b.d), m = quant_half(b.m);
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

void quant_widen_Q5_0(const unsigned char *src, float *dst, size_t n)
{
    for (struct block_Q5_0 b; n; n -= BLOCK, src += sizeof b, dst += BLOCK) {
        uint8_t q[BLOCK];
        memcpy(&b, src, sizeof b);
        join_fifth(b.qs, b.qh, q);
        float d = quant_half(b.d);
        for (int j = 0; j < BLOCK; j++) dst[j] = d * (float)(q[j] - 16);
    }
}

void quant_widen_Q5_1(const unsigned char *src, float *dst, size_t n)
{
    for (struct block_Q5_1 b; n; n -= BLOCK, src += sizeof b, dst += BLOCK) {
        uint8_t q[BLOCK];
        memcpy(&b, src, sizeof b);
        join_fifth(b.qs, b.qh, q);
        float d = quant_half(b.d), m = quant_half(b.m);
        for (int j = 0; j < BLOCK; j++) dst[j] = d * (float)q[j] + m;
    }
}

void quant_widen_Q8_0(const unsigned char *src, float *dst, size_t n)
{
    for (struct block_Q8_0 b; n; n -= BLOCK, src += sizeof b, dst += BLOCK) {
        memcpy(&b, src, sizeof b);
        float d = quant_half(b.d);
        for (int j = 0; j < BLOCK; j++) dst[j] = d * (float)b.qs[j];
    }
}

void quant_widen_IQ4_NL(const unsigned char *src, float *dst, size_t n)
{
    static const float curve[16] = QUANT_CURVE;
    for (struct block_IQ4_NL b; n; n -= BLOCK, src += sizeof b, dst += BLOCK) {
        memcpy(&b, src, sizeof b);
        float d = quant_half(b.d);
        for (int j = 0; j < HALF; j++) dst[j] = d * curve[b.qs[j] & 15];
        for (int j = 0; j < HALF; j++) dst[j + HALF] = d * curve[b.qs[j] >> 4];
    }
}
