/* Rows that tensor lists of families have in common (struct tensor_name). %u is the layer.
 *
 * `q_k` is how a GGUF lays out the rows of query and key: ROTARY_PAIRS in files of the llama
 * architecture, AS_IS in all others. `gain` is PLUS_ONE where checkpoints store gain − 1.
 */
#ifndef ENGRAM_NAMES_H
#define ENGRAM_NAMES_H

#include "core/arch.h"

/* ROLE_Q … ROLE_DOWN as transformers names them since Llama, and as llama.cpp does for all families. */
#define NAMES_EMBED(gain)                                                                          \
    {ROLE_EMBED, "model.embed_tokens.weight", "token_embd.weight", AS_IS},                         \
    {ROLE_FINAL_NORM, "model.norm.weight", "output_norm.weight", gain},                            \
    {ROLE_HEAD, "lm_head.weight", "output.weight", AS_IS}

#define NAMES_Q_K_V(q_k)                                                                           \
    {ROLE_Q, "model.layers.%u.self_attn.q_proj.weight", "blk.%u.attn_q.weight", q_k},              \
    {ROLE_K, "model.layers.%u.self_attn.k_proj.weight", "blk.%u.attn_k.weight", q_k},              \
    {ROLE_V, "model.layers.%u.self_attn.v_proj.weight", "blk.%u.attn_v.weight", AS_IS}

#define NAMES_Q_K_V_BIAS(q_k)                                                                      \
    {ROLE_Q_B, "model.layers.%u.self_attn.q_proj.bias", "blk.%u.attn_q.bias", q_k},                \
    {ROLE_K_B, "model.layers.%u.self_attn.k_proj.bias", "blk.%u.attn_k.bias", q_k},                \
    {ROLE_V_B, "model.layers.%u.self_attn.v_proj.bias", "blk.%u.attn_v.bias", AS_IS}

#define NAMES_Q_K_NORM(gain)                                                                       \
    {ROLE_Q_NORM, "model.layers.%u.self_attn.q_norm.weight", "blk.%u.attn_q_norm.weight", gain},   \
    {ROLE_K_NORM, "model.layers.%u.self_attn.k_norm.weight", "blk.%u.attn_k_norm.weight", gain}

#define NAMES_O {ROLE_O, "model.layers.%u.self_attn.o_proj.weight", "blk.%u.attn_output.weight", AS_IS}
#define NAMES_O_BIAS {ROLE_O_B, "model.layers.%u.self_attn.o_proj.bias", "blk.%u.attn_output.bias", AS_IS}

#define NAMES_GATE_UP                                                                              \
    {ROLE_GATE, "model.layers.%u.mlp.gate_proj.weight", "blk.%u.ffn_gate.weight", AS_IS},          \
    {ROLE_UP, "model.layers.%u.mlp.up_proj.weight", "blk.%u.ffn_up.weight", AS_IS}
#define NAMES_DOWN {ROLE_DOWN, "model.layers.%u.mlp.down_proj.weight", "blk.%u.ffn_down.weight", AS_IS}

/* Norms before the two branches (Llama's confusing second name), and around them (Gemma's). */
#define NAMES_PRE_NORMS                                                                            \
    {ROLE_ATTN_NORM, "model.layers.%u.input_layernorm.weight", "blk.%u.attn_norm.weight", AS_IS},  \
    {ROLE_MLP_NORM, "model.layers.%u.post_attention_layernorm.weight", "blk.%u.ffn_norm.weight", AS_IS}
#define NAMES_POST_NORMS(gain)                                                                     \
    {ROLE_ATTN_POST_NORM, "model.layers.%u.post_attention_layernorm.weight",                       \
     "blk.%u.post_attention_norm.weight", gain},                                                   \
    {ROLE_MLP_POST_NORM, "model.layers.%u.post_feedforward_layernorm.weight",                      \
     "blk.%u.post_ffw_norm.weight", gain}
#define NAMES_GEMMA_NORMS                                                                          \
    {ROLE_ATTN_NORM, "model.layers.%u.input_layernorm.weight", "blk.%u.attn_norm.weight", PLUS_ONE}, \
    {ROLE_MLP_NORM, "model.layers.%u.pre_feedforward_layernorm.weight", "blk.%u.ffn_norm.weight", PLUS_ONE}, \
    NAMES_POST_NORMS(PLUS_ONE)

#define NAMES_END {.hub = NULL}

#endif
