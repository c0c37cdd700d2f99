/* The bytes of small GGUF metadata, value by value, for tests that write a file of their own. */
#ifndef ENGRAM_TEST_GGUF_BYTES_H
#define ENGRAM_TEST_GGUF_BYTES_H

#include "core/base/mem.h"

enum gguf_type { GGUF_UINT32 = 4, GGUF_INT32 = 5, GGUF_FLOAT32 = 6, GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9 };

void put(struct buf *b, uint64_t v, size_t bytes); /* little-endian */
void put_string(struct buf *b, const char *text);
void put_key(struct buf *b, const char *key, enum gguf_type type);
void gguf_put_text(struct buf *b, const char *key, const char *text);
/* A list written as "a|b|c", of strings or of integers; at most 255 bytes. */
void put_list(struct buf *b, const char *key, enum gguf_type type, const char *list);

#endif
