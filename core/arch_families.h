/* The readers of every family in core/arch.def, for its table only. */
#ifndef ENGRAM_ARCH_FAMILIES_H
#define ENGRAM_ARCH_FAMILIES_H

#include "arch.h"
#include "core/file/gguf.h"

#define FAMILY(id, gguf_word, config_word, config_class, qk)                                     \
    bool id##_from_gguf(const struct gguf *g, struct arch *out, struct err *e);                  \
    bool id##_from_config(const struct json *config, struct arch *out, struct err *e);
#include "arch.def"
#undef FAMILY

#endif
