/* What a decoder of one family looks like: numbers, not code. A family is a row of
 * `core/arch.def` and one file `core/family/<family>.c` that fills a struct arch from a GGUF's
 * metadata or a hub directory's config.json and lists the names of its tensors. The block, the
 * head and the hooks read only this description.
 *
 *     serial     x ─► n1 ─► attention ─► p1 ─► + ─► n2 ─► MLP ─► p2 ─► +       p1, p2: post-norms
 *     parallel   x ─► n1 ─► attention ───────► + ◄─ MLP ◄─ n2 ◄─ x             n2 may be n1
 *
 * Unknown families and unsupported values are one sentence naming the family or key and value.
 * Plain immutable data; any thread.
 */
#ifndef ENGRAM_ARCH_H
#define ENGRAM_ARCH_H

#include "core/file/modelfile.h"

enum { ARCH_LAYERS = 1024, ROPE_PAIRS = 512 }; /* most layers; most rotated pairs with own divisors */

enum norm_kind {
    NORM_RMS,  /* x / sqrt(mean(x²) + eps) · (offset + w) */
    NORM_LAYER /* (x − mean) / sqrt(var + eps) · w + b */
};
enum activation { ACT_SILU, ACT_GELU_TANH, ACT_GELU_ERF };
enum positions { POSITIONS_ROTARY, POSITIONS_LEARNED };
enum qk_norm { QK_NORM_NONE, QK_NORM_HEAD /* over e, per head */, QK_NORM_ALL /* over H·e together */ };

/* Rotary embedding: the first `dim` dimensions of a head are turned. */
struct rotary {
    float theta;       /* base of layers that see everything */
    float theta_local; /* base of windowed layers, which are then not scaled; 0: all layers are alike */
    uint32_t dim;      /* even */
    bool adjacent;     /* pairs (2i, 2i+1) instead of (i, i + dim/2) */
    float linear;      /* positions are divided by it; 1: not */
    float attention;   /* cosine and sine are multiplied by it (long-rope); 1: not */
    struct {           /* Llama 3: low frequencies slowed; factor 0: not */
        float factor, low, high, context;
    } llama3;
    uint32_t n_divisor; /* dim/2, or 0: each pair's frequency is divided by its own number */
    float divisor[ROPE_PAIRS];
};

struct arch {
    const char *family;  /* "llama" */
    uint32_t n_layers;   /* L */
    uint32_t n_heads;    /* H, query heads */
    uint32_t n_kv_heads; /* G, key/value heads; H is a multiple of G */
    uint32_t d_head;     /* e */
    uint32_t d_model;    /* d, residual width */
    uint32_t d_mlp;      /* m */
    uint32_t d_vocab;    /* V */
    uint32_t context;    /* longest sequence, tokens */

    enum norm_kind norm;
    float norm_eps;
    float norm_offset;   /* 1 where a checkpoint stores gain − 1 */
    bool pre_norm;       /* branches read a normalised stream */
    bool post_norm;      /* branches' outputs are normalised before they are added */
    bool parallel;       /* attention and MLP read the same stream */
    bool one_norm;       /* ...through the same norm */
    enum qk_norm qk_norm;

    enum positions positions;
    struct rotary rotary;
    uint32_t window;     /* windowed layers see this many positions, themselves included; 0: none */
    uint64_t windowed[ARCH_LAYERS / 64]; /* bit per layer */
    float attn_scale;    /* scores are q·k times this: 1/sqrt(e) unless the file says otherwise */
    float attn_softcap;  /* scores become c·tanh(s/c); 0: not */

    enum activation act;
    bool gated;          /* act(gate)·up; otherwise act(up) */
    bool qkv_bias, o_bias, mlp_bias, head_bias;
    float embed_scale;   /* embeddings are multiplied by it; 1: not */
    float final_softcap; /* of logits; 0: not */
    bool tied_head;      /* the unembedding is the embedding */

    /* How matrices lie in the state dict. */
    bool input_major;    /* [in][out]: GPT-2's Conv1D */
    bool qkv_woven;      /* one tensor of rows [head][q e | k e | v e] (GPT-NeoX) */
};

static inline bool arch_windowed(const struct arch *a, uint32_t layer)
{
    return a->window && (a->windowed[layer / 64] >> (layer % 64) & 1);
}
static inline uint32_t arch_branches(const struct arch *a) { return a->gated ? 2 : 1; }

/* The weights of a block, whatever they are called (core/tensor.def). */
enum role {
#define ROLE(name, per_layer, dims, rows, cols, group, present) ROLE_##name,
#include "tensor.def"
#undef ROLE
    ROLE_COUNT
};
enum group { /* one memory block per layer and group */
    GROUP_EMBED, GROUP_POS_EMBED, GROUP_ATTN_NORM, GROUP_ATTN_NORM_B, GROUP_QKV, GROUP_QKV_B, GROUP_Q_NORM,
    GROUP_K_NORM, GROUP_O, GROUP_O_B, GROUP_ATTN_POST_NORM, GROUP_MLP_NORM, GROUP_MLP_NORM_B, GROUP_GATE_UP,
    GROUP_UP_B, GROUP_DOWN, GROUP_DOWN_B, GROUP_MLP_POST_NORM, GROUP_FINAL_NORM, GROUP_FINAL_NORM_B,
    GROUP_HEAD, GROUP_HEAD_B, GROUP_COUNT
};
/* Does a model of this description have it? Names decide besides (fused or split). */
bool arch_has(const struct arch *a, enum role r);
void arch_role_shape(const struct arch *a, enum role r, uint32_t *dims, uint32_t *rows, uint32_t *cols);

/* How a tensor of a file becomes the state dict's. */
enum relayout {
    AS_IS,
    ROTARY_PAIRS,  /* GGUF's llama: rows of a head are (0, e/2, 1, e/2+1, …) */
    TRANSPOSED,    /* GGUF stores [out][in] where the state dict has [in][out] */
    UNWOVEN,       /* GGUF stores [q|k|v] where the state dict weaves them by head */
    PLUS_ONE       /* GGUF stores gain where the state dict has gain − 1 */
};

enum { TENSOR_NAME_BYTES = 128 };

/* One tensor of a family: its role, its state-dict name and GGUF name (%u is the layer). */
struct tensor_name {
    enum role role;
    const char *hub;
    const char *gguf;
    enum relayout gguf_layout;
};
/* A name with its layer, in memory of the caller, which is returned. */
const char *tensor_spelled(const char *pattern, uint32_t layer, char out[TENSOR_NAME_BYTES]);

struct buf;          /* core/base/mem.h */
struct config_words; /* core/family/read_config.h */
struct family {
    const char *name;         /* our word for it */
    const char *gguf_name;    /* general.architecture; NULL: its models are written as another family's */
    const char *config_name;  /* config.json's model_type */
    const char *config_class; /* config.json's architectures, for those who load an export */
    const char *prefix;       /* of state-dict names, or "" */
    const char *other_prefix; /* what some checkpoints have in its place */
    const char *holder;       /* model_type of models that hold one of the family as text_config, or NULL */
    bool (*from_gguf)(const struct modelfile *f, struct arch *out, struct err *e); /* or NULL */
    bool (*from_config)(const struct json *config, struct arch *out, struct err *e);
    const struct tensor_name *names; /* ends with a NULL hub name */
    const struct config_words *words; /* what config.json calls the sizes */
    void (*to_config)(const struct arch *a, struct buf *out); /* what else it says, each line ends in ",\n" */
};

const struct family *family_at(size_t i); /* NULL past the end */

/* The first number in which two descriptions differ, by its name above; NULL: in none. */
const char *arch_differs(const struct arch *a, const struct arch *b);

/* Find the family and fill *out; proves all numbers sane (non-zero, products bounded). */
bool arch_read(const struct modelfile *f, struct arch *out, const struct family **family,
               struct err *e) MUST_CHECK;

/* The part of a config.json that describes the language model: the whole, or the text_config of a model
 * that holds one beside other parts (eyes). */
const struct json *arch_described_in(const struct json *config);
/* The same from a config.json alone. */
bool arch_from_config(const struct json *config, struct arch *out, const struct family **family,
                      struct err *e) MUST_CHECK;

/* Rotary frequencies [dim/2] of layers that see everything, or of windowed ones. */
void arch_frequencies(const struct arch *a, bool windowed, float *out);

#endif
