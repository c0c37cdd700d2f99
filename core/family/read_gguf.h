/* Reading a GGUF's metadata into a description. Keys of a family begin with the word of
 * general.architecture; the functions take what follows it ("attention.head_count"). Defaults are
 * llama.cpp's. What a file asks for and we do not compute is refused by key.
 *
 * A GGUF may leave tensors out: biases are there when the file has them, and so are tensors of
 * rotary divisors (rope_freqs of Llama 3, rope_factors_short of long-rope). A tensor that the family
 * has no name for is refused when the model is loaded, as llama.cpp does.
 *
 * Every function that can fail answers false after one sentence. Pure but for reading those tensors;
 * any thread.
 */
#ifndef ENGRAM_READ_GGUF_H
#define ENGRAM_READ_GGUF_H

#include "core/arch.h"

/* Absent: `otherwise`. A list with one number per layer counts when all are equal. */
bool meta_int(const struct modelfile *f, const char *key, uint32_t otherwise, uint32_t *out, struct err *e) MUST_CHECK;
bool meta_number(const struct modelfile *f, const char *key, double otherwise, float *out, struct err *e) MUST_CHECK;
bool meta_flag(const struct modelfile *f, const char *key, bool otherwise, bool *out, struct err *e) MUST_CHECK;

/* Sizes, epsilon (by the kind of norm), attention scale. */
bool meta_sizes(const struct modelfile *f, struct arch *a, struct err *e) MUST_CHECK;
/* Base, rotated width, linear scaling, divisors. */
bool meta_rotary(const struct modelfile *f, struct arch *a, struct err *e) MUST_CHECK;
/* Refuse a file that turns only a part of each head. */
bool meta_rotary_whole(const struct arch *a, struct err *e) MUST_CHECK;
/* The window (absent: `otherwise`; 0: none) and the layers it holds for: as the file lists them, or
 * all but every `period`-th; period 0: all. */
bool meta_windows(const struct modelfile *f, uint32_t otherwise, uint32_t period, struct arch *a, struct err *e) MUST_CHECK;

/* After a family has filled the description. Biases and an unembedding of its own: those of the family's
 * names that the file has, in block 0. */
void meta_optional(const struct modelfile *f, const struct tensor_name *names, struct arch *a);
/* Refuse keys that change the computation and are not in it. */
bool meta_nothing_else(const struct modelfile *f, const struct arch *a, struct err *e) MUST_CHECK;

#endif
