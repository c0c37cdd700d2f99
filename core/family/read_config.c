#include "read_config.h"

#include <math.h>
#include <string.h>

/* ---- single values -------------------------------------------------------------------------------- */

const struct json *config_get(const struct json *c, const char *key)
{
    const struct json *v = json_get(c, key);
    return v && v->type != JSON_NULL ? v : NULL;
}

bool config_int(const struct json *c, const char *key, uint32_t otherwise, uint32_t *out, struct err *e)
{
    const struct json *v = config_get(c, key);
    if (v && (v->type != JSON_NUMBER || !v->is_int || v->integer < 0 || v->integer > UINT32_MAX))
        return err_set(e, ERR_CORRUPT, "config.json: \"%s\" is no non-negative integer", key);
    *out = v ? (uint32_t)v->integer : otherwise;
    return true;
}

/* Absent: `otherwise`; where that is 0, an error. */
static bool config_size(const struct json *c, const char *key, uint32_t otherwise, uint32_t *out, struct err *e)
{
    if (!otherwise && !config_get(c, key)) return err_set(e, ERR_CORRUPT, "config.json: \"%s\" is absent", key);
    return config_int(c, key, otherwise, out, e);
}

bool config_real(const struct json *c, const char *key, double otherwise, double *out, struct err *e)
{
    const struct json *v = config_get(c, key);
    if (v && v->type != JSON_NUMBER)
        return err_set(e, ERR_CORRUPT, "config.json: \"%s\" is no number", key);
    *out = v ? v->number : otherwise;
    return true;
}

bool config_number(const struct json *c, const char *key, double otherwise, float *out, struct err *e)
{
    double v = 0;
    if (!config_real(c, key, otherwise, &v, e)) return false;
    *out = (float)v;
    return isfinite(*out) || err_set(e, ERR_CORRUPT, "config.json: \"%s\" is beyond float32", key);
}

bool config_flag(const struct json *c, const char *key, bool otherwise, bool *out, struct err *e)
{
    const struct json *v = config_get(c, key);
    if (v && v->type != JSON_BOOL)
        return err_set(e, ERR_CORRUPT, "config.json: \"%s\" is neither true nor false", key);
    *out = v ? v->boolean : otherwise;
    return true;
}

static bool is_null(const struct json *c, const char *key)
{
    const struct json *v = json_get(c, key);
    return v && v->type == JSON_NULL;
}

bool config_int_or_off(const struct json *c, const char *key, uint32_t otherwise, uint32_t *out, struct err *e)
{
    if (!config_int(c, key, is_null(c, key) ? 0 : otherwise, out, e)) return false;
    return *out || !config_get(c, key) || err_set(e, ERR_CORRUPT, "config.json: \"%s\" is 0", key);
}

bool config_number_or_off(const struct json *c, const char *key, double otherwise, float *out, struct err *e)
{
    if (!config_number(c, key, is_null(c, key) ? 0 : otherwise, out, e)) return false;
    return *out > 0 || !config_get(c, key) ||
           err_set(e, ERR_CORRUPT, "config.json: \"%s\" is %g, not above 0", key, (double)*out);
}

bool config_not(const struct json *c, const char *key, struct err *e)
{
    bool is = false;
    if (!config_flag(c, key, false, &is, e)) return false;
    return !is || err_set(e, ERR_UNSUPPORTED, "config.json: \"%s\" is true, which is not supported", key);
}

static bool config_word(const struct json *c, const char *key, const char *otherwise, const char **out,
                        struct err *e)
{
    const struct json *v = config_get(c, key);
    if (v && v->type != JSON_STRING)
        return err_set(e, ERR_CORRUPT, "config.json: \"%s\" is no text", key);
    *out = v ? v->text : otherwise;
    return true;
}

/* ---- sizes ---------------------------------------------------------------------------------------- */

/* transformers' words; the first of each kind is written where a family has no word of its own. */
static const struct {
    const char *word;
    enum activation act;
} activations[] = {
    {"silu", ACT_SILU},      {"gelu_new", ACT_GELU_TANH},
    {"gelu", ACT_GELU_ERF},  {"gelu_pytorch_tanh", ACT_GELU_TANH},
    {"swish", ACT_SILU},     {"gelu_python_tanh", ACT_GELU_TANH},
    {"gelu_python", ACT_GELU_ERF}, {"gelu_fast", ACT_GELU_TANH},
    {"gelu_accurate", ACT_GELU_TANH},
};
enum { N_ACTIVATIONS = sizeof activations / sizeof *activations };

static bool activation_of(const char *word, enum activation *out)
{
    for (size_t i = 0; i < N_ACTIVATIONS; i++)
        if (strcmp(activations[i].word, word) == 0) {
            *out = activations[i].act;
            return true;
        }
    return false;
}

const char *activation_word(enum activation act, const struct config_words *w)
{
    size_t i = 0;
    enum activation own;
    if (activation_of(w->activation_or, &own) && own == act) return w->activation_or;
    while (activations[i].act != act) i++;
    return activations[i].word;
}

static bool config_activation(const struct json *c, const struct config_words *w, struct arch *a, struct err *e)
{
    const char *word = NULL;
    if (!config_word(c, w->activation, w->activation_or, &word, e)) return false;
    return activation_of(word, &a->act) ||
           err_set(e, ERR_UNSUPPORTED, "config.json: %s \"%s\" is not supported", w->activation, word);
}

static bool config_heads(const struct json *c, const struct config_words *w, struct arch *a, struct err *e)
{
    if (!config_size(c, w->heads, w->heads_or, &a->n_heads, e)) return false;
    uint32_t even = a->n_heads ? a->d_model / a->n_heads : 0;
    a->n_kv_heads = w->kv_heads_or ? w->kv_heads_or : a->n_heads;
    a->d_head = even;
    if (w->kv_heads && !config_int(c, w->kv_heads, a->n_kv_heads, &a->n_kv_heads, e)) return false;
    return !w->head_width ||
           config_int(c, w->head_width, w->head_width_or ? w->head_width_or : even, &a->d_head, e);
}

bool config_not_quantised(const struct json *c, struct err *e)
{
    return !config_get(c, "quantization_config") ||
           err_set(e, ERR_UNSUPPORTED, "config.json: \"quantization_config\": quantised checkpoints are read as GGUF only");
}

bool config_sizes(const struct json *c, const struct config_words *w, struct arch *a, struct err *e)
{
    if (!config_not_quantised(c, e) || !config_size(c, w->layers, 0, &a->n_layers, e) ||
        !config_size(c, w->width, 0, &a->d_model, e) || !config_heads(c, w, a, e) ||
        !config_size(c, "vocab_size", w->vocabulary_or, &a->d_vocab, e) ||
        !config_size(c, w->context, w->context_or, &a->context, e))
        return false;
    uint32_t wide = w->mlp_widths && a->d_model <= UINT32_MAX / w->mlp_widths ? w->mlp_widths * a->d_model : 0;
    if (!(w->mlp_widths ? config_int(c, w->mlp, wide, &a->d_mlp, e) : config_size(c, w->mlp, 0, &a->d_mlp, e)))
        return false;
    return config_number(c, w->eps, w->eps_or, &a->norm_eps, e) && config_activation(c, w, a, e) &&
           config_flag(c, "tie_word_embeddings", w->tied_or, &a->tied_head, e);
}

bool config_attention_bias(const struct json *c, bool otherwise, struct arch *a, struct err *e)
{
    if (!config_flag(c, "attention_bias", otherwise, &a->qkv_bias, e)) return false;
    a->o_bias = a->qkv_bias;
    return true;
}

/* ---- windows --------------------------------------------------------------------------------------- */

static void window_layer(struct arch *a, uint32_t layer)
{
    if (layer < ARCH_LAYERS) a->windowed[layer / 64] |= UINT64_C(1) << (layer % 64);
}

static bool listed_layer(const struct json *word, uint32_t layer, struct arch *a, bool *any, struct err *e)
{
    if (word->type != JSON_STRING) return err_set(e, ERR_CORRUPT, "config.json: layer_types[%u] is no text", layer);
    if (strcmp(word->text, "full_attention") == 0) return true;
    if (strcmp(word->text, "sliding_attention") != 0)
        return err_set(e, ERR_UNSUPPORTED, "config.json: layer type \"%s\" is not supported", word->text);
    window_layer(a, layer);
    *any = true;
    return true;
}

bool config_layer_types(const struct json *c, bool (*windowed)(uint32_t layer, uint32_t n), uint32_t n,
                        struct arch *a, struct err *e)
{
    const struct json *types = config_get(c, "layer_types");
    bool any = false;
    uint32_t layer = 0;
    if (types && (types->type != JSON_ARRAY || types->len != a->n_layers))
        return err_set(e, ERR_CORRUPT, "config.json: \"layer_types\" is no list of %u words", a->n_layers);
    for (const struct json *t = types ? types->child : NULL; t; t = t->next, layer++)
        if (!listed_layer(t, layer, a, &any, e)) return false;
    for (; !types && layer < a->n_layers && layer < ARCH_LAYERS; layer++)
        if (windowed(layer, n)) {
            window_layer(a, layer);
            any = true;
        }
    return !any || a->window || err_set(e, ERR_CORRUPT, "config.json: windowed layers, but no sliding_window");
}

static bool every(uint32_t layer, uint32_t window)
{
    (void)layer;
    return window != 0;
}

bool config_window(const struct json *c, uint32_t otherwise, struct arch *a, struct err *e)
{
    if (config_get(c, "layer_types"))
        return err_set(e, ERR_UNSUPPORTED, "config.json: \"layer_types\" is not supported by this family");
    return config_int_or_off(c, "sliding_window", otherwise, &a->window, e) &&
           config_layer_types(c, every, a->window, a, e);
}

/* ---- rotary ---------------------------------------------------------------------------------------- */

const struct json *config_rotary_parameters(const struct json *c)
{
    const struct json *old = config_get(c, "rope_scaling");
    return old && !(old->type == JSON_OBJECT && old->len == 0) ? old : config_get(c, "rope_parameters");
}

static bool positive(const struct json *p, const char *key, float *out, struct err *e)
{
    if (!config_get(p, key)) return err_set(e, ERR_CORRUPT, "config.json: rotary \"%s\" is absent", key);
    if (!config_number(p, key, 0, out, e)) return false;
    return *out > 0 || err_set(e, ERR_CORRUPT, "config.json: rotary \"%s\" is %g, not above 0", key, (double)*out);
}

static bool linear(const struct json *c, const struct json *p, struct arch *a, struct err *e)
{
    (void)c;
    return positive(p, "factor", &a->rotary.linear, e);
}

/* The context the model was trained with before it was stretched. */
static bool original_context(const struct json *c, const struct json *p, const struct arch *a, uint32_t *out,
                             struct err *e)
{
    static const char key[] = "original_max_position_embeddings";
    return config_int(p, key, a->context, out, e) && config_int(c, key, *out, out, e) &&
           (*out > 1 || err_set(e, ERR_CORRUPT, "config.json: \"%s\" is %u", key, *out));
}

static bool llama3(const struct json *c, const struct json *p, struct arch *a, struct err *e)
{
    uint32_t context = 0;
    if (!original_context(c, p, a, &context, e)) return false;
    a->rotary.llama3.context = (float)context;
    return positive(p, "factor", &a->rotary.llama3.factor, e) &&
           positive(p, "low_freq_factor", &a->rotary.llama3.low, e) &&
           positive(p, "high_freq_factor", &a->rotary.llama3.high, e);
}

/* Two sets of divisors, one for sequences up to the original context and one for longer ones, of
 * which a cached key could be right for one only: the first is used, and the context is its. The
 * factor on cosine and sine holds for both. */
static bool longrope(const struct json *c, const struct json *p, struct arch *a, struct err *e)
{
    uint32_t original = 0;
    double factor = 0;
    struct rotary *r = &a->rotary;
    const struct json *list = config_get(p, "short_factor");
    if (!original_context(c, p, a, &original, e) ||
        !config_real(p, "factor", (double)a->context / original, &factor, e))
        return false;
    double stretch = factor > 1 ? sqrt(1 + log(factor) / log(original)) : 1;
    if (!config_number(p, "attention_factor", stretch, &r->attention, e)) return false;
    if (!list || list->type != JSON_ARRAY || list->len == 0 || list->len > ROPE_PAIRS)
        return err_set(e, ERR_CORRUPT, "config.json: \"short_factor\" is no list of up to %u numbers", ROPE_PAIRS);
    for (const struct json *v = list->child; v; v = v->next) {
        if (v->type != JSON_NUMBER) return err_set(e, ERR_CORRUPT, "config.json: \"short_factor\" has no numbers");
        r->divisor[r->n_divisor++] = (float)v->number;
    }
    if (original < a->context) a->context = original;
    return true;
}

static const struct {
    const char *word;
    bool (*read)(const struct json *c, const struct json *p, struct arch *a, struct err *e);
} scalings[] = {
    {"default", NULL}, {"linear", linear}, {"llama3", llama3}, {"longrope", longrope}, {"su", longrope},
};

static bool scaling(const struct json *c, const struct json *p, struct arch *a, struct err *e)
{
    const char *word = NULL;
    if (!config_word(p, "type", "default", &word, e) || !config_word(p, "rope_type", word, &word, e)) return false;
    for (size_t i = 0; i < sizeof scalings / sizeof *scalings; i++)
        if (strcmp(scalings[i].word, word) == 0) return !scalings[i].read || scalings[i].read(c, p, a, e);
    return err_set(e, ERR_UNSUPPORTED, "config.json: rotary scaling \"%s\" is not supported", word);
}

bool config_rotary_of(const struct json *c, const struct json *parameters, double theta, struct arch *a, struct err *e)
{
    if (parameters && parameters->type != JSON_OBJECT)
        return err_set(e, ERR_CORRUPT, "config.json: the rotary parameters are no object");
    for (const struct json *v = parameters ? parameters->child : NULL; v; v = v->next)
        if (v->type == JSON_OBJECT)
            return err_set(e, ERR_UNSUPPORTED, "config.json: rotary parameters of \"%s\" are not supported", v->key);
    return config_number(parameters, "rope_theta", theta, &a->rotary.theta, e) && scaling(c, parameters, a, e);
}

bool config_rotary_part(double part, struct arch *a, struct err *e)
{
    if (!(part > 0 && part <= 1))
        return err_set(e, ERR_CORRUPT, "config.json: the rotated part of a head is %g, outside 0..1", part);
    a->rotary.dim = (uint32_t)((double)a->d_head * part);
    return true;
}

bool config_rotary_whole(const struct arch *a, struct err *e)
{
    return a->rotary.dim == a->d_head ||
           err_set(e, ERR_UNSUPPORTED, "config.json: \"partial_rotary_factor\": rotating %u of %u dimensions is not supported by this family",
                   a->rotary.dim, a->d_head);
}

bool config_rotary(const struct json *c, struct arch *a, struct err *e)
{
    const struct json *p = config_rotary_parameters(c);
    double theta = 0, part = 0;
    return config_real(c, "rope_theta", 10000, &theta, e) && config_rotary_of(c, p, theta, a, e) &&
           config_real(c, "partial_rotary_factor", 1, &part, e) &&
           config_real(p, "partial_rotary_factor", part, &part, e) && config_rotary_part(part, a, e);
}
