/* Qwen 2 and 2.5: Llama's block with biases on query, key and value. */
#include "families.h"
#include "names.h"
#include "qwen.h"
#include "read_gguf.h"
#include "write_config.h"

const struct config_words qwen2_words = {CONFIG_WORDS, .eps_or = 1e-6, .activation = "hidden_act", .activation_or = "silu"};

const struct tensor_name qwen2_names[] = {
    NAMES_EMBED(AS_IS), NAMES_PRE_NORMS, NAMES_Q_K_V(AS_IS), NAMES_Q_K_V_BIAS(AS_IS), NAMES_O, NAMES_GATE_UP,
    NAMES_DOWN, NAMES_END,
};

static bool upper(uint32_t layer, uint32_t first) { return layer >= first; }

bool qwen_windows(const struct json *c, struct arch *a, struct err *e)
{
    bool used;
    uint32_t first;
    if (!config_flag(c, "use_sliding_window", false, &used, e) ||
        !config_int_or_off(c, "sliding_window", 4096, &a->window, e) || !config_int(c, "max_window_layers", 28, &first, e))
        return false;
    if (!used) a->window = 0;
    return config_layer_types(c, upper, a->window ? first : UINT32_MAX, a, e);
}

void qwen_windows_to_config(const struct arch *a, struct buf *out)
{
    config_put_flag(out, "use_sliding_window", a->window != 0);
    config_put_integer_or_null(out, "sliding_window", a->window);
    config_put_layer_types(out, a);
}

bool qwen2_from_config(const struct json *c, struct arch *a, struct err *e)
{
    a->qkv_bias = true;
    return config_sizes(c, &qwen2_words, a, e) && qwen_windows(c, a, e) && config_rotary(c, a, e) &&
           config_rotary_whole(a, e);
}

bool qwen2_from_gguf(const struct modelfile *f, struct arch *a, struct err *e)
{
    return meta_sizes(f, a, e) && meta_rotary(f, a, e) && meta_rotary_whole(a, e) && meta_windows(f, 0, 0, a, e);
}

void qwen2_to_config(const struct arch *a, struct buf *out)
{
    qwen_windows_to_config(a, out);
    config_put_rotary(out, a);
}
