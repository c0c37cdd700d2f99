/* Blocks of quantised numbers as they lie in a file: ggml's layouts, little-endian, unaligned.
 *
 * `d` is a block's scale and `m` its offset, float16. In blocks of 32, nibble j of `qs` is element
 * j, its upper half element j + 16, and bit j of `qh` the fifth bit of element j.
 *
 * Blocks of 256 (the "K" types) are divided into groups of 16 or 32, each with a small scale, and an
 * offset where there is `m`, that multiply the block's. Their elements lie in halves or quarters, so
 * that one shift and one mask give 32 neighbours:
 *
 *     two bits     element e: byte e/128·32 + e%32, at bit 2·(e/32 % 4)        Q2_K, Q3_K, high of Q6_K
 *     four bits    element e: byte e/64·32 + e%32, at bit 4·(e/32 % 2)         Q4_K, Q5_K
 *                  element e: byte e/128·64 + e%64, at bit 4·(e/64 % 2)        low of Q6_K
 *     one bit      element e: byte e%32, at bit e/32                           high of Q3_K, Q5_K
 */
#ifndef ENGRAM_QUANT_LAYOUT_H
#define ENGRAM_QUANT_LAYOUT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "weight files are little-endian");

enum { QUANT_HALF = 16, QUANT_BLOCK = 32, QUANT_SUPER = 256 };

/* A block may lie at any address, over bytes of any kind. */
#define QUANT_AS_STORED __attribute__((packed, may_alias))

struct block_F32 {
    float x;
} QUANT_AS_STORED;
struct block_F16 {
    uint16_t x;
} QUANT_AS_STORED;
struct block_BF16 {
    uint16_t x;
} QUANT_AS_STORED;
struct block_Q4_0 {
    uint16_t d;
    uint8_t qs[QUANT_HALF];
} QUANT_AS_STORED;
struct block_Q4_1 {
    uint16_t d, m;
    uint8_t qs[QUANT_HALF];
} QUANT_AS_STORED;
struct block_Q5_0 {
    uint16_t d;
    uint8_t qh[4], qs[QUANT_HALF];
} QUANT_AS_STORED;
struct block_Q5_1 {
    uint16_t d, m;
    uint8_t qh[4], qs[QUANT_HALF];
} QUANT_AS_STORED;
struct block_Q8_0 {
    uint16_t d;
    int8_t qs[QUANT_BLOCK];
} QUANT_AS_STORED;
struct block_IQ4_NL {
    uint16_t d;
    uint8_t qs[QUANT_HALF]; /* places in QUANT_CURVE */
} QUANT_AS_STORED;
struct block_Q2_K {
    uint8_t scales[QUANT_SUPER / 16]; /* low nibble: scale, high: offset */
    uint8_t qs[QUANT_SUPER / 4];
    uint16_t d, m;
} QUANT_AS_STORED;
struct block_Q3_K {
    uint8_t high[QUANT_SUPER / 8]; /* a bit that is not set takes 4 away */
    uint8_t qs[QUANT_SUPER / 4];
    uint8_t scales[12]; /* 16 of six bits, 32 too large */
    uint16_t d;
} QUANT_AS_STORED;
struct block_Q4_K {
    uint16_t d, m;
    uint8_t scales[12]; /* 8 scales and 8 offsets of six bits */
    uint8_t qs[QUANT_SUPER / 2];
} QUANT_AS_STORED;
struct block_Q5_K {
    uint16_t d, m;
    uint8_t scales[12]; /* as in Q4_K */
    uint8_t high[QUANT_SUPER / 8], qs[QUANT_SUPER / 2];
} QUANT_AS_STORED;
struct block_Q6_K {
    uint8_t qs[QUANT_SUPER / 2], high[QUANT_SUPER / 4];
    int8_t scales[QUANT_SUPER / 16];
    uint16_t d;
} QUANT_AS_STORED;
struct block_Q8_K {
    float d;
    int8_t qs[QUANT_SUPER];
    int16_t sums[QUANT_SUPER / 16]; /* of qs, for integer products; not needed to widen */
} QUANT_AS_STORED;
struct block_IQ4_XS {
    uint16_t d, scales_high; /* 8 scales of six bits, 32 too large: two high bits each … */
    uint8_t scales[4];       /* … and a nibble */
    uint8_t qs[QUANT_SUPER / 2]; /* places in QUANT_CURVE, by 32 as in IQ4_NL */
} QUANT_AS_STORED;

#define DTYPE(name, word, gguf_id, safetensors, block, bytes) \
    static_assert(sizeof(struct block_##name) == (bytes), "size of a " word " block");
#include "quant.def"
#undef DTYPE

/* The sixteen values of the IQ4 types. */
#define QUANT_CURVE {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

static inline uint32_t quant_word(const uint8_t *p)
{
    uint32_t w;
    memcpy(&w, p, sizeof w);
    return w;
}

/* Four of six bits each: nibbles of `low` and pairs of bits of `high`, each shifted down. */
static inline void quant_join_six(uint32_t low, unsigned by, uint32_t high, unsigned high_by, uint8_t out[4])
{
    uint32_t w = (low >> by & 0x0F0F0F0F) | (high >> high_by & 0x03030303) << 4;
    memcpy(out, &w, sizeof w);
}

/* Sixteen scales of Q3_K, 32 too large: nibbles, then the pairs of high bits. */
static inline void quant_scales_q3(const uint8_t p[12], uint8_t scale[16])
{
    uint32_t a = quant_word(p), b = quant_word(p + 4), high = quant_word(p + 8);
    quant_join_six(a, 0, high, 0, scale);
    quant_join_six(b, 0, high, 2, scale + 4);
    quant_join_six(a, 4, high, 4, scale + 8);
    quant_join_six(b, 4, high, 6, scale + 12);
}

/* Scales and offsets of Q4_K and Q5_K: of the first four six bits each, and above them the high bits
 * of the other four, whose nibbles come last. */
static inline void quant_scales_q4(const uint8_t p[12], uint8_t scale[8], uint8_t offset[8])
{
    uint32_t a = quant_word(p), b = quant_word(p + 4), low = quant_word(p + 8);
    uint32_t first[2] = {a & 0x3F3F3F3F, b & 0x3F3F3F3F};
    memcpy(scale, &first[0], 4);
    memcpy(offset, &first[1], 4);
    quant_join_six(low, 0, a, 6, scale + 4);
    quant_join_six(low, 4, b, 6, offset + 4);
}

#endif
