/* Llama and what shares its block: RMSNorm, rotary halves over the whole head, grouped-query
 * attention without biases, gated SiLU, tied or untied head. */
#include <string.h>

#include "arch_families.h"

static bool want_int(const struct gguf *g, const char *key, uint32_t *out, struct err *e)
{
    int64_t v;
    if (!gguf_int(g, key, &v)) return err_set(e, ERR_CORRUPT, "%s is absent or no integer", key);
    if (v < 0 || v > UINT32_MAX) return err_set(e, ERR_CORRUPT, "%s is %lld", key, (long long)v);
    *out = (uint32_t)v;
    return true;
}

bool llama_from_gguf(const struct gguf *g, struct arch *a, struct err *e)
{
    double eps, theta = 10000.0, factor;
    const char *scaling;
    uint32_t rope_dim;
    struct gguf_strings tokens;
    if (!want_int(g, "llama.block_count", &a->n_layers, e) ||
        !want_int(g, "llama.context_length", &a->context, e) ||
        !want_int(g, "llama.embedding_length", &a->d_model, e) ||
        !want_int(g, "llama.feed_forward_length", &a->d_mlp, e) ||
        !want_int(g, "llama.attention.head_count", &a->n_heads, e))
        return false;
    int64_t v;
    a->n_kv_heads = a->n_heads;
    if (gguf_int(g, "llama.attention.head_count_kv", &v) && v > 0 && v <= UINT32_MAX)
        a->n_kv_heads = (uint32_t)v;
    a->d_head = a->n_heads ? a->d_model / a->n_heads : 0;
    if (gguf_int(g, "llama.attention.key_length", &v) && v > 0 && v <= UINT32_MAX)
        a->d_head = (uint32_t)v;
    if (gguf_int(g, "llama.attention.value_length", &v) && v != a->d_head)
        return err_set(e, ERR_UNSUPPORTED, "llama.attention.value_length %lld differs from the key's",
                       (long long)v);
    if (!gguf_float(g, "llama.attention.layer_norm_rms_epsilon", &eps))
        return err_set(e, ERR_CORRUPT, "llama.attention.layer_norm_rms_epsilon is absent");
    (void)gguf_float(g, "llama.rope.freq_base", &theta);
    rope_dim = a->d_head;
    if (gguf_int(g, "llama.rope.dimension_count", &v)) rope_dim = (uint32_t)v;
    if (rope_dim != a->d_head)
        return err_set(e, ERR_UNSUPPORTED, "partial rotary: %u of %u dimensions", rope_dim, a->d_head);
    if (gguf_text(g, "llama.rope.scaling.type", &scaling) && strcmp(scaling, "none") != 0)
        return err_set(e, ERR_UNSUPPORTED, "rotary scaling \"%s\"", scaling);
    if (gguf_float(g, "llama.rope.scale_linear", &factor) && factor != 1.0)
        return err_set(e, ERR_UNSUPPORTED, "linear rotary scaling by %g", factor);
    if (gguf_int(g, "llama.expert_count", &v) && v > 0)
        return err_set(e, ERR_UNSUPPORTED, "a mixture of %lld experts", (long long)v);
    /* The token list is the authority on the vocabulary; the key is often absent. */
    if (gguf_string_array(g, "tokenizer.ggml.tokens", &tokens)) a->d_vocab = (uint32_t)tokens.n;
    else if (!want_int(g, "llama.vocab_size", &a->d_vocab, e)) return false;
    a->norm_eps = (float)eps;
    a->rope_theta = (float)theta;
    return true; /* a GGUF without output.weight ties its head; model.c looks */
}

static bool want(const struct json *c, const char *key, uint32_t *out, struct err *e)
{
    const struct json *v = json_get(c, key);
    if (!v || v->type != JSON_NUMBER || !v->is_int || v->integer < 0 || v->integer > UINT32_MAX)
        return err_set(e, ERR_CORRUPT, "config.json: \"%s\" is absent or no non-negative integer", key);
    *out = (uint32_t)v->integer;
    return true;
}

static bool is_set(const struct json *v) { return v && v->type != JSON_NULL; }

/* Newer configs put the rotary numbers into rope_parameters, older ones at the top. */
static bool rotary(const struct json *c, struct arch *a, struct err *e)
{
    const struct json *scaling = json_get(c, "rope_scaling"), *params = json_get(c, "rope_parameters");
    const struct json *theta = json_get(is_set(params) ? params : c, "rope_theta");
    if (!is_set(theta)) theta = json_get(c, "rope_theta");
    const struct json *block = is_set(params) ? params : scaling;
    const struct json *type = json_get(block, "rope_type");
    if (!is_set(type)) type = json_get(block, "type");
    if (is_set(type) && (type->type != JSON_STRING || strcmp(type->text, "default") != 0))
        return err_set(e, ERR_UNSUPPORTED, "config.json: rotary scaling \"%s\"",
                       type->type == JSON_STRING ? type->text : "?");
    const struct json *partial = json_get(block, "partial_rotary_factor");
    if (is_set(partial) && partial->number != 1.0)
        return err_set(e, ERR_UNSUPPORTED, "config.json: partial rotary factor %g", partial->number);
    a->rope_theta = is_set(theta) && theta->type == JSON_NUMBER ? (float)theta->number : 10000.0f;
    return true;
}

bool llama_from_config(const struct json *c, struct arch *a, struct err *e)
{
    if (!want(c, "num_hidden_layers", &a->n_layers, e) || !want(c, "hidden_size", &a->d_model, e) ||
        !want(c, "intermediate_size", &a->d_mlp, e) ||
        !want(c, "num_attention_heads", &a->n_heads, e) || !want(c, "vocab_size", &a->d_vocab, e) ||
        !want(c, "max_position_embeddings", &a->context, e))
        return false;
    a->n_kv_heads = a->n_heads;
    if (is_set(json_get(c, "num_key_value_heads")) &&
        !want(c, "num_key_value_heads", &a->n_kv_heads, e))
        return false;
    a->d_head = a->n_heads ? a->d_model / a->n_heads : 0;
    if (is_set(json_get(c, "head_dim")) && !want(c, "head_dim", &a->d_head, e)) return false;

    static const char *const biases[] = {"attention_bias", "mlp_bias"};
    for (size_t i = 0; i < sizeof biases / sizeof *biases; i++) {
        const struct json *v = json_get(c, biases[i]);
        if (v && v->boolean)
            return err_set(e, ERR_UNSUPPORTED, "config.json: \"%s\" is true", biases[i]);
    }
    const struct json *act = json_get(c, "hidden_act");
    if (is_set(act) && (act->type != JSON_STRING || strcmp(act->text, "silu") != 0))
        return err_set(e, ERR_UNSUPPORTED, "config.json: hidden_act \"%s\"",
                       act->type == JSON_STRING ? act->text : "?");
    const struct json *eps = json_get(c, "rms_norm_eps"), *tie = json_get(c, "tie_word_embeddings");
    a->norm_eps = is_set(eps) && eps->type == JSON_NUMBER ? (float)eps->number : 1e-6f;
    a->tied_head = tie && tie->boolean;
    return rotary(c, a, e);
}
