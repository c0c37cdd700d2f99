/* The instruction sets that core/kernel/packed_kernels.inc is compiled for, inside packed*.c. */
#ifndef ENGRAM_PACKED_INT_H
#define ENGRAM_PACKED_INT_H

#include "packed.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define PACKED_X86 1
#else
#define PACKED_X86 0
#endif

extern const struct packed_kernels packed_plain[DTYPE_COUNT];
#if PACKED_X86
extern const struct packed_kernels packed_v3[DTYPE_COUNT]; /* AVX2, FMA, F16C */
extern const struct packed_kernels packed_v4[DTYPE_COUNT]; /* AVX-512 F, BW, DQ, VL */
#endif

#endif
