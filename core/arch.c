#include "arch.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "arch_families.h"

static const struct family families[] = {
#define FAMILY(id, gguf_word, config_word, config_class, qk)                                       \
    {#id, gguf_word, config_word, config_class, id##_from_gguf, id##_from_config, qk},
#include "arch.def"
#undef FAMILY
};
enum { N_FAMILIES = sizeof families / sizeof *families };

const struct family *family_at(size_t i) { return i < N_FAMILIES ? &families[i] : NULL; }

static const struct family *find(const char *name, size_t member)
{
    for (size_t i = 0; i < N_FAMILIES; i++) {
        const char *const *word = (const char *const *)(const void *)((const char *)&families[i] + member);
        if (strcmp(*word, name) == 0) return &families[i];
    }
    return NULL;
}

/* Bounds that every later size computation relies on. */
static bool check(const struct arch *a, struct err *e)
{
    const struct {
        const char *what;
        uint64_t value, most;
    } rows[] = {
        {"layers", a->n_layers, 1024},       {"heads", a->n_heads, 1024},
        {"key/value heads", a->n_kv_heads, 1024}, {"head width", a->d_head, 4096},
        {"width", a->d_model, 1u << 17},     {"MLP width", a->d_mlp, 1u << 20},
        {"vocabulary", a->d_vocab, 1u << 24}, {"context", a->context, 1u << 24},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].value == 0 || rows[i].value > rows[i].most)
            return err_set(e, ERR_CORRUPT, "%s is %llu, outside 1..%llu", rows[i].what,
                           (unsigned long long)rows[i].value, (unsigned long long)rows[i].most);
    if (a->n_heads % a->n_kv_heads)
        return err_set(e, ERR_CORRUPT, "%u query heads are no multiple of %u key/value heads",
                       a->n_heads, a->n_kv_heads);
    if (a->d_head % 2) return err_set(e, ERR_CORRUPT, "head width %u is odd", a->d_head);
    if (!(a->norm_eps > 0 && a->norm_eps < 1) || !(a->rope_theta > 1) || !isfinite(a->rope_theta))
        return err_set(e, ERR_CORRUPT, "norm eps %g or rotary base %g is out of range",
                       (double)a->norm_eps, (double)a->rope_theta);
    return true;
}

bool arch_read(const struct modelfile *f, struct arch *out, const struct family **family,
               struct err *e)
{
    const struct gguf *g = modelfile_gguf(f);
    const struct json *config = modelfile_config(f);
    const char *name = NULL;
    *out = (struct arch){0};
    if (g && !gguf_text(g, "general.architecture", &name))
        return err_set(e, ERR_CORRUPT, "%s: no general.architecture", modelfile_path(f));
    if (!g) {
        const struct json *type = json_get(config, "model_type");
        if (!type || type->type != JSON_STRING)
            return err_set(e, ERR_CORRUPT, "%s: config.json has no model_type", modelfile_path(f));
        name = type->text;
    }
    *family = find(name, g ? offsetof(struct family, gguf_name) : offsetof(struct family, config_name));
    if (!*family)
        return err_set(e, ERR_UNSUPPORTED, "%s: unknown model family \"%s\"", modelfile_path(f), name);
    out->family = (*family)->name;
    bool read = g ? (*family)->from_gguf(g, out, e) : (*family)->from_config(config, out, e);
    return (read && check(out, e)) || err_while(e, "reading the description of %s", modelfile_path(f));
}
