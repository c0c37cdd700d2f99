/* OLMo 2: norms only after the branches, and one norm over all query heads and one over all key heads. */
#include "families.h"
#include "names.h"
#include "read_gguf.h"
#include "write_config.h"

const struct config_words olmo2_words = {CONFIG_WORDS, .eps_or = 1e-5, .activation = "hidden_act", .activation_or = "silu"};

const struct tensor_name olmo2_names[] = {
    NAMES_EMBED(AS_IS), NAMES_POST_NORMS(AS_IS), NAMES_Q_K_V(AS_IS), NAMES_Q_K_V_BIAS(AS_IS), NAMES_Q_K_NORM(AS_IS),
    NAMES_O, NAMES_O_BIAS, NAMES_GATE_UP, NAMES_DOWN, NAMES_END,
};

static void olmo2_block(struct arch *a)
{
    a->pre_norm = false;
    a->post_norm = true;
    a->qk_norm = QK_NORM_ALL;
}

bool olmo2_from_config(const struct json *c, struct arch *a, struct err *e)
{
    olmo2_block(a);
    return config_sizes(c, &olmo2_words, a, e) && config_attention_bias(c, false, a, e) && config_rotary(c, a, e) &&
           config_rotary_whole(a, e);
}

bool olmo2_from_gguf(const struct modelfile *f, struct arch *a, struct err *e)
{
    olmo2_block(a);
    if (!meta_sizes(f, a, e) || !meta_rotary(f, a, e) || !meta_rotary_whole(a, e) || !meta_windows(f, 0, 0, a, e))
        return false;
    return !a->window || err_set(e, ERR_UNSUPPORTED, "a window of %u positions is not supported by this family", a->window);
}

void olmo2_to_config(const struct arch *a, struct buf *out)
{
    config_put_flag(out, "attention_bias", a->qkv_bias);
    config_put_rotary(out, a);
}
