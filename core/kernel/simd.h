/* Sixteen floats at a time, by GCC vector extensions: one source, compiled for several instruction
 * sets by KERNEL and chosen when the program loads. Reductions are written out, because strict
 * arithmetic forbids the compiler to re-order them.
 *
 * Only for .c files of kernels. Contraction to fused multiply-add is allowed here: nothing hashed
 * comes from these files.
 */
#ifndef ENGRAM_SIMD_H
#define ENGRAM_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(ENGRAM_SANITIZED)
#define KERNEL __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define KERNEL
#endif
#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16 };
typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef float v16u __attribute__((vector_size(64), aligned(4), may_alias));

#pragma GCC diagnostic ignored "-Wpsabi" /* every function taking a v16 is inlined */

INLINE v16 load16(const float *p) { return *(const v16u *)p; }
INLINE void store16(float *p, v16 v) { *(v16u *)p = v; }
INLINE v16 splat16(float x) { return x - (v16){0}; } /* x + 0 would lose the sign of −0 */
INLINE float sum16(v16 v)
{
    typedef float v8 __attribute__((vector_size(32)));
    typedef float v4 __attribute__((vector_size(16)));
    union { v16 v; v8 h[2]; } a = {v};
    union { v8 v; v4 h[2]; } b = {a.h[0] + a.h[1]};
    v4 s = b.h[0] + b.h[1];
    return (s[0] + s[2]) + (s[1] + s[3]);
}

INLINE v16 pick16(i16 mask, v16 yes, v16 no)
{
    return (v16)(((i16)yes & mask) | ((i16)no & ~mask));
}

/* e^x to about 2 ulp: x = n·ln 2 + r, a polynomial in r, n into the exponent bits. Arguments are
 * clamped to the range of normal results. */
INLINE v16 exp16(v16 x)
{
    const v16 low = splat16(-87.0f), high = splat16(88.0f), magic = splat16(12582912.0f);
    x = pick16(x < low, low, x);
    x = pick16(x > high, high, x);
    v16 n = (x * 1.44269504088896341f + magic) - magic;
    v16 r = x - n * 0.693145751953125f - n * 1.42860682030941723e-6f;
    v16 p = splat16(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    i16 bits = (__builtin_convertvector(n, i16) + 127) << 23;
    return p * (v16)bits;
}

/* tanh x to a few ulp of itself: an odd polynomial near 0, where 1 − 2/(1 + e^2x) would cancel. */
INLINE v16 tanh16(v16 x)
{
    v16 z = x * x, p = splat16(-5.7170452e-3f), size = (v16)((i16)x & 0x7fffffff);
    p = p * z + 2.0650588e-2f;
    p = p * z - 5.3743498e-2f;
    p = p * z + 1.3331491e-1f;
    p = p * z - 3.3333284e-1f;
    v16 large = 1.0f - 2.0f / (1.0f + exp16(2.0f * size));
    large = (v16)((i16)large | ((i16)x & INT32_MIN));
    return pick16(size < 0.625f, x + x * z * p, large);
}

/* Load or store a tail of n < 16 lanes. */
INLINE v16 load_tail(const float *p, uint32_t n, float fill)
{
    float t[LANES];
    for (uint32_t i = 0; i < LANES; i++) t[i] = fill;
    memcpy(t, p, n * sizeof *p);
    return load16(t);
}
INLINE void store_tail(float *p, v16 v, uint32_t n)
{
    float t[LANES];
    store16(t, v);
    memcpy(p, t, n * sizeof *p);
}

/* Load or store n ≤ 16 lanes; a load fills up with zeros. */
INLINE v16 load_some(const float *p, uint32_t n) { return n == LANES ? load16(p) : load_tail(p, n, 0); }
INLINE void store_some(float *p, v16 v, uint32_t n)
{
    if (n == LANES) store16(p, v);
    else store_tail(p, v, n);
}

INLINE float dot(const float *a, const float *b, uint32_t n)
{
    v16 s = {0};
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES) s += load16(a + i) * load16(b + i);
    if (i < n) s += load_tail(a + i, n - i, 0) * load_tail(b + i, n - i, 0);
    return sum16(s);
}

#endif
