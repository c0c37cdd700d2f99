#pragma GCC optimize("O3", "fp-contract=off")
#if defined(__x86_64__) && !defined(__clang__)
#pragma GCC target("arch=x86-64-v3")
#endif
#define delta_apply delta_apply_fast
#include "core/delta_apply.c"
