/* Element types of weight files and their conversion to float32. A type is one row of the table:
 * name, elements per block, bytes per block, and how to widen a block. The widened values ARE
 * the base model: every digest of a quantised tensor is over them.
 *
 * Layouts are ggml's (quant_layout.h); 16-bit types widen exactly, and narrow back exactly when the
 * value came from there.
 */
#ifndef ENGRAM_QUANT_H
#define ENGRAM_QUANT_H

#include <stdint.h>

#include "core/base/err.h"

enum dtype {
#define DTYPE(name, word, gguf_id, safetensors, block, bytes) DTYPE_##name,
#include "quant.def"
#undef DTYPE
    DTYPE_COUNT
};

struct dtype_info {
    const char *word;        /* "F32", "Q4_1"… */
    int gguf_id;             /* ggml_type number, -1: not in GGUF */
    const char *safetensors; /* name there, NULL: not in safetensors */
    uint32_t block;          /* elements per block */
    uint32_t bytes;          /* bytes per block */
};

const struct dtype_info *dtype_info(enum dtype t);
bool dtype_from_gguf(uint32_t id, enum dtype *out);
bool dtype_from_safetensors(const char *name, enum dtype *out);

/* Widen n elements (a whole number of blocks) from src to dst. src needs no alignment. */
void dtype_widen(enum dtype t, const void *src, float *dst, size_t n);

/* The 16-bit forms, for digests and export of tensors stored so. Round to nearest even. */
uint16_t f32_to_f16(float x);
uint16_t f32_to_bf16(float x);
float f16_to_f32(uint16_t h);
float bf16_to_f32(uint16_t h);

#endif
