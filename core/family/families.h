/* What each family's file defines, for the table in core/arch.c only.
 *
 *     <family>_from_gguf, <family>_from_config   fill a description that starts as the commonest
 *                                                decoder: Llama's block, without its sizes; the first
 *                                                of families with a GGUF architecture of their own
 *     <family>_names, <family>_words             what the tensors and the sizes are called
 *     <family>_to_config                         what config.json must say besides the sizes
 */
#ifndef ENGRAM_FAMILIES_H
#define ENGRAM_FAMILIES_H

#include "core/arch.h"
#include "read_config.h"

#define FAMILY(id, gguf_name, gguf_reader, config_name, config_class, prefix, other_prefix, holder) \
    bool id##_from_gguf(const struct modelfile *f, struct arch *a, struct err *e);                 \
    bool id##_from_config(const struct json *c, struct arch *a, struct err *e);                    \
    void id##_to_config(const struct arch *a, struct buf *out);                                    \
    extern const struct tensor_name id##_names[];                                                  \
    extern const struct config_words id##_words;
#include "core/arch.def"
#undef FAMILY

#endif
