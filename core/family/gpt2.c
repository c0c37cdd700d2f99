/* GPT-2: LayerNorm, learned positions, biases everywhere, a fused and input-major query|key|value. */
#include "families.h"
#include "names.h"
#include "read_gguf.h"
#include "write_config.h"

const struct config_words gpt2_words = {CONFIG_WORDS_GPT, .tied_or = true};

#define BLOCK "transformer.h.%u."
const struct tensor_name gpt2_names[] = {
    {ROLE_EMBED, "transformer.wte.weight", "token_embd.weight", AS_IS},
    {ROLE_POS_EMBED, "transformer.wpe.weight", "position_embd.weight", AS_IS},
    {ROLE_ATTN_NORM, BLOCK "ln_1.weight", "blk.%u.attn_norm.weight", AS_IS},
    {ROLE_ATTN_NORM_B, BLOCK "ln_1.bias", "blk.%u.attn_norm.bias", AS_IS},
    {ROLE_QKV, BLOCK "attn.c_attn.weight", "blk.%u.attn_qkv.weight", TRANSPOSED},
    {ROLE_QKV_B, BLOCK "attn.c_attn.bias", "blk.%u.attn_qkv.bias", AS_IS},
    {ROLE_O, BLOCK "attn.c_proj.weight", "blk.%u.attn_output.weight", TRANSPOSED},
    {ROLE_O_B, BLOCK "attn.c_proj.bias", "blk.%u.attn_output.bias", AS_IS},
    {ROLE_MLP_NORM, BLOCK "ln_2.weight", "blk.%u.ffn_norm.weight", AS_IS},
    {ROLE_MLP_NORM_B, BLOCK "ln_2.bias", "blk.%u.ffn_norm.bias", AS_IS},
    {ROLE_UP, BLOCK "mlp.c_fc.weight", "blk.%u.ffn_up.weight", TRANSPOSED},
    {ROLE_UP_B, BLOCK "mlp.c_fc.bias", "blk.%u.ffn_up.bias", AS_IS},
    {ROLE_DOWN, BLOCK "mlp.c_proj.weight", "blk.%u.ffn_down.weight", TRANSPOSED},
    {ROLE_DOWN_B, BLOCK "mlp.c_proj.bias", "blk.%u.ffn_down.bias", AS_IS},
    {ROLE_FINAL_NORM, "transformer.ln_f.weight", "output_norm.weight", AS_IS},
    {ROLE_FINAL_NORM_B, "transformer.ln_f.bias", "output_norm.bias", AS_IS},
    {ROLE_HEAD, "lm_head.weight", "output.weight", AS_IS},
    NAMES_END,
};

static void gpt2_block(struct arch *a)
{
    a->norm = NORM_LAYER;
    a->positions = POSITIONS_LEARNED;
    a->act = ACT_GELU_TANH;
    a->gated = false;
    a->qkv_bias = a->o_bias = a->mlp_bias = true;
    a->input_major = true;
}

/* reorder_and_upcast_attn says in which order and type the same scores are computed. */
bool gpt2_from_config(const struct json *c, struct arch *a, struct err *e)
{
    bool scaled;
    gpt2_block(a);
    if (!config_sizes(c, &gpt2_words, a, e) || !config_not(c, "scale_attn_by_inverse_layer_idx", e) ||
        !config_not(c, "add_cross_attention", e) || !config_flag(c, "scale_attn_weights", true, &scaled, e))
        return false;
    if (!scaled) a->attn_scale = 1;
    return true;
}

bool gpt2_from_gguf(const struct modelfile *f, struct arch *a, struct err *e)
{
    gpt2_block(a);
    return meta_sizes(f, a, e);
}

void gpt2_to_config(const struct arch *a, struct buf *out)
{
    config_put_flag(out, "scale_attn_weights", a->attn_scale != 1 || a->d_head == 1);
}
