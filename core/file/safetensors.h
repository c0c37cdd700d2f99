/* safetensors containers: an 8-byte length, a JSON header of that length, tensor data.
 *
 * The header maps each name to {dtype, shape, data_offsets}; `__metadata__` is ignored. The
 * format's own invariants are enforced: offsets cover the data exactly, without overlap or gap,
 * and each weight's bytes are what its type and shape say. Tensors of types, or numbers of dimensions,
 * that no weight has are listed as such (struct file_tensor). Headers over 100 MB are refused.
 *
 * Rows are appended to the caller's list, names live in the caller's arena; the caller keeps the
 * infile open for as long as tensors are read, and seals the list when all shards are in.
 */
#ifndef ENGRAM_SAFETENSORS_H
#define ENGRAM_SAFETENSORS_H

#include "infile.h"
#include "tensor_list.h"

/* `file` is what the rows' `file` becomes: the index of this shard. */
bool safetensors_read(const struct infile *f, uint32_t file, struct tensor_list *out,
                      struct arena *names, struct err *e) MUST_CHECK;

#endif
