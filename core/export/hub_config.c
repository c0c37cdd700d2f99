#include "hub_config.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "core/base/json_write.h"
#include "core/family/read_config.h"
#include "core/family/write_config.h"
#include "core/file/gguf.h"

/* What config.json calls the tensors' common type; float32 where they differ. */
static const char *dtype_word(const struct view *v)
{
    static const char *const words[DTYPE_COUNT] = {
        [DTYPE_F32] = "float32", [DTYPE_F16] = "float16", [DTYPE_BF16] = "bfloat16"};
    enum dtype common = view_tensor_type(v, 0);
    for (size_t i = 1; i < view_model(v)->n_tensors; i++)
        if (view_tensor_type(v, i) != common) common = DTYPE_F32;
    assert(words[common]);
    return words[common];
}

/* ---- a directory's own ---------------------------------------------------------------------- */

static bool is_dtype(const struct json *member)
{
    return strcmp(member->key, "torch_dtype") == 0 || strcmp(member->key, "dtype") == 0;
}

/* A model that held this one beside other parts is left behind: the text model says what class it is. */
static void copy_config(const struct model *m, const char *dtype, struct buf *out)
{
    const struct json *whole = modelfile_config(m->file), *config = arch_described_in(whole);
    bool typed = false, held = config != whole, first = true;
    buf_text(out, "{");
    if (held) buf_printf(out, "\n  \"architectures\": [\"%s\"]", m->family->config_class);
    for (const struct json *c = config->child; c; c = c->next) {
        if (held && strcmp(c->key, "architectures") == 0) continue;
        buf_text(out, first && !held ? "\n  " : ",\n  ");
        first = false;
        json_write_text(out, c->key, c->key_len);
        buf_text(out, ": ");
        if (is_dtype(c)) buf_printf(out, "\"%s\"", dtype);
        else json_write_typed(c, out);
        typed = typed || is_dtype(c);
    }
    if (!typed) buf_printf(out, ",\n  \"torch_dtype\": \"%s\"", dtype);
    buf_text(out, "\n}\n");
}

/* ---- from the description ------------------------------------------------------------------- */

static void put_sizes(const struct arch *a, const struct config_words *w, struct buf *out)
{
    config_put_integer(out, w->width, a->d_model);
    config_put_integer(out, w->mlp, a->d_mlp);
    config_put_integer(out, w->layers, a->n_layers);
    config_put_integer(out, w->heads, a->n_heads);
    if (w->kv_heads) config_put_integer(out, w->kv_heads, a->n_kv_heads);
    if (w->head_width) config_put_integer(out, w->head_width, a->d_head);
    config_put_integer(out, "vocab_size", a->d_vocab);
    config_put_integer(out, w->context, a->context);
    config_put_number(out, w->eps, a->norm_eps);
    config_put_text(out, w->activation, activation_word(a->act, w));
    config_put_flag(out, "tie_word_embeddings", a->tied_head);
}

static bool bos_token(const struct model *m, uint32_t *id) { return tokenizer_bos(m->tokenizer, id); }
static bool eos_token(const struct model *m, uint32_t *id) { return tokenizer_eos(m->tokenizer, id); }

static bool pad_token(const struct model *m, uint32_t *id)
{
    int64_t pad;
    if (!gguf_int(modelfile_gguf(m->file), "tokenizer.ggml.padding_token_id", &pad) || pad < 0 ||
        pad >= tokenizer_size(m->tokenizer))
        return false;
    *id = (uint32_t)pad;
    return true;
}

/* Said also where there is none: a family's class has a default, for a vocabulary of its own. */
static void put_token(struct buf *out, const char *key, const struct model *m,
                      bool (*token)(const struct model *m, uint32_t *id))
{
    uint32_t id;
    if (token(m, &id)) config_put_integer(out, key, id);
    else config_put_integer_or_null(out, key, 0);
}

static void write_config(const struct model *m, const char *dtype, struct buf *out)
{
    buf_printf(out, "{\n  \"architectures\": [\"%s\"],\n", m->family->config_class);
    config_put_text(out, "model_type", m->family->config_name);
    put_sizes(&m->arch, m->family->words, out);
    m->family->to_config(&m->arch, out);
    config_put_flag(out, "use_cache", true);
    put_token(out, "bos_token_id", m, bos_token);
    put_token(out, "eos_token_id", m, eos_token);
    put_token(out, "pad_token_id", m, pad_token);
    buf_printf(out, "  \"torch_dtype\": \"%s\"\n}\n", dtype);
}

/* A GGUF can say what its family's config.json has no word for: such a model is not exported, rather than
 * as another one. */
static bool says_all(const struct model *m, const struct buf *config, struct err *e)
{
    struct arena memory;
    struct arch said;
    const struct family *family;
    arena_init(&memory, 0);
    const struct json *read = json_parse(config->data, config->len, &memory, e);
    bool ok = read && arch_from_config(read, &said, &family, e);
    const char *differs = ok ? arch_differs(&m->arch, &said) : NULL;
    arena_release(&memory);
    if (differs)
        return err_set(e, ERR_UNSUPPORTED, "a config.json of %s cannot say this model's %s", m->family->name, differs);
    return ok || err_while(e, "writing config.json");
}

bool hub_config(const struct view *v, struct buf *out, struct err *e)
{
    const struct model *m = view_model(v);
    if (modelfile_config(m->file)) copy_config(m, dtype_word(v), out);
    else write_config(m, dtype_word(v), out);
    return buf_ok(out, e) && says_all(m, out, e);
}

/* ---- generation ----------------------------------------------------------------------------- */

/* The named end token first: some readers take only that one. */
static void put_enders(const struct tokenizer *t, struct buf *out)
{
    uint32_t eos = 0;
    bool named = tokenizer_eos(t, &eos), any = named;
    buf_text(out, "  \"eos_token_id\": [");
    if (named) buf_printf(out, "%" PRIu32, eos);
    for (uint32_t id = 0; id < tokenizer_size(t); id++) {
        if ((named && id == eos) || !tokenizer_ends_generation(t, id)) continue;
        buf_printf(out, any ? ", %" PRIu32 : "%" PRIu32, id);
        any = true;
    }
    buf_text(out, "]");
}

bool hub_generation_config(const struct model *m, struct buf *out, struct err *e)
{
    uint32_t bos, pad;
    assert(modelfile_gguf(m->file));
    buf_text(out, "{\n");
    if (tokenizer_bos(m->tokenizer, &bos)) config_put_integer(out, "bos_token_id", bos);
    if (pad_token(m, &pad)) config_put_integer(out, "pad_token_id", pad);
    put_enders(m->tokenizer, out);
    buf_text(out, "\n}\n");
    return buf_ok(out, e);
}
