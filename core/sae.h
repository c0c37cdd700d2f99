/* Sparse autoencoders of a hook's values, as SAELens keeps them: a folder with cfg.json and sae_weights.safetensors.
 *
 *     z = (x − μ)·s,  u = (z − [apply_b_dec_to_input] b_dec)·W_enc,  a = act(u),  x̂ = (a·W_dec + b_dec)/s' + μ
 *
 *     standard   a = max(0, u + b_enc)
 *     jumprelu   a = u + b_enc where that is above max(0, threshold), else 0               arXiv 2407.14435
 *     topk       a = max(0, u + b_enc) of the k largest, the lower number first among equals, else 0    arXiv 2406.04093
 *     gated      a = [u + b_gate > 0] · max(0, exp(r_mag)·u + b_mag)                       arXiv 2404.16014
 *
 *     none                   μ = 0, s = s' = 1
 *     layer_norm             μ the row's mean, 1/s' its standard deviation σ (of d − 1), s = 1/(σ + 1e-5)
 *     constant_norm_rescale  μ = 0, s = s' = √d / ‖x‖
 *
 * x [d], a [k], W_enc [d][k], W_dec [k][d]. Weights are widened to float32. Other normalisations are refused: of
 * expected_average_only_in the files do not have the factor. So are scalings that a file asks for besides
 * (finetuning_scaling_factor, rescale_acts_by_decoder_norm) and tensors that the kind does not have.
 *
 * d is the width of the hook; of a hook with heads that of one head (hook_head_index), or all side by side.
 *
 * Errors name the file, the tensor, the byte. Owned by whoever opened it; immutable, but the products are for the
 * compute thread alone.
 */
#ifndef ENGRAM_SAE_H
#define ENGRAM_SAE_H

#include "core/base/json.h"
#include "hook.h"

enum sae_kind {
#define SAE_KIND(name, word, activation) SAE_##name,
#include "sae.def"
    SAE_KINDS
};
enum sae_norm {
#define SAE_NORM(name, word) SAE_NORM_##name,
#include "sae.def"
    SAE_NORMS
};

enum { SAE_HOOK_TEXT = 128, SAE_ALL_HEADS = -1 };

struct sae_cfg {
    enum sae_kind kind;
    enum sae_norm norm;
    uint32_t width, features; /* d, k */
    uint32_t top;             /* topk: how many; else 0 */
    bool centred;             /* apply_b_dec_to_input */
    int32_t head;             /* hook_head_index, or SAE_ALL_HEADS */
    char hook[SAE_HOOK_TEXT]; /* as the file has it, "" where it has none */
};

struct sae {
    struct sae_cfg cfg;
#define SAE_TENSOR(field, name, rows, cols, kinds) float *field; /* NULL where the kind has none */
#include "sae.def"
};

/* ---- reading: core/sae_read.c -------------------------------------------------------------------- */

const char *sae_kind_word(enum sae_kind k);
const char *sae_norm_word(enum sae_norm n);

bool sae_cfg_read(const char *text, size_t len, struct sae_cfg *out, struct err *e) MUST_CHECK;
size_t sae_bytes(const struct sae_cfg *c); /* what the weights take */
/* The file of weights for that description. */
struct sae *sae_read(const struct sae_cfg *c, const char *path, struct err *e) MUST_CHECK;
void sae_free(struct sae *s);

/* Where it belongs in a model: at `name`, or where it is NULL at the hook that the cfg names. Refused where the widths
 * differ. */
bool sae_site(const struct sae_cfg *c, const struct arch *a, const char *name, struct site *out, struct err *e) MUST_CHECK;

/* ---- computing: core/sae.c ----------------------------------------------------------------------- */

/* Floats of passing values for m rows at a time. */
size_t sae_work(const struct sae_cfg *c, size_t m);
/* a [m][k] ← of x [m][ldx]. */
void sae_encode(const struct sae *s, size_t m, const float *x, size_t ldx, float *work, float *a);
/* y [m][d] ← what a is decoded to; x, which it came from, says μ and s. */
void sae_decode(const struct sae *s, size_t m, const float *x, size_t ldx, const float *a, float *y);

/* Activation of one feature of one row. work: of one row, and of topk k floats more. */
float sae_activation(const struct sae *s, uint32_t feature, const float *x, float *work);
/* x̂ changes by that when the feature's activation grows by `by`: x += by · W_dec[feature]/s'. The largest change. */
float sae_add(const struct sae *s, uint32_t feature, float by, float *x);

#endif
