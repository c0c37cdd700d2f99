#include "packed_int.h"

#if PACKED_X86
#pragma GCC target("arch=x86-64-v4")
#define PACKED_TABLE packed_v4
#include "packed_kernels.inc"
#endif
