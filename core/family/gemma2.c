/* Gemma 2: soft-caps on scores and logits, a window in every other layer. */
#include <math.h>

#include "families.h"
#include "gemma.h"
#include "names.h"
#include "read_gguf.h"
#include "write_config.h"

const struct config_words gemma2_words = {CONFIG_WORDS, .eps_or = 1e-6, .head_width_or = 256, .activation = "hidden_activation",
                                          .activation_or = "gelu_pytorch_tanh", .tied_or = true};

const struct tensor_name gemma2_names[] = {
    NAMES_EMBED(PLUS_ONE), NAMES_GEMMA_NORMS, NAMES_Q_K_V(AS_IS), NAMES_Q_K_V_BIAS(AS_IS), NAMES_O, NAMES_O_BIAS,
    NAMES_GATE_UP, NAMES_DOWN, NAMES_END,
};

/* ---- shared with Gemma 3 --------------------------------------------------------------------------- */

void gemma_block(struct arch *a)
{
    a->norm_offset = 1;
    a->post_norm = true;
    a->act = ACT_GELU_TANH;
}

bool gemma_from_config(const struct json *c, const struct config_words *w, struct arch *a, struct err *e)
{
    float scalar;
    if (!config_sizes(c, w, a, e) || !config_attention_bias(c, false, a, e) ||
        !config_not(c, "use_bidirectional_attention", e) ||
        !config_number(c, "query_pre_attn_scalar", 256, &scalar, e) ||
        !config_int_or_off(c, "sliding_window", 4096, &a->window, e))
        return false;
    if (!(scalar > 0)) return err_set(e, ERR_CORRUPT, "config.json: \"query_pre_attn_scalar\" is %g", (double)scalar);
    a->attn_scale = 1.0f / sqrtf(scalar);
    a->embed_scale = (float)sqrt(a->d_model);
    return true;
}

bool gemma_from_gguf(const struct modelfile *f, uint32_t odd_layers, struct arch *a, struct err *e)
{
    if (!meta_sizes(f, a, e) || !meta_rotary(f, a, e) || !meta_rotary_whole(a, e)) return false;
    if (a->attn_scale == 0 && a->n_layers == odd_layers && a->n_heads)
        a->attn_scale = 1.0f / sqrtf((float)(a->d_model / a->n_heads));
    a->embed_scale = (float)sqrt(a->d_model);
    return true;
}

void gemma_to_config(const struct arch *a, struct buf *out)
{
    config_put_flag(out, "attention_bias", a->qkv_bias);
    config_put_number_or_null(out, "final_logit_softcapping", a->final_softcap);
    config_put_number_or_null(out, "attn_logit_softcapping", a->attn_softcap);
    config_put_integer(out, "query_pre_attn_scalar", (uint32_t)lroundf(1 / (a->attn_scale * a->attn_scale)));
    config_put_integer_or_null(out, "sliding_window", a->window);
    config_put_layer_types(out, a);
}

bool gemma_windowed(uint32_t layer, uint32_t period) { return period && layer % period + 1 < period; }

/* ---- Gemma 2's own --------------------------------------------------------------------------------- */

bool gemma2_from_config(const struct json *c, struct arch *a, struct err *e)
{
    gemma_block(a);
    return gemma_from_config(c, &gemma2_words, a, e) && config_rotary(c, a, e) && config_rotary_whole(a, e) &&
           config_number_or_off(c, "final_logit_softcapping", 30, &a->final_softcap, e) &&
           config_number_or_off(c, "attn_logit_softcapping", 50, &a->attn_softcap, e) &&
           config_layer_types(c, gemma_windowed, 2, a, e);
}

bool gemma2_from_gguf(const struct modelfile *f, struct arch *a, struct err *e)
{
    enum { LAYERS_OF_27B = 46 };
    gemma_block(a);
    return gemma_from_gguf(f, LAYERS_OF_27B, a, e) && meta_windows(f, 4096, 2, a, e) &&
           meta_number(f, "final_logit_softcapping", 30, &a->final_softcap, e) &&
           meta_number(f, "attn_logit_softcapping", 50, &a->attn_softcap, e);
}

void gemma2_to_config(const struct arch *a, struct buf *out)
{
    gemma_to_config(a, out);
    config_put_rotary(out, a);
}
