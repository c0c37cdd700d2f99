#pragma GCC optimize("O0")
#define delta_apply delta_apply_plain
#include "core/delta_apply.c"
