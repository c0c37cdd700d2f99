/* Reading config.json into a description: values with their defaults, and the parts that many
 * families share. Defaults are those of the family's class in transformers, because files may leave
 * out what equals them. What a file asks for and we do not compute is refused by name; keys that
 * change nothing about the computation (dropout, initialisation) are not looked at.
 *
 * Every function that can fail answers false after one sentence that begins with "config.json". Pure
 * functions over an immutable tree; any thread.
 */
#ifndef ENGRAM_READ_CONFIG_H
#define ENGRAM_READ_CONFIG_H

#include "core/arch.h"

/* What a family's config.json calls the sizes, and what holds where it is silent. */
struct config_words {
    const char *layers, *width, *heads, *mlp, *context, *eps, *activation;
    const char *kv_heads;      /* NULL: as many as heads */
    const char *head_width;    /* NULL: width / heads */
    const char *activation_or; /* where absent */
    double eps_or;
    uint32_t heads_or, kv_heads_or, vocabulary_or, context_or; /* 0: must be there; key/value: as many as heads */
    uint32_t head_width_or;    /* 0: width / heads */
    uint32_t mlp_widths;       /* an absent MLP width is so many widths; 0: it must be there */
    bool tied_or;
};
/* The words of Llama and most families since; a family adds its own defaults. */
#define CONFIG_WORDS                                                                               \
    .layers = "num_hidden_layers", .width = "hidden_size", .heads = "num_attention_heads",         \
    .kv_heads = "num_key_value_heads", .head_width = "head_dim", .mlp = "intermediate_size",       \
    .context = "max_position_embeddings", .eps = "rms_norm_eps"
/* GPT-2's and GPT-J's. */
#define CONFIG_WORDS_GPT                                                                           \
    .layers = "n_layer", .width = "n_embd", .heads = "n_head", .mlp = "n_inner", .mlp_widths = 4,  \
    .context = "n_positions", .eps = "layer_norm_epsilon", .eps_or = 1e-5,                         \
    .activation = "activation_function", .activation_or = "gelu_new"

/* The member, or NULL when it is absent or null. */
const struct json *config_get(const struct json *c, const char *key);
/* Absent or null: `otherwise`. */
bool config_int(const struct json *c, const char *key, uint32_t otherwise, uint32_t *out, struct err *e) MUST_CHECK;
bool config_real(const struct json *c, const char *key, double otherwise, double *out, struct err *e) MUST_CHECK;
bool config_number(const struct json *c, const char *key, double otherwise, float *out, struct err *e) MUST_CHECK;
bool config_flag(const struct json *c, const char *key, bool otherwise, bool *out, struct err *e) MUST_CHECK;
/* Absent: `otherwise`. null: 0, which switches the thing off. */
bool config_int_or_off(const struct json *c, const char *key, uint32_t otherwise, uint32_t *out, struct err *e) MUST_CHECK;
bool config_number_or_off(const struct json *c, const char *key, double otherwise, float *out, struct err *e) MUST_CHECK;
/* Refuse a file in which that flag is true. */
bool config_not(const struct json *c, const char *key, struct err *e) MUST_CHECK;

/* Refuse elements that are not the numbers their type says. */
bool config_not_quantised(const struct json *c, struct err *e) MUST_CHECK;
/* Sizes, epsilon, activation, tied head. */
bool config_sizes(const struct json *c, const struct config_words *w, struct arch *a, struct err *e) MUST_CHECK;
/* attention_bias: of all four projections. */
bool config_attention_bias(const struct json *c, bool otherwise, struct arch *a, struct err *e) MUST_CHECK;

/* Which layers are windowed: layer_types where the file lists them, otherwise those for which
 * `windowed` is true, given the layer and `n`. Windowed layers without a window are an error. */
bool config_layer_types(const struct json *c, bool (*windowed)(uint32_t layer, uint32_t n), uint32_t n,
                        struct arch *a, struct err *e) MUST_CHECK;
/* sliding_window (absent: `otherwise`; null: none) of every layer, in families that know no other. */
bool config_window(const struct json *c, uint32_t otherwise, struct arch *a, struct err *e) MUST_CHECK;

/* Rotary scaling and base, from rope_parameters (transformers 5) or rope_scaling and rope_theta. The
 * rotated part of a head is partial_rotary_factor of it. */
bool config_rotary(const struct json *c, struct arch *a, struct err *e) MUST_CHECK;
/* The same from one object of parameters (NULL: none), for families with several. */
bool config_rotary_of(const struct json *c, const struct json *parameters, double theta, struct arch *a,
                      struct err *e) MUST_CHECK;
/* The object of rotary parameters in the file, or NULL. */
const struct json *config_rotary_parameters(const struct json *c);
/* dim = that part of the head width. */
bool config_rotary_part(double part, struct arch *a, struct err *e) MUST_CHECK;
/* Refuse a file that turns only a part of each head. */
bool config_rotary_whole(const struct arch *a, struct err *e) MUST_CHECK;

/* The word for an activation, the family's own where it has several. */
const char *activation_word(enum activation act, const struct config_words *w);

#endif
