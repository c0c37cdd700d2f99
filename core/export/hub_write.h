/* A view as a hub-style directory, which other programs load without knowing of this one.
 *
 *     model.safetensors          every tensor under its state-dict name, in the type and with the
 *                                very bytes its digest counts: docs/digest.py finds the view's digest
 *     tokenizer.json …           a source directory's own files byte for byte, or made from the GGUF
 *     generation_config.json     likewise
 *     config.json                last: until it is there, nobody takes the directory for a model
 *
 * Equal views of equal sources give equal files. The data begins on a cache line and the tensors
 * with the widest elements come first, so that each is aligned for readers that map the file.
 *
 * The directory must not exist or be empty; after a failure it is as it was (core/file/outdir.h). Reads
 * the view and the source's small files; any thread.
 */
#ifndef ENGRAM_HUB_WRITE_H
#define ENGRAM_HUB_WRITE_H

#include "core/view.h"

bool hub_write(const struct view *v, const char *path, struct err *e) MUST_CHECK;

#endif
