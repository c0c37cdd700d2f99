#include "arch.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/family/families.h"
#include "core/family/read_gguf.h"
#include "core/file/gguf.h"

static const struct family families[] = {
#define FAMILY(id, gguf_name, gguf_reader, config_name, config_class, prefix, other_prefix, holder) \
    {#id, gguf_name, config_name, config_class, prefix, other_prefix, holder, gguf_reader,         \
     id##_from_config, id##_names, &id##_words, id##_to_config},
#include "arch.def"
#undef FAMILY
};
enum { N_FAMILIES = sizeof families / sizeof *families };

const struct family *family_at(size_t i) { return i < N_FAMILIES ? &families[i] : NULL; }

static const struct family *find(const char *word, bool of_gguf)
{
    for (size_t i = 0; i < N_FAMILIES; i++) {
        const char *name = of_gguf ? families[i].gguf_name : families[i].config_name;
        if (name && strcmp(name, word) == 0) return &families[i];
    }
    return NULL;
}

/* ---- weights ------------------------------------------------------------------------------------ */

bool arch_has(const struct arch *a, enum role r)
{
    const bool present[] = {
#define ROLE(name, per_layer, dims, rows, cols, group, when) when,
#include "tensor.def"
#undef ROLE
    };
    static_assert(sizeof present / sizeof *present == ROLE_COUNT, "one row per role");
    return present[r];
}

struct shape {
    bool per_layer;
    uint32_t dims, rows, cols;
};

static struct shape shape_of(const struct arch *a, enum role r)
{
    const uint32_t H = a->n_heads, G = a->n_kv_heads, e = a->d_head, d = a->d_model, m = a->d_mlp,
                   V = a->d_vocab;
    switch (r) {
#define ROLE(name, per_layer, dims, rows, cols, group, when)                                       \
    case ROLE_##name: return (struct shape){per_layer, dims, rows, cols};
#include "tensor.def"
#undef ROLE
    case ROLE_COUNT: break;
    }
    assert(!"a role");
    return (struct shape){0};
}

/* Matrices of blocks multiply from the left in Conv1D checkpoints; tables of vectors, one row per
 * token or position, are the same everywhere. */
static bool swapped(const struct arch *a, const struct shape *s)
{
    return a->input_major && s->per_layer && s->dims == 2;
}

void arch_role_shape(const struct arch *a, enum role r, uint32_t *dims, uint32_t *rows, uint32_t *cols)
{
    struct shape s = shape_of(a, r);
    *dims = s.dims;
    *rows = swapped(a, &s) ? s.cols : s.rows;
    *cols = swapped(a, &s) ? s.rows : s.cols;
}

const char *tensor_spelled(const char *pattern, uint32_t layer, char out[TENSOR_NAME_BYTES])
{
    const char *at = strstr(pattern, "%u");
    if (at) (void)snprintf(out, TENSOR_NAME_BYTES, "%.*s%u%s", (int)(at - pattern), pattern, layer, at + 2);
    else (void)snprintf(out, TENSOR_NAME_BYTES, "%s", pattern);
    return out;
}

/* ---- rotary frequencies -------------------------------------------------------------------------- */

/* Llama 3: wavelengths longer than the old context / low are slowed by the factor, shorter than the
 * old context / high left alone, those between blended. */
static float llama3_slowed(const struct rotary *r, float freq)
{
    const float pi = 3.14159265358979f;
    float wavelength = 2 * pi / freq, turns = r->llama3.context / wavelength;
    if (turns > r->llama3.high) return freq;
    if (turns < r->llama3.low) return freq / r->llama3.factor;
    float smooth = (turns - r->llama3.low) / (r->llama3.high - r->llama3.low);
    return (1 - smooth) * freq / r->llama3.factor + smooth * freq;
}

/* In float32 all the way, as the reference rounds: positions times these, in float32, are the
 * angles a checkpoint was trained with. */
void arch_frequencies(const struct arch *a, bool windowed, float *out)
{
    const struct rotary *r = &a->rotary;
    const bool local = windowed && r->theta_local > 0;
    for (uint32_t i = 0; i < r->dim / 2; i++) {
        float power = powf(local ? r->theta_local : r->theta, (float)(2 * i) / (float)r->dim);
        out[i] = 1.0f / (!local && r->n_divisor ? r->divisor[i] * power : power);
        if (local) continue;
        out[i] /= r->linear;
        if (r->llama3.factor > 0) out[i] = llama3_slowed(r, out[i]);
    }
}

/* ---- reading and proving -------------------------------------------------------------------------- */

/* Llama's block: what a family starts from. */
static const struct arch commonest = {
    .norm = NORM_RMS, .pre_norm = true, .positions = POSITIONS_ROTARY,
    .rotary = {.linear = 1, .attention = 1}, .act = ACT_SILU, .gated = true, .embed_scale = 1,
};

/* Bounds that every later size computation relies on. */
static bool check_counts(const struct arch *a, struct err *e)
{
    const struct {
        const char *what;
        uint32_t value, most;
    } rows[] = {
        {"layers", a->n_layers, ARCH_LAYERS}, {"heads", a->n_heads, 1024},
        {"key/value heads", a->n_kv_heads, 1024}, {"head width", a->d_head, 4096},
        {"width", a->d_model, 1u << 17},      {"MLP width", a->d_mlp, 1u << 20},
        {"vocabulary", a->d_vocab, 1u << 24}, {"context", a->context, 1u << 24},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].value == 0 || rows[i].value > rows[i].most)
            return err_set(e, ERR_CORRUPT, "%s is %u, outside 1..%u", rows[i].what, rows[i].value,
                           rows[i].most);
    if (a->n_heads % a->n_kv_heads)
        return err_set(e, ERR_CORRUPT, "%u query heads are no multiple of %u key/value heads",
                       a->n_heads, a->n_kv_heads);
    if (a->qkv_woven && a->n_heads != a->n_kv_heads)
        return err_set(e, ERR_CORRUPT, "%u query heads are woven with %u key/value heads", a->n_heads,
                       a->n_kv_heads);
    return true;
}

static bool check_numbers(const struct arch *a, struct err *e)
{
    const struct {
        const char *what;
        float value, least, most; /* least itself is outside */
    } rows[] = {
        {"norm eps", a->norm_eps, 0, 1},
        {"attention scale", a->attn_scale, 0, 1e6f},
        {"embedding scale", a->embed_scale, 0, 1e6f},
        {"attention soft-cap", a->attn_softcap, -1e-30f, 1e6f},
        {"logit soft-cap", a->final_softcap, -1e-30f, 1e6f},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (!(rows[i].value > rows[i].least && rows[i].value <= rows[i].most))
            return err_set(e, ERR_CORRUPT, "%s is %g, out of range", rows[i].what, (double)rows[i].value);
    return true;
}

static bool check_rotary(const struct arch *a, struct err *e)
{
    const struct rotary *r = &a->rotary;
    if (a->positions != POSITIONS_ROTARY) return true;
    if (r->dim == 0 || r->dim % 2 || r->dim > a->d_head || r->dim > 2 * ROPE_PAIRS)
        return err_set(e, ERR_CORRUPT, "rotary width %u is odd, 0, over %u or over the head width %u", r->dim,
                       2 * ROPE_PAIRS, a->d_head);
    if (!(r->theta > 1) || !isfinite(r->theta) || !(r->theta_local == 0 || r->theta_local > 1) ||
        !isfinite(r->theta_local))
        return err_set(e, ERR_CORRUPT, "rotary base %g or %g is out of range", (double)r->theta,
                       (double)r->theta_local);
    if (!(r->linear > 0 && r->linear < 1e6f) || !(r->attention > 0 && r->attention < 1e6f))
        return err_set(e, ERR_CORRUPT, "rotary factor %g or %g is out of range", (double)r->linear,
                       (double)r->attention);
    if (r->llama3.factor != 0 &&
        !(r->llama3.factor > 0 && r->llama3.low > 0 && r->llama3.high > r->llama3.low && r->llama3.context > 0 &&
          isfinite(r->llama3.factor) && isfinite(r->llama3.high) && isfinite(r->llama3.context)))
        return err_set(e, ERR_CORRUPT, "rotary scaling of factor %g between %g and %g of %g is out of range",
                       (double)r->llama3.factor, (double)r->llama3.low, (double)r->llama3.high,
                       (double)r->llama3.context);
    if (r->n_divisor && r->n_divisor != r->dim / 2)
        return err_set(e, ERR_CORRUPT, "%u rotary divisors for %u pairs", r->n_divisor, r->dim / 2);
    for (uint32_t i = 0; i < r->n_divisor; i++)
        if (!(r->divisor[i] > 0) || !isfinite(r->divisor[i]))
            return err_set(e, ERR_CORRUPT, "rotary divisor %u is %g", i, (double)r->divisor[i]);
    return true;
}

/* What follows from the sizes where nothing else was said. */
static void complete(struct arch *a)
{
    if (a->attn_scale == 0 && a->d_head) a->attn_scale = 1.0f / sqrtf((float)a->d_head);
    if (a->positions == POSITIONS_ROTARY && a->rotary.dim == 0) a->rotary.dim = a->d_head;
    if (a->window == 0) memset(a->windowed, 0, sizeof a->windowed);
}

static bool finish(struct arch *a, bool read, struct err *e)
{
    if (!read) return false;
    complete(a);
    return check_counts(a, e) && check_numbers(a, e) && check_rotary(a, e);
}

static bool find_family(const char *word, bool gguf, struct arch *out, const struct family **family, struct err *e)
{
    *out = commonest;
    *family = find(word, gguf);
    if (!*family) return err_set(e, ERR_UNSUPPORTED, "unknown model family \"%s\"", word);
    out->family = (*family)->name;
    return true;
}

static const char *model_type(const struct json *config)
{
    const struct json *type = json_get(config, "model_type");
    return type && type->type == JSON_STRING ? type->text : NULL;
}

/* The family that a model of this type holds one of, or NULL. */
static const struct family *held_by(const char *type)
{
    for (size_t i = 0; type && i < N_FAMILIES; i++)
        if (families[i].holder && strcmp(families[i].holder, type) == 0) return &families[i];
    return NULL;
}

const struct json *arch_described_in(const struct json *config)
{
    return held_by(model_type(config)) ? json_get(config, "text_config") : config;
}

/* What is said of a holder is said of what it holds, or contradicts it. */
static bool check_holder(const struct json *config, const struct arch *a, struct err *e)
{
    bool tied;
    return config_not_quantised(config, e) && config_flag(config, "tie_word_embeddings", a->tied_head, &tied, e) &&
           (tied == a->tied_head ||
            err_set(e, ERR_UNSUPPORTED, "config.json: \"tie_word_embeddings\" contradicts that of text_config"));
}

bool arch_from_config(const struct json *config, struct arch *out, const struct family **family, struct err *e)
{
    const struct json *text = arch_described_in(config);
    const char *type = model_type(text);
    const struct family *held = held_by(model_type(config));
    if (!type)
        return err_set(e, ERR_CORRUPT, "config.json has no model_type%s", held ? " in a text_config" : "");
    if (held && strcmp(type, held->config_name) != 0)
        return err_set(e, ERR_UNSUPPORTED, "config.json: \"%s\" with the text model \"%s\" is not supported", held->holder,
                       type);
    return find_family(type, false, out, family, e) && finish(out, (*family)->from_config(text, out, e), e) &&
           (!held || check_holder(config, out, e));
}

static bool arch_from_gguf(const struct modelfile *f, struct arch *out, const struct family **family, struct err *e)
{
    const char *word;
    if (!gguf_text(modelfile_gguf(f), "general.architecture", &word))
        return err_set(e, ERR_CORRUPT, "no general.architecture");
    return find_family(word, true, out, family, e) &&
           finish(out, (*family)->from_gguf(f, out, e) && meta_nothing_else(f, out, e), e) &&
           (meta_optional(f, (*family)->names, out), true);
}

bool arch_read(const struct modelfile *f, struct arch *out, const struct family **family,
               struct err *e)
{
    bool ok = modelfile_gguf(f) ? arch_from_gguf(f, out, family, e)
                                : arch_from_config(modelfile_config(f), out, family, e);
    return ok || err_while(e, "reading the description of %s", modelfile_path(f));
}
