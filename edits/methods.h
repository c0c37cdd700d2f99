/* Every method of edits/method.def, for its table only. */
#ifndef ENGRAM_METHODS_H
#define ENGRAM_METHODS_H

#include "editor.h"

#define METHOD(name) extern const struct method method_##name;
#include "method.def"
#undef METHOD

/* LocFT's rule for another depth: round(L·(ref_index+1)/ref_layers) − 1, halves up. */
uint32_t locft_layer(uint32_t n_layers, uint32_t ref_index, uint32_t ref_layers);

#endif
