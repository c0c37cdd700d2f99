#include "packed_int.h"

#if PACKED_X86
#pragma GCC target("arch=x86-64-v3")
#define PACKED_TABLE packed_v3
#include "packed_kernels.inc"
#endif
