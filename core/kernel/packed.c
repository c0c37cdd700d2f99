#include "packed_int.h"

#include <assert.h>

static const struct packed_kernels *table(int level)
{
#if PACKED_X86
    bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (level == 2) return v4 ? packed_v4 : NULL;
    if (level == 1) return v3 ? packed_v3 : NULL;
#endif
    return level == 0 ? packed_plain : NULL;
}

const struct packed_kernels *packed_kernels_at(int level, enum dtype t)
{
    const struct packed_kernels *k = table(level);
    assert((unsigned)t < DTYPE_COUNT);
    return k ? &k[t] : NULL;
}

const struct packed_kernels *packed_kernels(enum dtype t)
{
    int level = PACKED_LEVELS - 1;
    while (!table(level)) level--;
    return packed_kernels_at(level, t);
}
