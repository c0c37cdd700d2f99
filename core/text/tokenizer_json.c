/* A token_spec from a hub directory's tokenizer.json and its companions. */
#include <string.h>

#include "tokenizer_int.h"

static bool is_null(const struct json *v) { return !v || v->type == JSON_NULL; }
static bool is_blank(const struct json *v) { return is_null(v) || json_is(v, ""); }
static bool is_array(const struct json *v) { return v && v->type == JSON_ARRAY; }

/* What else a BPE model may ask for, and we do not do. */
static bool check_model(const struct json *model, struct err *e)
{
    const struct json *type = json_get(model, "type"), *dropout = json_get(model, "dropout");
    if (type && !json_is(type, "BPE"))
        return err_set(e, ERR_UNSUPPORTED, "tokenizer.json's model is %.64s, not BPE",
                       type->type == JSON_STRING ? type->text : "of no type");
    if (!is_null(dropout) && !(dropout->type == JSON_NUMBER && dropout->number == 0))
        return err_set(e, ERR_UNSUPPORTED, "tokenizer.json's model uses dropout");
    if (!is_blank(json_get(model, "continuing_subword_prefix")) ||
        !is_blank(json_get(model, "end_of_word_suffix")))
        return err_set(e, ERR_UNSUPPORTED, "tokenizer.json's model marks parts of words");
    return true;
}

/* Parts that contradict each other, or whose meeting we do not do. */
static bool check_together(const struct token_spec *s, struct err *e)
{
    if (s->byte_fallback && s->plan.byte_level)
        return err_set(e, ERR_UNSUPPORTED, "tokenizer.json's model uses byte_fallback on a ByteLevel alphabet");
    for (size_t i = 0; s->plan.mark_prefix == MARK_FIRST && i < s->normal.n; i++) {
        const struct normal_step *n = &s->normal.step[i];
        bool takes = (n->op == NORMAL_REPLACE || n->op == NORMAL_PATTERN) && n->put_len == 0;
        if (takes || (n->op == NORMAL_STRIP && n->left))
            return err_set(e, ERR_UNSUPPORTED, "a normalizer that takes away what Metaspace's first prefix "
                                               "is put before");
    }
    return true;
}

static bool read_id(const struct json *v, uint32_t *id, struct err *e)
{
    if (!v || !v->is_int || v->integer < 0 || v->integer >= TOKENS_MAX)
        return err_set(e, ERR_CORRUPT, "a token id is missing or not in 0..%d", TOKENS_MAX - 1);
    *id = (uint32_t)v->integer;
    return true;
}

/* Room for the highest id anywhere, and `more`; the vocabulary's own rows are then filled in. */
static bool read_vocabulary(struct token_spec *s, const struct json *vocab,
                            const struct json *added, size_t more, struct err *e)
{
    uint32_t id = 0;
    if (!vocab || vocab->type != JSON_OBJECT)
        return err_set(e, ERR_CORRUPT, "tokenizer.json's model has no vocab");
    for (const struct json *v = vocab->child; v; v = v->next) {
        if (!read_id(v, &id, e)) return err_while(e, "reading vocab's \"%.64s\"", v->key);
        if (id >= s->n) s->n = (size_t)id + 1;
    }
    for (const struct json *v = is_array(added) ? added->child : NULL; v; v = v->next) {
        if (!read_id(json_get(v, "id"), &id, e)) return err_while(e, "reading added_tokens");
        if (id >= s->n) s->n = (size_t)id + 1;
    }
    if (s->n == 0) return err_set(e, ERR_CORRUPT, "tokenizer.json has no tokens");
    s->token = arena_take(&s->arena, s->n + more, sizeof *s->token, e);
    if (!s->token) return false;
    for (const struct json *v = vocab->child; v; v = v->next) {
        struct token_row *t = &s->token[v->integer];
        if (t->text)
            return err_set(e, ERR_CORRUPT, "vocab gives id %lld to \"%.64s\" and \"%.64s\"",
                           (long long)v->integer, t->text, v->key);
        *t = (struct token_row){.text = v->key, .len = (uint32_t)v->key_len,
                                .kind = v->key_len ? TOKEN_PLAIN : TOKEN_HOLE,
                                .in_vocabulary = v->key_len > 0};
    }
    return true;
}

/* "a b", or ["a", "b"]. */
static bool read_merge(struct merge_row *m, const struct json *v)
{
    if (v->type == JSON_ARRAY) {
        const struct json *a = v->child, *b = a ? a->next : NULL;
        if (v->len != 2 || a->type != JSON_STRING || b->type != JSON_STRING) return false;
        *m = (struct merge_row){a->text, b->text, (uint32_t)a->len, (uint32_t)b->len, 0};
        return true;
    }
    const char *space = v->type == JSON_STRING ? strchr(v->text, ' ') : NULL;
    if (!space || strchr(space + 1, ' ')) return false;
    uint32_t left = (uint32_t)(space - v->text);
    *m = (struct merge_row){v->text, space + 1, left, (uint32_t)v->len - left - 1, 0};
    return true;
}

static bool read_merges(struct token_spec *s, const struct json *merges, struct err *e)
{
    if (!is_array(merges)) return err_set(e, ERR_CORRUPT, "tokenizer.json's model has no merges");
    s->merge = arena_take(&s->arena, merges->len, sizeof *s->merge, e);
    if (!s->merge) return false;
    for (const struct json *v = merges->child; v; v = v->next, s->n_merge++)
        if (!read_merge(&s->merge[s->n_merge], v))
            return err_set(e, ERR_CORRUPT, "merge %zu is not a pair of tokens", s->n_merge);
        else
            s->merge[s->n_merge].rank = (uint32_t)s->n_merge;
    return true;
}

/* The id of the token a companion file names ("</s>", or {"content": "</s>"}), or NO_TOKEN. */
static uint32_t named(const struct token_spec *s, const struct json *v)
{
    if (v && v->type == JSON_OBJECT) v = json_get(v, "content");
    if (!v || v->type != JSON_STRING) return NO_TOKEN;
    for (size_t i = s->n; i-- > 0;)
        if (s->token[i].kind != TOKEN_HOLE && s->token[i].len == v->len &&
            memcmp(s->token[i].text, v->text, v->len) == 0)
            return (uint32_t)i;
    return NO_TOKEN;
}

static uint32_t numbered(const struct token_spec *s, const struct json *v)
{
    if (is_array(v)) v = v->child;
    bool fits = v && v->is_int && v->integer >= 0 && (uint64_t)v->integer < s->n;
    return fits ? (uint32_t)v->integer : NO_TOKEN;
}

/* generation_config.json numbers tokens, or else config.json: a number, or a list of them. */
static const struct json *numbers(const struct token_files *f, const char *key)
{
    const struct json *v = json_get(f->generation_config, key);
    return is_null(v) ? json_get(f->config, key) : v;
}

/* tokenizer_config.json names the tokens that chat templates see. One without a name has a number. */
static void read_named(struct token_spec *s, const struct token_files *f)
{
    s->named_bos = named(s, json_get(f->tokenizer_config, "bos_token"));
    s->named_eos = named(s, json_get(f->tokenizer_config, "eos_token"));
    s->bos = s->named_bos != NO_TOKEN ? s->named_bos : numbered(s, numbers(f, "bos_token_id"));
    s->eos = s->named_eos != NO_TOKEN ? s->named_eos : numbered(s, numbers(f, "eos_token_id"));
}

static bool read_enders(struct token_spec *s, const struct json *ids, struct err *e)
{
    size_t n = is_array(ids) ? ids->len : 1;
    uint32_t *ender = arena_take(&s->arena, n, sizeof *ender, e);
    if (!ender) return false;
    for (const struct json *v = is_array(ids) ? ids->child : ids; v; v = is_array(ids) ? v->next : NULL) {
        uint32_t id = numbered(s, v);
        if (id != NO_TOKEN) ender[s->n_ender++] = id;
    }
    s->ender = ender;
    return true;
}

/* The special token that a template for one text begins with, or NO_TOKEN. */
static uint32_t template_begins(const struct token_spec *s, const struct json *post)
{
    const struct json *single = json_get(post, "single");
    const struct json *first = is_array(single) && single->child ? json_get(single->child, "SpecialToken") : NULL;
    const struct json *name = json_get(first, "id");
    if (!name || name->type != JSON_STRING) return NO_TOKEN;
    uint32_t id = numbered(s, json_get(json_get(json_get(post, "special_tokens"), name->text), "ids"));
    return id != NO_TOKEN ? id : named(s, name);
}

/* ["[CLS]", 101] */
static uint32_t pair_begins(const struct token_spec *s, const struct json *post)
{
    const struct json *cls = json_get(post, "cls");
    return is_array(cls) && cls->child ? numbered(s, cls->child->next) : NO_TOKEN;
}

static uint32_t nothing_begins(const struct token_spec *s, const struct json *post)
{
    (void)s, (void)post;
    return NO_TOKEN;
}

static const struct post {
    const char *type;
    uint32_t (*begins)(const struct token_spec *s, const struct json *post);
} posts[] = {
    {"TemplateProcessing", template_begins},
    {"BertProcessing", pair_begins},
    {"RobertaProcessing", pair_begins},
    {"ByteLevel", nothing_begins}, /* offsets only */
};

/* Which token the post-processor puts before a text; the first of a Sequence that does counts. */
static bool read_post_processor(const struct token_spec *s, const struct json *post, uint32_t *begins,
                                struct err *e)
{
    const struct json *type = json_get(post, "type"), *list = json_get(post, "processors");
    if (is_null(post)) return true;
    if (json_is(type, "Sequence") && is_array(list)) {
        for (const struct json *c = list->child; c; c = c->next)
            if (!read_post_processor(s, c, begins, e)) return false;
        return true;
    }
    for (size_t i = 0; i < sizeof posts / sizeof *posts; i++)
        if (json_is(type, posts[i].type)) {
            if (*begins == NO_TOKEN) *begins = posts[i].begins(s, post);
            return true;
        }
    return err_set(e, ERR_UNSUPPORTED, "tokenizer.json's post_processor %.64s is not one we have",
                   type && type->type == JSON_STRING ? type->text : "without a type");
}

/* Does tokenizer_config.json overrule the post-processor? Only with the class of transformers 4 that wrote
 * its post-processor anew from the flag, and whose models were made so. */
static bool flag_decides(const struct json *config, bool *adds)
{
    static const char *const classes[] = {"LlamaTokenizer", "LlamaTokenizerFast"};
    const struct json *class = json_get(config, "tokenizer_class"), *flag = json_get(config, "add_bos_token");
    if (!flag || flag->type != JSON_BOOL) return false;
    *adds = flag->boolean;
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (json_is(class, classes[i])) return true;
    return false;
}

/* The post-processor puts it there, unless the flag decides. */
static bool read_bos(struct token_spec *s, const struct token_files *f, struct err *e)
{
    uint32_t begins = NO_TOKEN;
    bool adds = false;
    if (!read_post_processor(s, json_get(f->tokenizer, "post_processor"), &begins, e)) return false;
    bool decides = flag_decides(f->tokenizer_config, &adds);
    read_named(s, f);
    s->adds_bos = decides ? adds : begins != NO_TOKEN;
    if (begins != NO_TOKEN && (s->bos == NO_TOKEN || !decides)) s->bos = begins;
    return true;
}

/* chat_template of tokenizer_config.json: a text, or a list of which "default" is meant. */
static const char *config_template(const struct json *config)
{
    const struct json *v = json_get(config, "chat_template");
    for (const struct json *c = is_array(v) ? v->child : NULL; c; c = c->next)
        if (json_is(json_get(c, "name"), "default")) v = json_get(c, "template");
    return v && v->type == JSON_STRING ? v->text : NULL;
}

static bool read_unknown(struct token_spec *s, const struct json *model, struct err *e)
{
    const struct json *text = json_get(model, "unk_token");
    s->fuse_unknown = json_flag(model, "fuse_unk", false);
    if (!text || text->type != JSON_STRING) return true;
    const struct json *id = json_get(json_get(model, "vocab"), text->text);
    if (!id) return err_set(e, ERR_CORRUPT, "unk_token \"%.64s\" is not a token", text->text);
    s->unknown = (uint32_t)id->integer;
    return true;
}

static bool read_tokenizer(struct token_spec *s, const struct token_files *f, struct err *e)
{
    const struct json *t = f->tokenizer, *model = json_get(t, "model");
    const struct json *vocab = json_get(model, "vocab"), *added = json_get(t, "added_tokens");
    const struct json *more = json_get(f->tokenizer_config, "added_tokens_decoder");
    if (!model || model->type != JSON_OBJECT)
        return err_set(e, ERR_CORRUPT, "tokenizer.json has no model");
    if (!check_model(model, e)) return false;
    if (!pretokenize_json(json_get(t, "pre_tokenizer"), &s->plan, e) ||
        !normal_plan_json(json_get(t, "normalizer"), &s->normal, e) ||
        !detokenize_json(json_get(t, "decoder"), s->plan.byte_level, &s->detokenize, e) ||
        !read_vocabulary(s, vocab, added, more && more->type == JSON_OBJECT ? more->len : 0, e) ||
        !read_merges(s, json_get(model, "merges"), e) || !token_spec_added(s, vocab, added, more, e))
        return false;
    s->plan.ignore_merges = json_flag(model, "ignore_merges", false);
    s->plan.nfc = normal_plan_has(&s->normal, NORMAL_NFC);
    s->byte_fallback = json_flag(model, "byte_fallback", false);
    return read_unknown(s, model, e) && check_together(s, e);
}

bool token_spec_from_json(struct token_spec *s, const struct token_files *f, struct err *e)
{
    *s = (struct token_spec){.unknown = NO_TOKEN};
    if (!read_tokenizer(s, f, e) || !read_bos(s, f, e)) return false;
    s->chat_template = f->chat_template ? f->chat_template : config_template(f->tokenizer_config);
    return read_enders(s, numbers(f, "eos_token_id"), e);
}
