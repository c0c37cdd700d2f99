/* What a decoder of one family looks like: numbers, not code. A family is a row of
 * `core/arch.def` and one file `core/arch_<family>.c` that fills a struct arch from a GGUF's
 * metadata or a hub directory's config.json, and says where the file's rows must be re-ordered.
 *
 * Unknown families and unsupported values are one sentence naming the family or key and value.
 * Plain immutable data; any thread.
 */
#ifndef ENGRAM_ARCH_H
#define ENGRAM_ARCH_H

#include "core/file/modelfile.h"

struct arch {
    const char *family;  /* "llama" */
    uint32_t n_layers;   /* L */
    uint32_t n_heads;    /* H, query heads */
    uint32_t n_kv_heads; /* G, key/value heads; H is a multiple of G */
    uint32_t d_head;     /* e, even */
    uint32_t d_model;    /* d, residual width */
    uint32_t d_mlp;      /* m */
    uint32_t d_vocab;    /* V */
    uint32_t context;    /* longest sequence, tokens */
    float norm_eps;      /* RMSNorm: x / sqrt(mean(x²) + eps) */
    float rope_theta;    /* rotary base; halves are rotated, all e dimensions */
    bool tied_head;      /* the unembedding is the embedding */
};

/* Query (and key) rows of GGUF's llama files are interleaved for adjacent-pair rotation; we keep
 * the state dict's order. */
enum row_order { ROWS_PLAIN, ROWS_ROTARY_PAIRS };

struct family {
    const char *name;        /* our word for it */
    const char *gguf_name;   /* general.architecture */
    const char *config_name; /* config.json's model_type */
    const char *config_class; /* config.json's architectures, for those who load an export */
    bool (*from_gguf)(const struct gguf *g, struct arch *out, struct err *e);
    bool (*from_config)(const struct json *config, struct arch *out, struct err *e);
    enum row_order gguf_qk_rows;
};

const struct family *family_at(size_t i); /* NULL past the end */

/* Find the family and fill *out; proves all numbers sane (non-zero, products bounded). */
bool arch_read(const struct modelfile *f, struct arch *out, const struct family **family,
               struct err *e) MUST_CHECK;

#endif
