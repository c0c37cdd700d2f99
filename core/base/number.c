/* The shortest decimal text that reads back as the same float, without trying printf lengths.
 *
 * A value v = m·2^q is what a reader takes for any decimal inside v ± half a unit. Scale so that
 * this interval is between 1 and 10 wide; then it holds at most one multiple of ten and at least
 * one integer, and the shortest text is that multiple (its zeros stripped) or the integer nearest
 * to v. This is Raffaele Giulietti's Schubfach; instead of its 617 exact constants the powers of
 * ten are built from 24 rounded ones, in 128 bits. That leaves the scaled numbers wrong by a few
 * 2^-64; where a decision is closer than that, the slow and certain way decides.
 */
#include "json_write.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef unsigned __int128 u128;

enum {
    COARSE = 27,      /* exponent step of the table; 5^26 fits 64 bits */
    COARSE_MIN = -11, /* first row is 10^(27 · -11) */
    DOUBT = 16        /* in units of 2^-64: more than twice the largest error of scaled() */
};

/* 10^(27·i), the leading 128 bits, rounded. */
static const uint64_t coarse[][2] = {
    {0xa76c582338ed2621, 0xaf2af2b80af6f24e}, /* 10^-297 */
    {0x873e4f75e2224e68, 0x5a7744a6e804a292},
    {0xda7f5bf590966848, 0xaf39a475506a899f},
    {0xb080392cc4349dec, 0xbd8d794d96aacfb4},
    {0x8e938662882af53e, 0x547eb47b7282ee9c},
    {0xe65829b3046b0afa, 0x0cb4a5a3112a5113},
    {0xba121a4650e4ddeb, 0x92f34d62616ce413},
    {0x964e858c91ba2655, 0x3a6a07f8d510f870},
    {0xf2d56790ab41c2a2, 0xfae27299423fb9c3},
    {0xc428d05aa4751e4c, 0xaa97e14c3c26b887},
    {0x9e74d1b791e07e48, 0x775ea264cf55347e},
    {0x8000000000000000, 0x0000000000000000}, /* 10^0 */
    {0xcecb8f27f4200f3a, 0x0000000000000000},
    {0xa70c3c40a64e6c51, 0x999090b65f67d924},
    {0x86f0ac99b4e8dafd, 0x69a028bb3ded71a4},
    {0xda01ee641a708de9, 0xe80e6f4820cc9496},
    {0xb01ae745b101e9e4, 0x5ec05dcff72e7f90},
    {0x8e41ade9fbebc27d, 0x14588f13be847307},
    {0xe5d3ef282a242e81, 0x8f1668c8a86da5fb},
    {0xb9a74a0637ce2ee1, 0x6d953e2bd7173693},
    {0x95f83d0a1fb69cd9, 0x4abdaf101564f98e},
    {0xf24a01a73cf2dccf, 0xbc633b39673c8cec},
    {0xc3b8358109e84f07, 0x0a862f80ec4700c8},
    {0x9e19db92b4e31ba9, 0x6c07a2c26a8346d1}, /* 10^324 */
};
static_assert(sizeof coarse / sizeof *coarse == 24, "10^-297 to 10^324");

/* Exact for every exponent of a double, subnormals included. */
static int floor_log10_pow2(int q) { return (q * 1262611) >> 22; }
static int floor_log10_three_quarters_pow2(int q) { return (q * 1262611 - 524031) >> 22; }
static int floor_log2_pow10(int p) { return (p * 1741647) >> 19; }

/* The leading 128 bits of 10^p, top bit set: 10^p ≈ result · 2^(floor_log2_pow10(p) - 127). */
static u128 pow10_bits(int p)
{
    int i = (p >= 0 ? p : p - (COARSE - 1)) / COARSE, j = p - i * COARSE;
    assert(i >= COARSE_MIN && i - COARSE_MIN < 24 && j >= 0 && j < COARSE);
    uint64_t five = 1, hi = coarse[i - COARSE_MIN][0], lo = coarse[i - COARSE_MIN][1];
    for (int n = 0; n < j; n++) five *= 5;
    int spare = __builtin_clzll(five);
    five <<= spare; /* top bit set, so the product has 191 or 192 bits */
    u128 low = (u128)five * lo, high = (u128)five * hi + (uint64_t)(low >> 64);
    if (high >> 127) return high;
    return high << 1 | (uint64_t)low >> 63;
}

struct scale {
    u128 pow10; /* of 10^-k */
    int shift;
};

/* c · 2^(q-2) · 10^-k in 64.64 fixed point. */
static u128 scaled(const struct scale *s, uint64_t c)
{
    u128 low = (u128)c * (uint64_t)s->pow10;
    u128 high = (u128)c * (uint64_t)(s->pow10 >> 64) + (uint64_t)(low >> 64);
    if (s->shift >= 64) return high >> (s->shift - 64);
    return high << (64 - s->shift) | (uint64_t)low >> s->shift;
}

static bool doubtful(u128 a, u128 b) { return (a > b ? a - b : b - a) <= DOUBT; }

/* v = m·2^q, v > 0; `lopsided`: the neighbour below is half as far. False: cannot tell. */
static bool shortest(uint64_t m, int q, bool lopsided, uint64_t *digits, int *exponent)
{
    int k = lopsided ? floor_log10_three_quarters_pow2(q) : floor_log10_pow2(q);
    struct scale s = {pow10_bits(-k), 65 - q - floor_log2_pow10(-k)};
    assert(s.shift > 0 && s.shift < 128);
    u128 v = scaled(&s, 4 * m), low = scaled(&s, 4 * m - (lopsided ? 1 : 2)),
         high = scaled(&s, 4 * m + 2);
    uint64_t whole = (uint64_t)(v >> 64), ten = whole - whole % 10;
    *exponent = k;
    for (int up = 0; up < 2; up++) {
        u128 candidate = (u128)(ten + (up ? 10 : 0)) << 64;
        if (doubtful(candidate, low) || doubtful(candidate, high)) return false;
        if (candidate > low && candidate < high) {
            *digits = (uint64_t)(candidate >> 64);
            return true;
        }
    }
    u128 below = (u128)whole << 64, above = below + ((u128)1 << 64);
    if (doubtful(below, low) || doubtful(above, high)) return false;
    if (doubtful(v - below, (u128)1 << 63)) return false;
    bool down = below > low, up = above < high;
    if (!down && !up) return false;
    *digits = down && (!up || v - below < above - v) ? whole : whole + 1;
    return true;
}

/* digits · 10^exponent as JSON: plain where that is short, else with an exponent. */
static void write_decimal(bool negative, uint64_t digits, int exponent, char out[32])
{
    char text[24];
    while (digits % 10 == 0) digits /= 10, exponent++;
    int n = 0;
    for (char *p = text + sizeof text; digits; digits /= 10) p[-1 - n++] = (char)('0' + digits % 10);
    const char *first = text + sizeof text - n;
    int point = n + exponent; /* digits before the decimal point */
    char *o = out;
    if (negative) *o++ = '-';
    if (point > 0 && point <= 17) {
        for (int i = 0; i < point || i < n; i++) {
            if (i == point) *o++ = '.';
            *o++ = i < n ? first[i] : '0';
        }
    } else if (point <= 0 && point > -5) {
        *o++ = '0', *o++ = '.';
        for (int i = point; i < 0; i++) *o++ = '0';
        o = (char *)memcpy(o, first, (size_t)n) + n;
    } else {
        *o++ = *first;
        if (n > 1) *o++ = '.';
        o = (char *)memcpy(o, first + 1, (size_t)n - 1) + n - 1;
        o += snprintf(o, 8, "e%d", point - 1);
    }
    *o = '\0';
    assert(o < out + 32);
}

/* The certain way: print longer and longer until it reads back. */
static void by_trial(double v, bool single, uint64_t *digits, int *exponent)
{
    char text[32];
    for (int n = 1; n <= 17; n++) {
        (void)snprintf(text, sizeof text, "%.*e", n - 1, v);
        if (single ? strtof(text, NULL) == (float)v : strtod(text, NULL) == v) break;
    }
    *digits = 0;
    *exponent = 1;
    const char *p = text;
    for (; *p != 'e'; p++) {
        if (*p == '.') continue;
        *digits = *digits * 10 + (uint64_t)(*p - '0');
        --*exponent;
    }
    *exponent += (int)strtol(p + 1, NULL, 10);
}

static void text_of(double v, uint64_t fraction, int biased, int fraction_bits, int bias,
                    bool single, char out[32])
{
    if (!isfinite(v)) {
        memcpy(out, "null", 5);
        return;
    }
    if (v == 0) { /* "-0" would come back from many readers as the integer 0 */
        memcpy(out, signbit(v) ? "-0.0" : "0", signbit(v) ? 5 : 2);
        return;
    }
    bool normal = biased != 0;
    uint64_t m = normal ? fraction | (uint64_t)1 << fraction_bits : fraction, digits;
    int q = (normal ? biased : 1) - bias - fraction_bits, exponent;
    if (!shortest(m, q, fraction == 0 && biased > 1, &digits, &exponent))
        by_trial(fabs(v), single, &digits, &exponent);
    write_decimal(signbit(v), digits, exponent, out);
}

void f32_text(float v, char out[32])
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    text_of((double)v, bits & 0x7fffff, (int)(bits >> 23 & 0xff), 23, 127, true, out);
}

void f64_text(double v, char out[32])
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    text_of(v, bits & 0xfffffffffffff, (int)(bits >> 52 & 0x7ff), 52, 1023, false, out);
}
