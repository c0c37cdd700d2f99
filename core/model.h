/* A loaded base model: its description, its tokenizer and its weights, all read-only for life.
 *
 * Weights carry the state dict's names, shapes and row order. Matrices lie in memory as the file
 * stores them (float32, 16-bit or packed blocks) and are widened as they are multiplied
 * (core/kernel/matrix.h); vectors are float32. Tensors of one group (q|k|v, gate|up) follow each
 * other so that, where their types agree, one product serves them; each is still addressable by
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

#include <stdatomic.h>

#include "arch.h"
#include "core/kernel/matrix.h"
#include "core/text/tokenizer.h"

struct tensor {
    const char *name;    /* state-dict name */
    enum role role;
    enum group group;
    uint32_t layer;      /* 0 for tensors outside the layers */
    uint32_t n_dims;     /* 1 or 2 */
    uint32_t rows, cols; /* vectors: rows == 1 */
    size_t n_elements;
    enum dtype stored;   /* DTYPE_F32, DTYPE_F16 or DTYPE_BF16: what its digest is over */
    struct matrix memory; /* as it is held */
};

struct model {
    struct arch arch;
    const struct family *family;
    struct tokenizer *tokenizer;
    char *path;
    char *name;              /* served name, e.g. "smollm2-135m-instruct" */
    size_t n_tensors;
    const struct tensor *tensors; /* sorted by name, ascending bytes: the digest's order */
    size_t n_parameters;
    size_t memory_bytes;     /* of all weights as they are held */
    size_t token_bytes;      /* of weights read by one decoded token */
    float *frequencies[2];   /* rotary, [dim/2]: of layers that see everything, of windowed ones */
    struct modelfile *file;  /* kept for its file list; no tensor data is read after open */
    _Atomic size_t *overlay_bytes; /* where views count memory of their own; NULL: nowhere */
};

struct model_loading { /* every member may be NULL */
    void (*progress)(void *ctx, size_t done, size_t total); /* elements */
    /* Asked once the headers are read and before any weight is: may it take so much memory? */
    bool (*afford)(void *ctx, size_t bytes, struct err *e);
    void *ctx;
    _Atomic size_t *overlay_bytes; /* as in the model; must outlive it */
};

/* Load everything. progress may be NULL; it is called with elements done and total. */
struct model *model_open(const char *path, const char *name,
                         void (*progress)(void *ctx, size_t done, size_t total), void *ctx,
                         struct err *e) MUST_CHECK;
struct model *model_open_as(const char *path, const char *name, const struct model_loading *how,
                            struct err *e) MUST_CHECK;
/* The name a model gets when none is given: the last part of its path. Free with mem_drop. */
char *model_default_name(const char *path);
struct model *model_retain(struct model *m);
void model_drop(struct model *m);

/* Index of the tensor of that name or role; false when there is none (a tied head has none). */
bool model_find(const struct model *m, const char *name, size_t *index);
bool model_role(const struct model *m, enum role role, uint32_t layer, size_t *index);
bool role_of_layers(enum role r); /* not of the model's ends */

#endif
