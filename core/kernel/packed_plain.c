#include "packed_int.h"

#define PACKED_TABLE packed_plain
#include "packed_kernels.inc"
