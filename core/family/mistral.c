/* Mistral: Llama's block, in which every layer may see a window only. As GGUF it is a file of the llama
 * architecture, which has no window. */
#include "families.h"
#include "names.h"
#include "write_config.h"

const struct config_words mistral_words = {CONFIG_WORDS, .eps_or = 1e-6, .activation = "hidden_act", .activation_or = "silu"};

const struct tensor_name mistral_names[] = {
    NAMES_EMBED(AS_IS), NAMES_PRE_NORMS, NAMES_Q_K_V(AS_IS), NAMES_O, NAMES_GATE_UP, NAMES_DOWN, NAMES_END,
};

bool mistral_from_config(const struct json *c, struct arch *a, struct err *e)
{
    return config_sizes(c, &mistral_words, a, e) && config_rotary(c, a, e) && config_rotary_whole(a, e) &&
           config_window(c, 4096, a, e);
}

void mistral_to_config(const struct arch *a, struct buf *out)
{
    config_put_integer_or_null(out, "sliding_window", a->window);
    config_put_rotary(out, a);
}
