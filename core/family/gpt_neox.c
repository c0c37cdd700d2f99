/* GPT-NeoX and Pythia: LayerNorm, biases, attention and MLP side by side with a norm each (or one
 * after the other), query, key and value woven by head, a rotated part of each head. */
#include "families.h"
#include "names.h"
#include "read_gguf.h"
#include "write_config.h"

const struct config_words gpt_neox_words = {
    .layers = "num_hidden_layers", .width = "hidden_size", .heads = "num_attention_heads", .mlp = "intermediate_size",
    .context = "max_position_embeddings", .eps = "layer_norm_eps", .eps_or = 1e-5, .activation = "hidden_act",
    .activation_or = "gelu"};

#define BLOCK "gpt_neox.layers.%u."
const struct tensor_name gpt_neox_names[] = {
    {ROLE_EMBED, "gpt_neox.embed_in.weight", "token_embd.weight", AS_IS},
    {ROLE_ATTN_NORM, BLOCK "input_layernorm.weight", "blk.%u.attn_norm.weight", AS_IS},
    {ROLE_ATTN_NORM_B, BLOCK "input_layernorm.bias", "blk.%u.attn_norm.bias", AS_IS},
    {ROLE_QKV, BLOCK "attention.query_key_value.weight", "blk.%u.attn_qkv.weight", UNWOVEN},
    {ROLE_QKV_B, BLOCK "attention.query_key_value.bias", "blk.%u.attn_qkv.bias", UNWOVEN},
    {ROLE_O, BLOCK "attention.dense.weight", "blk.%u.attn_output.weight", AS_IS},
    {ROLE_O_B, BLOCK "attention.dense.bias", "blk.%u.attn_output.bias", AS_IS},
    {ROLE_MLP_NORM, BLOCK "post_attention_layernorm.weight", "blk.%u.ffn_norm.weight", AS_IS},
    {ROLE_MLP_NORM_B, BLOCK "post_attention_layernorm.bias", "blk.%u.ffn_norm.bias", AS_IS},
    {ROLE_UP, BLOCK "mlp.dense_h_to_4h.weight", "blk.%u.ffn_up.weight", AS_IS},
    {ROLE_UP_B, BLOCK "mlp.dense_h_to_4h.bias", "blk.%u.ffn_up.bias", AS_IS},
    {ROLE_DOWN, BLOCK "mlp.dense_4h_to_h.weight", "blk.%u.ffn_down.weight", AS_IS},
    {ROLE_DOWN_B, BLOCK "mlp.dense_4h_to_h.bias", "blk.%u.ffn_down.bias", AS_IS},
    {ROLE_FINAL_NORM, "gpt_neox.final_layer_norm.weight", "output_norm.weight", AS_IS},
    {ROLE_FINAL_NORM_B, "gpt_neox.final_layer_norm.bias", "output_norm.bias", AS_IS},
    {ROLE_HEAD, "embed_out.weight", "output.weight", AS_IS},
    NAMES_END,
};

static void gpt_neox_block(struct arch *a)
{
    a->norm = NORM_LAYER;
    a->parallel = true;
    a->act = ACT_GELU_ERF;
    a->gated = false;
    a->mlp_bias = true;
    a->qkv_woven = true;
}

bool gpt_neox_from_config(const struct json *c, struct arch *a, struct err *e)
{
    const struct json *p = config_rotary_parameters(c);
    double theta = 0, part = 0;
    gpt_neox_block(a);
    return config_sizes(c, &gpt_neox_words, a, e) && config_attention_bias(c, true, a, e) &&
           config_flag(c, "use_parallel_residual", true, &a->parallel, e) &&
           config_real(c, "rotary_emb_base", 10000, &theta, e) && config_rotary_of(c, p, theta, a, e) &&
           config_real(c, "rotary_pct", 0.25, &part, e) &&
           config_real(p, "partial_rotary_factor", part, &part, e) && config_rotary_part(part, a, e);
}

bool gpt_neox_from_gguf(const struct modelfile *f, struct arch *a, struct err *e)
{
    gpt_neox_block(a);
    return meta_sizes(f, a, e) && meta_rotary(f, a, e) &&
           meta_flag(f, "use_parallel_residual", true, &a->parallel, e);
}

void gpt_neox_to_config(const struct arch *a, struct buf *out)
{
    config_put_flag(out, "use_parallel_residual", a->parallel);
    config_put_flag(out, "attention_bias", a->qkv_bias);
    config_put_number(out, "rotary_emb_base", a->rotary.theta);
    config_put_number(out, "rotary_pct", (float)a->rotary.dim / (float)a->d_head);
    config_put_rotary_scaling(out, a);
}
