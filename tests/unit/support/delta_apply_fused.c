#include "delta_apply_variants.h"

bool delta_apply_fast_runs(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#else
    return true;
#endif
}

#pragma GCC optimize("O3", "fp-contract=fast")
#if defined(__x86_64__) && !defined(__clang__)
#pragma GCC target("arch=x86-64-v3")
#endif
#define delta_apply delta_apply_fused
#include "core/delta_apply.c"
