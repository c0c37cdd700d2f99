/* A token_spec from GGUF metadata. */
#include <string.h>

#include "core/file/gguf.h"
#include "tokenizer_int.h"

/* tokenizer.ggml.token_type */
enum { TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_LAST = 6 };

static bool read_tokens(struct token_spec *s, const struct gguf *g, struct err *e)
{
    struct gguf_strings tokens;
    struct gguf_ints types = {0};
    if (!gguf_string_array(g, "tokenizer.ggml.tokens", &tokens) || tokens.n == 0)
        return err_set(e, ERR_CORRUPT, "no tokenizer.ggml.tokens");
    if (tokens.n > TOKENS_MAX)
        return err_set(e, ERR_TOO_LARGE, "a vocabulary of %zu tokens", tokens.n);
    bool typed = gguf_int_array(g, "tokenizer.ggml.token_type", &types);
    if (typed && types.n != tokens.n)
        return err_set(e, ERR_CORRUPT, "%zu tokens but %zu token types", tokens.n, types.n);
    s->token = arena_take(&s->arena, tokens.n, sizeof *s->token, e);
    if (!s->token) return false;
    s->n = tokens.n;
    for (size_t i = 0; i < tokens.n; i++) {
        int64_t type = typed ? types.value[i] : 0;
        if (type < 0 || type > TYPE_LAST)
            return err_set(e, ERR_CORRUPT, "token %zu is of unknown type %lld", i, (long long)type);
        bool special = type == TYPE_CONTROL || type == TYPE_UNKNOWN;
        s->token[i] = (struct token_row){
            .text = tokens.text[i], .len = tokens.len[i], .in_vocabulary = true,
            .kind = special ? TOKEN_SPECIAL : type == TYPE_USER ? TOKEN_ADDED : TOKEN_PLAIN};
        if (tokens.len[i] == 0) s->token[i] = (struct token_row){.kind = TOKEN_HOLE};
    }
    return true;
}

static bool read_merges(struct token_spec *s, const struct gguf *g, struct err *e)
{
    struct gguf_strings merges;
    if (!gguf_string_array(g, "tokenizer.ggml.merges", &merges))
        return err_set(e, ERR_CORRUPT, "no tokenizer.ggml.merges");
    s->merge = arena_take(&s->arena, merges.n, sizeof *s->merge, e);
    if (!s->merge) return false;
    s->n_merge = merges.n;
    for (size_t i = 0; i < merges.n; i++) {
        const char *text = merges.text[i], *space = memchr(text, ' ', merges.len[i]);
        const char *end = text + merges.len[i];
        if (!space || memchr(space + 1, ' ', (size_t)(end - space - 1)))
            return err_set(e, ERR_CORRUPT, "merge %zu is not two tokens and a space", i);
        s->merge[i] = (struct merge_row){text, space + 1, (uint32_t)(space - text),
                                         (uint32_t)(end - space - 1)};
    }
    return true;
}

/* A token id under a key; NO_TOKEN when the key is absent. */
static bool read_id(const struct token_spec *s, const struct gguf *g, const char *key,
                    uint32_t *id, struct err *e)
{
    int64_t v;
    *id = NO_TOKEN;
    if (!gguf_int(g, key, &v)) return true;
    if (v < 0 || (uint64_t)v >= s->n)
        return err_set(e, ERR_CORRUPT, "%s is %lld, of %zu tokens", key, (long long)v, s->n);
    *id = (uint32_t)v;
    return true;
}

static bool read_ids(struct token_spec *s, const struct gguf *g, struct err *e)
{
    static const char *const keys[] = {"tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    uint32_t *ender = arena_take(&s->arena, sizeof keys / sizeof *keys, sizeof *ender, e);
    if (!ender || !read_id(s, g, "tokenizer.ggml.bos_token_id", &s->bos, e) ||
        !read_id(s, g, "tokenizer.ggml.eos_token_id", &s->eos, e))
        return false;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        uint32_t id;
        if (!read_id(s, g, keys[i], &id, e)) return false;
        if (id != NO_TOKEN) ender[s->n_ender++] = id;
    }
    s->ender = ender;
    return true;
}

bool token_spec_from_gguf(struct token_spec *s, const struct gguf *g, struct err *e)
{
    const char *model, *pre = NULL;
    *s = (struct token_spec){.bos = NO_TOKEN, .eos = NO_TOKEN};
    if (!gguf_text(g, "tokenizer.ggml.model", &model))
        return err_set(e, ERR_CORRUPT, "no tokenizer.ggml.model");
    if (strcmp(model, "gpt2") != 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "tokenizer \"%.64s\" is not byte-level BPE (\"gpt2\")", model);
    (void)gguf_text(g, "tokenizer.ggml.pre", &pre);
    (void)gguf_text(g, "tokenizer.chat_template", &s->chat_template);
    (void)gguf_bool(g, "tokenizer.ggml.add_bos_token", &s->adds_bos);
    return pretokenize_named(pre, &s->plan, e) && read_tokens(s, g, e) && read_merges(s, g, e) &&
           read_ids(s, g, e);
}
