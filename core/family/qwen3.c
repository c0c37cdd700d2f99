/* Qwen 3: Llama's block with a norm of each query and key head, and heads of a width of their own. */
#include "families.h"
#include "names.h"
#include "qwen.h"
#include "read_gguf.h"
#include "write_config.h"

const struct config_words qwen3_words = {CONFIG_WORDS, .eps_or = 1e-6, .head_width_or = 128, .activation = "hidden_act",
                                         .activation_or = "silu"};

const struct tensor_name qwen3_names[] = {
    NAMES_EMBED(AS_IS), NAMES_PRE_NORMS, NAMES_Q_K_V(AS_IS), NAMES_Q_K_V_BIAS(AS_IS), NAMES_Q_K_NORM(AS_IS),
    NAMES_O, NAMES_O_BIAS, NAMES_GATE_UP, NAMES_DOWN, NAMES_END,
};

bool qwen3_from_config(const struct json *c, struct arch *a, struct err *e)
{
    a->qk_norm = QK_NORM_HEAD;
    return config_sizes(c, &qwen3_words, a, e) && config_attention_bias(c, false, a, e) && qwen_windows(c, a, e) &&
           config_rotary(c, a, e) && config_rotary_whole(a, e);
}

bool qwen3_from_gguf(const struct modelfile *f, struct arch *a, struct err *e)
{
    a->qk_norm = QK_NORM_HEAD;
    return meta_sizes(f, a, e) && meta_rotary(f, a, e) && meta_rotary_whole(a, e) && meta_windows(f, 0, 0, a, e);
}

void qwen3_to_config(const struct arch *a, struct buf *out)
{
    config_put_flag(out, "attention_bias", a->qkv_bias);
    qwen_windows_to_config(a, out);
    config_put_rotary(out, a);
}
