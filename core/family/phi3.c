/* Phi-3, 3.5 and 4: Llama's block with fused matrices, a rotated part of each head, windows in all
 * layers, and long-rope. */
#include "families.h"
#include "names.h"
#include "read_gguf.h"
#include "write_config.h"

const struct config_words phi3_words = {CONFIG_WORDS, .eps_or = 1e-5, .activation = "hidden_act", .activation_or = "silu"};

const struct tensor_name phi3_names[] = {
    NAMES_EMBED(AS_IS), NAMES_PRE_NORMS, NAMES_O, NAMES_DOWN,
    {ROLE_QKV, "model.layers.%u.self_attn.qkv_proj.weight", "blk.%u.attn_qkv.weight", AS_IS},
    {ROLE_GATE_UP, "model.layers.%u.mlp.gate_up_proj.weight", "blk.%u.ffn_up.weight", AS_IS},
    NAMES_END,
};

bool phi3_from_config(const struct json *c, struct arch *a, struct err *e)
{
    return config_sizes(c, &phi3_words, a, e) && config_rotary(c, a, e) && config_window(c, 0, a, e);
}

/* llama.cpp writes the window into files and leaves it out of the computation; transformers does not. */
bool phi3_from_gguf(const struct modelfile *f, struct arch *a, struct err *e)
{
    return meta_sizes(f, a, e) && meta_rotary(f, a, e) && meta_windows(f, 0, 0, a, e);
}

void phi3_to_config(const struct arch *a, struct buf *out)
{
    config_put_integer(out, "original_max_position_embeddings", a->context);
    config_put_number(out, "partial_rotary_factor", (float)a->rotary.dim / (float)a->d_head);
    config_put_integer_or_null(out, "sliding_window", a->window);
    config_put_rotary(out, a);
}
