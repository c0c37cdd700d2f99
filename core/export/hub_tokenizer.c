#include "hub_tokenizer.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "core/base/json_write.h"
#include "core/text/strmap.h"
#include "core/text/tokenizer_int.h"

static const char *truth(bool b) { return b ? "true" : "false"; }

static void put_token_text(struct buf *out, const struct token_spec *s, size_t id)
{
    json_write_text(out, s->token[id].text, s->token[id].len);
}

/* ---- how text is cut ------------------------------------------------------------------------ */

static void put_split(struct buf *out, enum split_id split)
{
    const char *regex = split_regex(split);
    if (!regex) {
        buf_printf(out, "{\"type\":\"Digits\",\"individual_digits\":%s},",
                   split == SPLIT_DIGIT ? "true" : "false");
        return;
    }
    buf_text(out, "{\"type\":\"Split\",\"pattern\":{\"Regex\":");
    json_write_text(out, regex, strlen(regex));
    buf_text(out, "},\"behavior\":\"Isolated\",\"invert\":false},");
}

/* A last split by GPT-2's pattern is ByteLevel's own. */
static void put_pre_tokenizer(struct buf *out, const struct pretokenize_plan *plan)
{
    bool own = plan->n && plan->split[plan->n - 1] == SPLIT_GPT2;
    assert(!plan->prefix_space && plan->mark_prefix == MARK_NONE); /* no GGUF asks for it */
    if (!plan->byte_level) {
        assert(plan->n == 0);
        buf_text(out, "\"pre_tokenizer\":null,\n");
        return;
    }
    buf_text(out, "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[");
    for (size_t i = 0; i + own < plan->n; i++) put_split(out, (enum split_id)plan->split[i]);
    buf_printf(out,
               "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
               "\"use_regex\":%s}]},\n",
               own ? "true" : "false");
}

/* The steps that a GGUF file can ask for. */
static void put_normal_step(struct buf *out, const struct normal_step *s)
{
    switch ((enum normal_op)s->op) {
    case NORMAL_NFC: buf_text(out, "{\"type\":\"NFC\"}"); break;
    case NORMAL_PREPEND:
        buf_text(out, "{\"type\":\"Prepend\",\"prepend\":");
        json_write_text(out, s->put, s->put_len);
        buf_text(out, "}");
        break;
    case NORMAL_REPLACE:
        buf_text(out, "{\"type\":\"Replace\",\"pattern\":{\"String\":");
        json_write_text(out, s->find, s->find_len);
        buf_text(out, "},\"content\":");
        json_write_text(out, s->put, s->put_len);
        buf_text(out, "}");
        break;
    default: assert(!"no GGUF asks for it");
    }
}

static void put_normalizer(struct buf *out, const struct normal_plan *plan)
{
    if (plan->n == 0) {
        buf_text(out, "\"normalizer\":null,\n");
        return;
    }
    buf_text(out, plan->n > 1 ? "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[" : "\"normalizer\":");
    for (size_t i = 0; i < plan->n; i++) {
        buf_text(out, i ? "," : "");
        put_normal_step(out, &plan->step[i]);
    }
    buf_text(out, plan->n > 1 ? "]},\n" : ",\n");
}

static void put_decoder(struct buf *out, const struct detokenize_plan *p)
{
    if (p->byte_level) {
        buf_text(out, "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,"
                      "\"trim_offsets\":true,\"use_regex\":true},\n");
        return;
    }
    assert(p->byte_fallback && !p->bare_first && p->right == 0);
    buf_text(out, "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":");
    json_write_text(out, p->mark, strlen(p->mark));
    buf_text(out, "},\"content\":");
    json_write_text(out, p->put, strlen(p->put));
    buf_text(out, "},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}");
    if (p->left) buf_printf(out, ",{\"type\":\"Strip\",\"content\":\" \",\"start\":%u,\"stop\":0}", p->left);
    buf_text(out, "]},\n");
}

/* ---- what is added -------------------------------------------------------------------------- */

static void put_added(struct buf *out, const struct token_spec *s)
{
    const char *between = "\n";
    buf_text(out, "\"added_tokens\":[");
    for (size_t i = 0; i < s->n; i++) {
        if (s->token[i].kind < TOKEN_ADDED) continue;
        buf_printf(out, "%s{\"id\":%zu,\"content\":", between, i);
        put_token_text(out, s, i);
        buf_printf(out,
                   ",\"single_word\":false,\"lstrip\":false,\"rstrip\":%s,\"normalized\":%s,\"special\":%s}",
                   truth(s->token[i].rstrip), truth(s->token[i].normalized),
                   truth(s->token[i].kind == TOKEN_SPECIAL));
        between = ",\n";
    }
    buf_text(out, "],\n");
}

static void put_sequence(struct buf *out, const struct token_spec *s, const char *id, int type)
{
    buf_text(out, "{\"SpecialToken\":{\"id\":");
    put_token_text(out, s, s->bos);
    buf_printf(out, ",\"type_id\":%d}},{\"Sequence\":{\"id\":\"%s\",\"type_id\":%d}}", type, id, type);
}

static void put_post_processor(struct buf *out, const struct token_spec *s)
{
    if (!s->adds_bos || s->bos == NO_TOKEN) {
        buf_text(out, "\"post_processor\":null,\n");
        return;
    }
    buf_text(out, "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[");
    put_sequence(out, s, "A", 0);
    buf_text(out, "],\"pair\":[");
    put_sequence(out, s, "A", 0);
    buf_text(out, ",");
    put_sequence(out, s, "B", 1);
    buf_text(out, "],\"special_tokens\":{");
    put_token_text(out, s, s->bos);
    buf_text(out, ":{\"id\":");
    put_token_text(out, s, s->bos);
    buf_printf(out, ",\"ids\":[%" PRIu32 "],\"tokens\":[", s->bos);
    put_token_text(out, s, s->bos);
    buf_text(out, "]}}},\n");
}

/* ---- vocabulary and merges ------------------------------------------------------------------ */

/* The id that a token's spelling means: the last one that has it. */
static bool map_spellings(const struct token_spec *s, struct strmap *map, struct err *e)
{
    if (!strmap_init(map, s->n, e)) return false;
    for (size_t i = 0; i < s->n; i++)
        if (s->token[i].kind != TOKEN_HOLE)
            strmap_put(map, s->token[i].text, s->token[i].len, (uint32_t)i);
    return true;
}

static bool put_vocabulary(struct buf *out, const struct token_spec *s, const struct strmap *map,
                           struct err *e)
{
    const char *between = "\n";
    buf_text(out, "\"vocab\":{");
    for (size_t i = 0; i < s->n; i++) {
        const struct token_row *t = &s->token[i];
        uint32_t meant = 0;
        if (t->kind == TOKEN_HOLE) continue;
        if (!strmap_get(map, t->text, t->len, &meant) || meant != i) {
            if (t->kind == TOKEN_PLAIN) continue;
            return err_set(e, ERR_UNSUPPORTED,
                           "tokens %zu and %u are both spelled \"%.64s\", which tokenizer.json "
                           "cannot say", i, meant, t->text);
        }
        buf_text(out, between);
        put_token_text(out, s, i);
        buf_printf(out, ":%zu", i);
        between = ",\n";
    }
    buf_text(out, "},\n");
    return true;
}

/* A merge of a character that is no token has no place in tokenizer.json. */
static bool check_merge(const struct merge_row *m, const struct strmap *map, struct err *e)
{
    uint32_t id;
    if (strmap_get(map, m->left, m->left_len, &id) && strmap_get(map, m->right, m->right_len, &id))
        return true;
    return err_set(e, ERR_UNSUPPORTED,
                   "the token \"%.*s%.*s\" is made of a character that is no token, which tokenizer.json cannot say",
                   (int)m->left_len, m->left, (int)m->right_len, m->right);
}

static bool put_merges(struct buf *out, const struct token_spec *s, const struct strmap *map,
                       struct err *e)
{
    buf_text(out, "\"merges\":[");
    for (size_t i = 0; i < s->n_merge; i++) {
        const struct merge_row *m = &s->merge[i];
        if (s->spare && !check_merge(m, map, e)) return false;
        buf_text(out, i ? ",\n[" : "\n[");
        json_write_text(out, m->left, m->left_len);
        buf_text(out, ",");
        json_write_text(out, m->right, m->right_len);
        buf_text(out, "]");
    }
    buf_text(out, "]");
    return true;
}

static bool put_model(struct buf *out, const struct token_spec *s, struct err *e)
{
    struct strmap map = {0};
    if (!map_spellings(s, &map, e)) return false;
    buf_text(out, "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":");
    if (s->unknown == NO_TOKEN)
        buf_text(out, "null");
    else
        put_token_text(out, s, s->unknown);
    buf_printf(out,
               ",\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,"
               "\"fuse_unk\":%s,\"byte_fallback\":%s,\"ignore_merges\":%s,\n",
               truth(s->fuse_unknown), truth(s->byte_fallback), truth(s->plan.ignore_merges));
    bool ok = put_vocabulary(out, s, &map, e) && put_merges(out, s, &map, e);
    strmap_release(&map);
    buf_text(out, "}");
    return ok;
}

static bool put_tokenizer(struct buf *out, const struct token_spec *s, struct err *e)
{
    buf_text(out, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n");
    put_added(out, s);
    put_normalizer(out, &s->normal);
    put_pre_tokenizer(out, &s->plan);
    put_post_processor(out, s);
    put_decoder(out, &s->detokenize);
    if (!put_model(out, s, e)) return false;
    buf_text(out, "}\n");
    return buf_ok(out, e);
}

bool hub_tokenizer(const struct gguf *g, struct buf *out, struct err *e)
{
    struct token_spec s;
    bool ok = token_spec_from_gguf(&s, g, e) && put_tokenizer(out, &s, e);
    token_spec_release(&s);
    return ok || err_while(e, "writing tokenizer.json");
}

/* ---- tokenizer_config.json ------------------------------------------------------------------ */

static uint32_t id_under(const struct gguf *g, const struct token_spec *s, const char *key)
{
    int64_t v;
    return gguf_int(g, key, &v) && v >= 0 && (uint64_t)v < s->n ? (uint32_t)v : NO_TOKEN;
}

static void put_named(struct buf *out, const struct token_spec *s, const char *key, uint32_t id)
{
    if (id == NO_TOKEN || s->token[id].kind == TOKEN_HOLE) return;
    buf_printf(out, "  \"%s\": ", key);
    put_token_text(out, s, id);
    buf_text(out, ",\n");
}

static void put_config(struct buf *out, const struct gguf *g, const struct token_spec *s,
                       uint32_t context)
{
    buf_printf(out, "{\n  \"add_bos_token\": %s,\n  \"add_prefix_space\": false,\n",
               s->adds_bos ? "true" : "false");
    put_named(out, s, "bos_token", s->bos);
    put_named(out, s, "eos_token", s->eos);
    put_named(out, s, "pad_token", id_under(g, s, "tokenizer.ggml.padding_token_id"));
    put_named(out, s, "unk_token", id_under(g, s, "tokenizer.ggml.unknown_token_id"));
    if (s->chat_template) {
        buf_text(out, "  \"chat_template\": ");
        json_write_text(out, s->chat_template, strlen(s->chat_template));
        buf_text(out, ",\n");
    }
    buf_printf(out,
               "  \"clean_up_tokenization_spaces\": false,\n  \"model_max_length\": %" PRIu32 ",\n"
               "  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n",
               context);
}

bool hub_tokenizer_config(const struct gguf *g, uint32_t context, struct buf *out, struct err *e)
{
    struct token_spec s;
    bool ok = token_spec_from_gguf(&s, g, e);
    if (ok) put_config(out, g, &s, context);
    ok = ok && buf_ok(out, e);
    token_spec_release(&s);
    return ok || err_while(e, "writing tokenizer_config.json");
}
