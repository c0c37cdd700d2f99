/* GPT-J: LayerNorm, attention and MLP side by side under one norm, no biases in attention, a bias on
 * the logits, adjacent dimensions of a part of each head turned together. */
#include "families.h"
#include "names.h"
#include "read_gguf.h"
#include "write_config.h"

const struct config_words gptj_words = {CONFIG_WORDS_GPT};

#define BLOCK "transformer.h.%u."
const struct tensor_name gptj_names[] = {
    {ROLE_EMBED, "transformer.wte.weight", "token_embd.weight", AS_IS},
    {ROLE_ATTN_NORM, BLOCK "ln_1.weight", "blk.%u.attn_norm.weight", AS_IS},
    {ROLE_ATTN_NORM_B, BLOCK "ln_1.bias", "blk.%u.attn_norm.bias", AS_IS},
    {ROLE_Q, BLOCK "attn.q_proj.weight", "blk.%u.attn_q.weight", AS_IS},
    {ROLE_K, BLOCK "attn.k_proj.weight", "blk.%u.attn_k.weight", AS_IS},
    {ROLE_V, BLOCK "attn.v_proj.weight", "blk.%u.attn_v.weight", AS_IS},
    {ROLE_O, BLOCK "attn.out_proj.weight", "blk.%u.attn_output.weight", AS_IS},
    {ROLE_UP, BLOCK "mlp.fc_in.weight", "blk.%u.ffn_up.weight", AS_IS},
    {ROLE_UP_B, BLOCK "mlp.fc_in.bias", "blk.%u.ffn_up.bias", AS_IS},
    {ROLE_DOWN, BLOCK "mlp.fc_out.weight", "blk.%u.ffn_down.weight", AS_IS},
    {ROLE_DOWN_B, BLOCK "mlp.fc_out.bias", "blk.%u.ffn_down.bias", AS_IS},
    {ROLE_FINAL_NORM, "transformer.ln_f.weight", "output_norm.weight", AS_IS},
    {ROLE_FINAL_NORM_B, "transformer.ln_f.bias", "output_norm.bias", AS_IS},
    {ROLE_HEAD, "lm_head.weight", "output.weight", AS_IS},
    {ROLE_HEAD_B, "lm_head.bias", "output.bias", AS_IS},
    NAMES_END,
};

static void gptj_block(struct arch *a)
{
    a->norm = NORM_LAYER;
    a->parallel = a->one_norm = true;
    a->act = ACT_GELU_TANH;
    a->gated = false;
    a->mlp_bias = a->head_bias = true;
    a->rotary.theta = 10000;
    a->rotary.adjacent = true;
}

bool gptj_from_config(const struct json *c, struct arch *a, struct err *e)
{
    gptj_block(a);
    return config_sizes(c, &gptj_words, a, e) && config_int_or_off(c, "rotary_dim", 64, &a->rotary.dim, e);
}

bool gptj_from_gguf(const struct modelfile *f, struct arch *a, struct err *e)
{
    gptj_block(a);
    return meta_sizes(f, a, e) && meta_rotary(f, a, e);
}

void gptj_to_config(const struct arch *a, struct buf *out) { config_put_integer(out, "rotary_dim", a->rotary.dim); }
