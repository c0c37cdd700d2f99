/* What Gemma 2 and Gemma 3 share: norms around both branches with gains stored less one, gated
 * tanh-GELU, embeddings times sqrt(d), and an attention scale of its own.
 *
 * transformers rounds sqrt(d) to the element type a model is loaded in; here, as in transformers with
 * float32 and in llama.cpp, it is the float32 number whatever the file stores: everything is computed
 * in float32, and a view must not compute something else once a delta has widened its tensors.
 */
#ifndef ENGRAM_GEMMA_H
#define ENGRAM_GEMMA_H

#include "read_config.h"

/* The block, before any size is read. */
void gemma_block(struct arch *a);
/* What depends on the sizes; first and last of reading a config.json. */
bool gemma_from_config(const struct json *c, const struct config_words *w, struct arch *a, struct err *e) MUST_CHECK;
/* The same of a GGUF. `odd_layers`: how many layers the one size has whose attention scale is
 * 1/sqrt(d/H) instead of 1/sqrt(e), which the file does not say. */
bool gemma_from_gguf(const struct modelfile *f, uint32_t odd_layers, struct arch *a, struct err *e) MUST_CHECK;
void gemma_to_config(const struct arch *a, struct buf *out);
/* All layers but every period-th are windowed. */
bool gemma_windowed(uint32_t layer, uint32_t period);

#endif
