#include "read_gguf.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/file/gguf.h"

enum { KEY_BYTES = 160 };

static const char *full(const struct modelfile *f, const char *key, char out[KEY_BYTES])
{
    const char *family = "";
    (void)gguf_text(modelfile_gguf(f), "general.architecture", &family);
    (void)snprintf(out, KEY_BYTES, "%.60s.%s", family, key);
    return out;
}

/* ---- single values -------------------------------------------------------------------------------- */

static bool has(const struct modelfile *f, const char *full_key)
{
    return gguf_has(modelfile_gguf(f), full_key);
}

/* One number, or the same for every layer. */
static bool one_int(const struct modelfile *f, const char *full_key, int64_t *out)
{
    struct gguf_ints list;
    if (gguf_int(modelfile_gguf(f), full_key, out)) return true;
    if (!gguf_int_array(modelfile_gguf(f), full_key, &list) || list.n == 0) return false;
    for (size_t i = 1; i < list.n; i++)
        if (list.value[i] != list.value[0]) return false;
    *out = list.value[0];
    return true;
}

bool meta_int(const struct modelfile *f, const char *key, uint32_t otherwise, uint32_t *out, struct err *e)
{
    char name[KEY_BYTES];
    int64_t v = otherwise;
    if (!one_int(f, full(f, key, name), &v) && has(f, name))
        return err_set(e, ERR_UNSUPPORTED, "%s is not one integer", name);
    if (v < 0 || v > UINT32_MAX) return err_set(e, ERR_CORRUPT, "%s is %" PRId64, name, v);
    *out = (uint32_t)v;
    return true;
}

static bool meta_size(const struct modelfile *f, const char *key, uint32_t *out, struct err *e)
{
    char name[KEY_BYTES];
    if (!has(f, full(f, key, name))) return err_set(e, ERR_CORRUPT, "%s is absent", name);
    return meta_int(f, key, 0, out, e);
}

bool meta_number(const struct modelfile *f, const char *key, double otherwise, float *out, struct err *e)
{
    char name[KEY_BYTES];
    double v = otherwise;
    if (!gguf_float(modelfile_gguf(f), full(f, key, name), &v) && has(f, name))
        return err_set(e, ERR_CORRUPT, "%s is no number", name);
    *out = (float)v;
    return isfinite(*out) || err_set(e, ERR_CORRUPT, "%s is beyond float32", name);
}

bool meta_flag(const struct modelfile *f, const char *key, bool otherwise, bool *out, struct err *e)
{
    char name[KEY_BYTES];
    *out = otherwise;
    return gguf_bool(modelfile_gguf(f), full(f, key, name), out) || !has(f, name) ||
           err_set(e, ERR_CORRUPT, "%s is neither true nor false", name);
}

/* ---- what we do not compute ------------------------------------------------------------------------ */

/* Keys that change the computation, and the value that this description computes with: the family read
 * it, or it is the one at which nothing changes. */
bool meta_nothing_else(const struct modelfile *f, const struct arch *a, struct err *e)
{
    const struct {
        const char *key;
        float computed;
    } numbers[] = {
        {"attention.clamp_kqv", 0},
        {"attention.max_alibi_bias", 0},
        {"logit_scale", 1},
        {"residual_scale", 1},
        {"embedding_scale", 1},
        {"attention.temperature_scale", 1},
        {"attn_logit_softcapping", a->attn_softcap},
        {"final_logit_softcapping", a->final_softcap},
    };
    uint32_t experts;
    bool causal;
    if (!meta_int(f, "expert_count", 0, &experts, e) || !meta_flag(f, "attention.causal", true, &causal, e))
        return false;
    if (experts) return err_set(e, ERR_UNSUPPORTED, "a mixture of %u experts is not supported", experts);
    if (!causal) return err_set(e, ERR_UNSUPPORTED, "attention that is not causal is not supported");
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        float v;
        char name[KEY_BYTES];
        if (!meta_number(f, numbers[i].key, (double)numbers[i].computed, &v, e)) return false;
        if (v != numbers[i].computed)
            return err_set(e, ERR_UNSUPPORTED, "%s is %g, which is not supported", full(f, numbers[i].key, name),
                           (double)v);
    }
    return true;
}

/* ---- sizes ----------------------------------------------------------------------------------------- */

static bool meta_vocabulary(const struct modelfile *f, struct arch *a, struct err *e)
{
    struct gguf_strings tokens;
    /* The token list is the authority on the vocabulary; the key is often absent. */
    if (!gguf_string_array(modelfile_gguf(f), "tokenizer.ggml.tokens", &tokens))
        return meta_size(f, "vocab_size", &a->d_vocab, e);
    a->d_vocab = (uint32_t)tokens.n;
    return true;
}

static bool meta_heads(const struct modelfile *f, struct arch *a, struct err *e)
{
    uint32_t of_value;
    if (!meta_size(f, "attention.head_count", &a->n_heads, e) ||
        !meta_int(f, "attention.head_count_kv", a->n_heads, &a->n_kv_heads, e) ||
        !meta_int(f, "attention.key_length", a->n_heads ? a->d_model / a->n_heads : 0, &a->d_head, e) ||
        !meta_int(f, "attention.value_length", a->d_head, &of_value, e))
        return false;
    return of_value == a->d_head ||
           err_set(e, ERR_UNSUPPORTED, "values %u wide beside keys %u wide are not supported", of_value, a->d_head);
}

void meta_optional(const struct modelfile *f, const struct tensor_name *names, struct arch *a)
{
    bool own_head = false;
    const struct {
        enum role role;
        bool *has;
    } rows[] = {
        {ROLE_QKV_B, &a->qkv_bias}, {ROLE_Q_B, &a->qkv_bias},     {ROLE_O_B, &a->o_bias},
        {ROLE_UP_B, &a->mlp_bias},  {ROLE_HEAD_B, &a->head_bias}, {ROLE_HEAD, &own_head},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) *rows[i].has = false;
    for (const struct tensor_name *n = names; n->hub; n++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            char name[TENSOR_NAME_BYTES];
            if (rows[i].role == n->role && modelfile_find(f, tensor_spelled(n->gguf, 0, name))) *rows[i].has = true;
        }
    a->tied_head = !own_head;
}

bool meta_sizes(const struct modelfile *f, struct arch *a, struct err *e)
{
    const char *eps = a->norm == NORM_LAYER ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon";
    char name[KEY_BYTES];
    if (!meta_size(f, "block_count", &a->n_layers, e) ||
        !meta_size(f, "context_length", &a->context, e) || !meta_size(f, "embedding_length", &a->d_model, e) ||
        !meta_size(f, "feed_forward_length", &a->d_mlp, e) || !meta_heads(f, a, e) || !meta_vocabulary(f, a, e))
        return false;
    if (!has(f, full(f, eps, name))) return err_set(e, ERR_CORRUPT, "%s is absent", name);
    return meta_number(f, eps, 0, &a->norm_eps, e) && meta_number(f, "attention.scale", 0, &a->attn_scale, e);
}

/* ---- rotary ---------------------------------------------------------------------------------------- */

static bool divisors(const struct modelfile *f, const char *name, struct rotary *r, struct err *e)
{
    const struct file_tensor *t = modelfile_find(f, name);
    if (!t) return true;
    if (t->n_dims != 1 || t->n_elements == 0 || t->n_elements > ROPE_PAIRS)
        return err_set(e, ERR_CORRUPT, "tensor %s is no list of up to %u numbers", name, ROPE_PAIRS);
    r->n_divisor = (uint32_t)t->n_elements;
    return modelfile_read(f, t, DTYPE_F32, r->divisor, e);
}

/* Of long-rope's two sets the one for sequences up to the original context, as from config.json. */
static bool longrope(const struct modelfile *f, struct arch *a, struct err *e)
{
    uint32_t original;
    if (!modelfile_find(f, "rope_factors_short.weight")) return true;
    if (!meta_int(f, "rope.scaling.original_context_length", a->context, &original, e)) return false;
    if (original < a->context) a->context = original;
    return divisors(f, "rope_factors_short.weight", &a->rotary, e);
}

bool meta_rotary(const struct modelfile *f, struct arch *a, struct err *e)
{
    struct rotary *r = &a->rotary;
    char name[KEY_BYTES];
    const char *type = "linear";
    float factor;
    if (!meta_int(f, "rope.dimension_count", a->d_head, &r->dim, e) ||
        !meta_number(f, "rope.freq_base", 10000, &r->theta, e) ||
        !meta_number(f, "rope.scale_linear", 1, &factor, e) ||
        !meta_number(f, "rope.scaling.factor", (double)factor, &factor, e) ||
        !meta_number(f, "rope.scaling.attn_factor", 1, &r->attention, e))
        return false;
    (void)gguf_text(modelfile_gguf(f), full(f, "rope.scaling.type", name), &type);
    if (strcmp(type, "linear") == 0) r->linear = factor != 0 ? factor : 1;
    else if (strcmp(type, "none") != 0 && strcmp(type, "longrope") != 0)
        return err_set(e, ERR_UNSUPPORTED, "rotary scaling \"%s\" is not supported", type);
    return divisors(f, "rope_freqs.weight", r, e) && longrope(f, a, e);
}

bool meta_rotary_whole(const struct arch *a, struct err *e)
{
    return a->rotary.dim == a->d_head ||
           err_set(e, ERR_UNSUPPORTED, "rotating %u of %u dimensions is not supported by this family",
                   a->rotary.dim, a->d_head);
}

/* ---- windows --------------------------------------------------------------------------------------- */

bool meta_windows(const struct modelfile *f, uint32_t otherwise, uint32_t period, struct arch *a, struct err *e)
{
    static const char key[] = "attention.sliding_window_pattern";
    struct gguf_ints list = {0};
    char name[KEY_BYTES];
    if (!meta_int(f, "attention.sliding_window", otherwise, &a->window, e)) return false;
    bool listed = gguf_int_array(modelfile_gguf(f), full(f, key, name), &list);
    if (listed && list.n != a->n_layers)
        return err_set(e, ERR_CORRUPT, "%s has %zu entries for %u layers", name, list.n, a->n_layers);
    if (!listed && !meta_int(f, key, period, &period, e)) return false;
    for (uint32_t l = 0; l < a->n_layers && l < ARCH_LAYERS; l++) {
        bool windowed = listed ? list.value[l] != 0 : period == 0 || l % period + 1 < period;
        if (windowed) a->windowed[l / 64] |= UINT64_C(1) << (l % 64);
    }
    return true;
}
