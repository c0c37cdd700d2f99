/* Writing safetensors: a header built first, then element bytes streamed in the same order.
 *
 *     struct st_writer w = {0};
 *     st_add(&w, "a.weight", DTYPE_F32, 2, shape);     once per tensor, in file order
 *     st_header(&w, "engramd.delta.1", out, e);        the bytes that precede the data
 *     … append each tensor's bytes in the order added …
 *
 * The header is canonical (fixed key order, padded with spaces to 8 bytes), so equal tensors give
 * equal files. Plain memory, one thread; st_release when done.
 */
#ifndef ENGRAM_SAFETENSORS_WRITE_H
#define ENGRAM_SAFETENSORS_WRITE_H

#include "core/base/mem.h"
#include "quant.h"

struct st_writer {
    struct buf members, meta;
    uint64_t offset;
};

void st_add(struct st_writer *w, const char *name, enum dtype type, uint32_t n_dims,
            const uint64_t *shape);
/* One more text among the file's metadata, under a key that needs no quoting. UTF-8. */
void st_meta(struct st_writer *w, const char *key, const char *text, size_t len);
bool st_header(struct st_writer *w, const char *format, struct buf *out, struct err *e) MUST_CHECK;
void st_release(struct st_writer *w);

#endif
