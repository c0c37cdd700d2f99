/* A loaded base model: its description, its tokenizer and its weights, all read-only for life.
 *
 * Weights are float32 in the state dict's names, shapes and row order. Tensors of one group
 * (q|k|v, gate|up) lie side by side so that one GEMM serves them; each is still addressable by
 * name. A tensor remembers the 16-bit type it was stored in (its digest is over that type);
 * quantised tensors count as float32.
 *
 * Letters used everywhere: L layers, H query heads, G key/value heads, e head width, d residual
 * width, m MLP width, V vocabulary, P positions, R rows of a ragged batch.
 *
 * Ownership: counted. Views hold a reference. Immutable after model_open: any thread.
 */
#ifndef ENGRAM_MODEL_H
#define ENGRAM_MODEL_H

#include "arch.h"
#include "core/text/tokenizer.h"

enum role {
#define ROLE(name, per_layer, hub, gguf, rows, cols, group) ROLE_##name,
#include "tensor.def"
#undef ROLE
    ROLE_COUNT
};

struct tensor {
    const char *name;    /* state-dict name */
    enum role role;
    uint32_t layer;      /* 0 for tensors outside the layers */
    uint32_t n_dims;     /* 1 or 2 */
    uint32_t rows, cols; /* vectors: rows == 1 */
    size_t n_elements;
    enum dtype stored;   /* DTYPE_F32, DTYPE_F16 or DTYPE_BF16 */
    uint32_t group;      /* index of the memory block it lies in */
    size_t offset;       /* in floats, inside that block */
};

struct model {
    struct arch arch;
    struct tokenizer *tokenizer;
    char *path;
    char *name;              /* served name, e.g. "smollm2-135m-instruct" */
    size_t n_tensors;
    const struct tensor *tensors; /* sorted by name, ascending bytes: the digest's order */
    size_t n_groups;
    const size_t *group_floats;
    float *const *groups;
    size_t n_parameters;
    size_t weight_bytes;     /* bytes of weights read by one decoded token */
    float *rope_inv_freq;    /* [e/2] float32, as the reference computes it */
    struct modelfile *file;  /* kept for its file list; no tensor data is read after open */
};

/* Load everything. progress may be NULL; it is called with elements done and total. */
struct model *model_open(const char *path, const char *name,
                         void (*progress)(void *ctx, size_t done, size_t total), void *ctx,
                         struct err *e) MUST_CHECK;
struct model *model_retain(struct model *m);
void model_drop(struct model *m);

/* Index of the tensor of that name or role; false when there is none (a tied head has none). */
bool model_find(const struct model *m, const char *name, size_t *index);
bool model_role(const struct model *m, enum role role, uint32_t layer, size_t *index);
/* The memory block (index into groups) that holds that role's tensor. */
uint32_t model_group(const struct model *m, enum role role, uint32_t layer);

#endif
