/* core/delta_apply.c compiled three more times, so that a test can hold the bytes of one delta under
 * flags that could not differ more: without optimisation; vectorised for x86-64-v3 with contraction
 * off, as the product is built; and, as a control, with contraction on, which must show. On other
 * machines the last two are plain. */
#ifndef ENGRAM_TEST_DELTA_APPLY_VARIANTS_H
#define ENGRAM_TEST_DELTA_APPLY_VARIANTS_H

#include "core/delta.h"

void delta_apply_plain(const struct delta_part *p, uint32_t rows, uint32_t cols, float *w);
void delta_apply_fast(const struct delta_part *p, uint32_t rows, uint32_t cols, float *w);
void delta_apply_fused(const struct delta_part *p, uint32_t rows, uint32_t cols, float *w);
bool delta_apply_fast_runs(void); /* this processor has what the last two need */

#endif
