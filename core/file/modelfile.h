/* A model on disk, whatever its format: named tensors, metadata, tokenizer data.
 *
 * modelfile_open accepts a GGUF file (v2, v3) or a hub-style directory with config.json,
 * tokenizer.json and safetensors (one file, or sharded with model.safetensors.index.json). It
 * reads and checks every header: counts, lengths, offsets, shapes and overlaps are proven against
 * the file's real size before anything is used. Tensor data is read with pread on demand, never
 * mapped: a file that shrinks or lies afterwards is an error, not a SIGBUS.
 *
 * Checkpoints also carry what no weight is: masks of bytes, counters, single numbers. Such tensors are
 * listed with a sentence about what they are and are never read; whoever needs a weight of that name
 * says the sentence.
 *
 * Tensor names are the file's own; `core/arch.h` maps them to roles. Shapes are row-major,
 * outermost first (GGUF's reversed order is turned round here).
 *
 * Errors name file, tensor and byte offset. Immutable after open; modelfile_read may be
 * called from any thread.
 */
#ifndef ENGRAM_MODELFILE_H
#define ENGRAM_MODELFILE_H

#include "core/base/json.h"
#include "quant.h"

struct gguf;      /* core/file/gguf.h */
struct modelfile;

struct file_tensor {
    const char *name;
    const char *other;    /* NULL; or why it can be no weight: "is of type I64", "has 0 dimensions" */
    enum dtype type;      /* these four of weights only */
    uint32_t n_dims;      /* 1..4 */
    uint64_t shape[4];    /* outermost first */
    uint64_t n_elements;
    uint32_t file;        /* which shard */
    uint64_t offset, n_bytes;
};

struct modelfile *modelfile_open(const char *path, struct err *e) MUST_CHECK;
void modelfile_close(struct modelfile *f);

const char *modelfile_path(const struct modelfile *f);
size_t modelfile_count(const struct modelfile *f);
const struct file_tensor *modelfile_tensor(const struct modelfile *f, size_t i);
const struct file_tensor *modelfile_find(const struct modelfile *f, const char *name); /* or NULL */

/* Exactly one of the two is not NULL. */
const struct gguf *modelfile_gguf(const struct modelfile *f);
const struct json *modelfile_config(const struct modelfile *f); /* config.json */
/* Hub directories only, NULL where the file is absent. */
const struct json *modelfile_tokenizer(const struct modelfile *f);        /* tokenizer.json */
const struct json *modelfile_tokenizer_config(const struct modelfile *f); /* tokenizer_config.json */
const struct json *modelfile_generation_config(const struct modelfile *f);
const char *modelfile_chat_template(const struct modelfile *f); /* chat_template.jinja's text */

/* Append what the file says besides its tensors (sizes and constants, tokenizer, chat template), in one
 * form: models of the same weights and the same description answer alike. */
void modelfile_describe(const struct modelfile *f, struct buf *out);

/* Read all elements of a weight into dst, as they are stored (as == t->type) or as float32 (dequantised or
 * widened). A NaN or infinity in the file is ERR_CORRUPT with the tensor's name and element index. */
bool modelfile_read(const struct modelfile *f, const struct file_tensor *t, enum dtype as, void *dst,
                    struct err *e) MUST_CHECK;

/* Source files in a fixed order, so that a digest of the source can be taken elsewhere: GGUF: the
 * one file; directory: the weight files by name. */
size_t modelfile_file_count(const struct modelfile *f);
const char *modelfile_file_path(const struct modelfile *f, size_t i);

#endif
