/* Gemma 3, text: norms of query and key heads, and two rotary bases: five layers of six see a window
 * and turn by the lower base; the sixth sees everything, turns by the higher one and may be scaled. */
#include <string.h>

#include "families.h"
#include "gemma.h"
#include "names.h"
#include "read_gguf.h"
#include "write_config.h"

const struct config_words gemma3_words = {CONFIG_WORDS, .eps_or = 1e-6, .heads_or = 8, .kv_heads_or = 4, .vocabulary_or = 262208,
                                          .context_or = 131072, .head_width_or = 256, .activation = "hidden_activation",
                                          .activation_or = "gelu_pytorch_tanh", .tied_or = true};

const struct tensor_name gemma3_names[] = {
    NAMES_EMBED(PLUS_ONE), NAMES_GEMMA_NORMS, NAMES_Q_K_V(AS_IS), NAMES_Q_K_V_BIAS(AS_IS), NAMES_Q_K_NORM(PLUS_ONE),
    NAMES_O, NAMES_O_BIAS, NAMES_GATE_UP, NAMES_DOWN, NAMES_END,
};

enum { PERIOD = 6, LOCAL_BASE = 10000, GLOBAL_BASE = 1000000 };

static void gemma3_block(struct arch *a)
{
    gemma_block(a);
    a->qk_norm = QK_NORM_HEAD;
}

/* transformers 5: one object per layer type. */
static bool rotary_by_layer_type(const struct json *c, const struct json *p, struct arch *a, struct err *e)
{
    const struct json *local = config_get(p, "sliding_attention"), *global = config_get(p, "full_attention");
    const struct json *type = config_get(local, "rope_type");
    if (type && (type->type != JSON_STRING || strcmp(type->text, "default") != 0))
        return err_set(e, ERR_UNSUPPORTED, "config.json: scaled rotary of windowed layers is not supported");
    return config_rotary_of(c, global, GLOBAL_BASE, a, e) &&
           config_number(local, "rope_theta", LOCAL_BASE, &a->rotary.theta_local, e);
}

static bool rotary(const struct json *c, struct arch *a, struct err *e)
{
    const struct json *p = config_rotary_parameters(c);
    double theta = 0;
    a->rotary.dim = a->d_head;
    if (config_get(p, "full_attention") || config_get(p, "sliding_attention")) return rotary_by_layer_type(c, p, a, e);
    return config_real(c, "rope_theta", GLOBAL_BASE, &theta, e) && config_rotary_of(c, p, theta, a, e) &&
           config_number(c, "rope_local_base_freq", LOCAL_BASE, &a->rotary.theta_local, e);
}

/* Neither transformers nor llama.cpp soft-caps scores here, whatever the file says. */
static bool no_score_cap(const struct json *c, struct err *e)
{
    return !config_get(c, "attn_logit_softcapping") ||
           err_set(e, ERR_UNSUPPORTED, "config.json: \"attn_logit_softcapping\" is not supported by this family");
}

bool gemma3_from_config(const struct json *c, struct arch *a, struct err *e)
{
    uint32_t period;
    gemma3_block(a);
    return gemma_from_config(c, &gemma3_words, a, e) && no_score_cap(c, e) && rotary(c, a, e) &&
           config_number_or_off(c, "final_logit_softcapping", 0, &a->final_softcap, e) &&
           config_int(c, "sliding_window_pattern", PERIOD, &period, e) &&
           config_layer_types(c, gemma_windowed, period, a, e);
}

bool gemma3_from_gguf(const struct modelfile *f, struct arch *a, struct err *e)
{
    enum { LAYERS_OF_27B = 62 };
    gemma3_block(a);
    return gemma_from_gguf(f, LAYERS_OF_27B, a, e) && meta_windows(f, 0, PERIOD, a, e) &&
           meta_number(f, "final_logit_softcapping", 0, &a->final_softcap, e) &&
           meta_number(f, "rope.freq_base_swa", LOCAL_BASE, &a->rotary.theta_local, e);
}

void gemma3_to_config(const struct arch *a, struct buf *out)
{
    gemma_to_config(a, out);
    config_put_rotary(out, a);
    config_put_number(out, "rope_local_base_freq", a->rotary.theta_local);
}
