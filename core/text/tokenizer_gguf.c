/* A token_spec from GGUF metadata: "gpt2" is byte-level BPE with merges, "llama" is SentencePiece's,
 * whose merges follow from the tokens' scores. */
#include <string.h>

#include "core/file/gguf.h"
#include "tokenizer_int.h"

/* tokenizer.ggml.token_type */
enum { TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_BYTE = 6 };

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
        if (type < 0 || type > TYPE_BYTE)
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
                                         (uint32_t)(end - space - 1), (uint32_t)i};
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
    s->named_bos = s->bos;
    s->named_eos = s->eos;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        uint32_t id;
        if (!read_id(s, g, keys[i], &id, e)) return false;
        if (id != NO_TOKEN) ender[s->n_ender++] = id;
    }
    s->ender = ender;
    return true;
}

/* A truth value under a key; `otherwise` when the key is absent. */
static bool flag(const struct gguf *g, const char *key, bool otherwise)
{
    (void)gguf_bool(g, key, &otherwise);
    return otherwise;
}

/* ---- byte-level ------------------------------------------------------------------------------ */

/* A file that is silent about it begins with BOS where its pre-tokenizer's models do: those are the
 * ones that take whole words first. */
static bool read_byte_level(struct token_spec *s, const struct gguf *g, struct err *e)
{
    const char *pre = NULL;
    (void)gguf_text(g, "tokenizer.ggml.pre", &pre);
    s->detokenize.byte_level = true;
    if (!pretokenize_named(pre, &s->plan, e) || !read_tokens(s, g, e) || !read_merges(s, g, e))
        return false;
    s->adds_bos = flag(g, "tokenizer.ggml.add_bos_token", s->plan.ignore_merges);
    return !s->plan.nfc || normal_plan_add(&s->normal, NORMAL_NFC, "", "", e);
}

/* ---- SentencePiece --------------------------------------------------------------------------- */

/* What SentencePiece's merges may not name, and how user-defined tokens are looked for: those of
 * spaces among the marks that spaces become, which files spell either way. Spelled with spaces they
 * are no words of the marked text. */
static void mark_tokens(struct token_spec *s, const struct gguf_ints *types, bool prefixed)
{
    for (size_t i = 0; i < s->n; i++) {
        struct token_row *t = &s->token[i];
        int64_t type = types->n ? types->value[i] : 0;
        unsigned char byte;
        if (type == TYPE_CONTROL || type == TYPE_UNKNOWN || type == TYPE_BYTE ||
            (type == 0 && detokenize_byte(t->text, t->len, &byte)) ||
            (t->kind == TOKEN_ADDED && strchr(t->text, ' ')))
            t->in_vocabulary = false;
        if (t->kind == TOKEN_ADDED && !prefixed && (strchr(t->text, ' ') || strstr(t->text, "\u2581")))
            t->normalized = true;
    }
}

/* Phi-3's special tokens, all but three, swallow the white space after them: its tokenizer.json says
 * so, its GGUF files have no place for it. */
static void strip_after_special(struct token_spec *s, const struct gguf *g)
{
    static const char *const others[] = {"<unk>", "<s>", "<|endoftext|>"};
    const char *family = "";
    (void)gguf_text(g, "general.architecture", &family);
    if (strcmp(family, "phi3") != 0) return;
    for (size_t i = 0; i < s->n; i++) {
        struct token_row *t = &s->token[i];
        t->rstrip = t->kind >= TOKEN_ADDED;
        for (size_t k = 0; k < sizeof others / sizeof *others; k++)
            if (strcmp(t->text ? t->text : "", others[k]) == 0) t->rstrip = false;
    }
}

static bool read_scores(struct token_spec *s, const struct gguf *g, struct err *e)
{
    struct gguf_floats scores;
    if (!gguf_float_array(g, "tokenizer.ggml.scores", &scores))
        return err_set(e, ERR_CORRUPT, "no tokenizer.ggml.scores");
    if (scores.n != s->n)
        return err_set(e, ERR_CORRUPT, "%zu tokens but %zu scores", s->n, scores.n);
    for (size_t i = 0; i < s->n; i++)
        if (scores.value[i] != scores.value[i])
            return err_set(e, ERR_CORRUPT, "token %zu has a score that is not a number", i);
    return token_spec_score_merges(s, scores.value, e);
}

static bool read_sentencepiece(struct token_spec *s, const struct gguf *g, struct err *e)
{
    struct gguf_ints types = {0};
    bool prefixed = flag(g, "tokenizer.ggml.add_space_prefix", true);
    if (flag(g, "tokenizer.ggml.remove_extra_whitespaces", false))
        return err_set(e, ERR_UNSUPPORTED, "a SentencePiece tokenizer that removes extra white space");
    if (!read_tokens(s, g, e) || !read_id(s, g, "tokenizer.ggml.unknown_token_id", &s->unknown, e))
        return false;
    (void)gguf_int_array(g, "tokenizer.ggml.token_type", &types);
    mark_tokens(s, &types, prefixed);
    strip_after_special(s, g);
    s->adds_bos = flag(g, "tokenizer.ggml.add_bos_token", true);
    s->byte_fallback = s->fuse_unknown = s->spare = true;
    s->detokenize = (struct detokenize_plan){.byte_fallback = true, .mark = "\u2581", .put = " ",
                                             .strip = " ", .left = prefixed};
    return (!prefixed || normal_plan_add(&s->normal, NORMAL_PREPEND, "", "\u2581", e)) &&
           normal_plan_add(&s->normal, NORMAL_REPLACE, " ", "\u2581", e) && read_scores(s, g, e);
}

static const struct kind {
    const char *model;
    bool (*read)(struct token_spec *s, const struct gguf *g, struct err *e);
} kinds[] = {
    {"gpt2", read_byte_level},
    {"llama", read_sentencepiece},
};

bool token_spec_from_gguf(struct token_spec *s, const struct gguf *g, struct err *e)
{
    const char *model;
    *s = (struct token_spec){.bos = NO_TOKEN, .eos = NO_TOKEN, .unknown = NO_TOKEN};
    if (!gguf_text(g, "tokenizer.ggml.model", &model))
        return err_set(e, ERR_CORRUPT, "no tokenizer.ggml.model");
    /* A file of several templates has the default one under the plain key, or under its name. */
    if (!gguf_text(g, "tokenizer.chat_template", &s->chat_template))
        (void)gguf_text(g, "tokenizer.chat_template.default", &s->chat_template);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].model, model) == 0) return kinds[i].read(s, g, e) && read_ids(s, g, e);
    return err_set(e, ERR_UNSUPPORTED,
                   "tokenizer \"%.64s\" is neither byte-level BPE (\"gpt2\") nor SentencePiece's (\"llama\")",
                   model);
}
