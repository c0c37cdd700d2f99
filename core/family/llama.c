/* Llama 1 to 3.2 and everything published in its shape (SmolLM, TinyLlama, …): RMSNorm before both
 * branches, rotary halves, grouped-query attention, gated SiLU. */
#include "families.h"
#include "names.h"
#include "read_gguf.h"
#include "write_config.h"

const struct config_words llama_words = {CONFIG_WORDS, .eps_or = 1e-6, .activation = "hidden_act", .activation_or = "silu"};

const struct tensor_name llama_names[] = {
    NAMES_EMBED(AS_IS), NAMES_PRE_NORMS, NAMES_Q_K_V(ROTARY_PAIRS), NAMES_Q_K_V_BIAS(ROTARY_PAIRS),
    NAMES_O, NAMES_O_BIAS, NAMES_GATE_UP, NAMES_DOWN, NAMES_END,
};

bool llama_from_config(const struct json *c, struct arch *a, struct err *e)
{
    return config_sizes(c, &llama_words, a, e) && config_attention_bias(c, false, a, e) &&
           config_not(c, "mlp_bias", e) && config_rotary(c, a, e) && config_rotary_whole(a, e);
}

/* Files of Mistral come under this name too; they say nothing of its window. */
bool llama_from_gguf(const struct modelfile *f, struct arch *a, struct err *e)
{
    if (!meta_sizes(f, a, e) || !meta_rotary(f, a, e) || !meta_rotary_whole(a, e) || !meta_windows(f, 0, 0, a, e))
        return false;
    return !a->window || err_set(e, ERR_UNSUPPORTED, "a window of %u positions is not supported by this family", a->window);
}

void llama_to_config(const struct arch *a, struct buf *out)
{
    config_put_flag(out, "attention_bias", a->qkv_bias);
    config_put_flag(out, "mlp_bias", false);
    config_put_rotary(out, a);
}
