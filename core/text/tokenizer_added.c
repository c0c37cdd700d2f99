/* Added tokens of a hub directory: tokenizer.json's added_tokens, and tokenizer_config.json's
 * added_tokens_decoder, which transformers adds to them when it loads the file. A token that is there
 * already takes the later list's word for how it is matched, and once special stays special; a new one
 * gets the next free id, whatever number the list gives it. */
#include <stdlib.h>
#include <string.h>

#include "tokenizer_int.h"

static bool read_row(const struct json *v, struct token_row *out, struct err *e)
{
    const struct json *content = json_get(v, "content"), *normalized = json_get(v, "normalized");
    bool special = json_flag(v, "special", false);
    if (!content || content->type != JSON_STRING || content->len == 0)
        return err_set(e, ERR_CORRUPT, "an added token without content");
    *out = (struct token_row){.text = content->text, .len = (uint32_t)content->len,
                              .kind = special ? TOKEN_SPECIAL : TOKEN_ADDED,
                              .single_word = json_flag(v, "single_word", false),
                              .lstrip = json_flag(v, "lstrip", false),
                              .rstrip = json_flag(v, "rstrip", false),
                              .normalized = normalized ? json_flag(v, "normalized", false) : !special};
    return true;
}

/* One of tokenizer.json: where the vocabulary has its text, under the same id; else in a free row. */
static bool put_row(struct token_spec *s, const struct json *vocab, const struct json *v, struct err *e)
{
    struct token_row row;
    if (!read_row(v, &row, e)) return false;
    uint32_t id = (uint32_t)json_get(v, "id")->integer;
    const struct json *same = json_get(vocab, row.text);
    struct token_row *t = &s->token[id];
    if (same ? same->integer != id : t->text != NULL)
        return err_set(e, ERR_CORRUPT, "added token \"%.64s\" contradicts the vocabulary at id %u",
                       row.text, id);
    row.in_vocabulary = same != NULL;
    *t = row;
    return true;
}

/* ---- tokenizer_config.json's --------------------------------------------------------------------- */

struct numbered {
    unsigned long id;
    const struct json *v;
};

static int by_id(const void *pa, const void *pb)
{
    const struct numbered *a = pa, *b = pb;
    return a->id < b->id ? -1 : a->id > b->id;
}

static bool put_later(struct token_spec *s, struct strmap *added, const struct json *vocab, const struct json *v,
                      struct err *e)
{
    struct token_row row;
    uint32_t id = (uint32_t)s->n;
    if (!read_row(v, &row, e)) return false;
    const struct json *same = json_get(vocab, row.text);
    if (same) id = (uint32_t)same->integer;
    else if (!strmap_get(added, row.text, row.len, &id)) {
        if (s->n == TOKENS_MAX) return err_set(e, ERR_TOO_LARGE, "more than %d tokens", TOKENS_MAX);
        strmap_put(added, row.text, row.len, id);
        s->n++;
    }
    row.in_vocabulary = same != NULL;
    if (s->token[id].kind == TOKEN_SPECIAL) row.kind = TOKEN_SPECIAL;
    s->token[id] = row;
    return true;
}

static bool put_all_later(struct token_spec *s, struct strmap *added, const struct json *vocab,
                          const struct json *decoder, struct err *e)
{
    size_t n = 0;
    struct numbered *list = mem_take(decoder->len, sizeof *list, e);
    if (!list) return false;
    for (const struct json *v = decoder->child; v; v = v->next)
        list[n++] = (struct numbered){strtoul(v->key, NULL, 10), v};
    qsort(list, n, sizeof *list, by_id);
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) ok = put_later(s, added, vocab, list[i].v, e);
    mem_drop(list);
    return ok || err_while(e, "reading tokenizer_config.json's added_tokens_decoder");
}

bool token_spec_added(struct token_spec *s, const struct json *vocab, const struct json *added,
                      const struct json *decoder, struct err *e)
{
    struct strmap seen = {0};
    bool listed = added && added->type == JSON_ARRAY, later = decoder && decoder->type == JSON_OBJECT;
    for (const struct json *v = listed ? added->child : NULL; v; v = v->next)
        if (!put_row(s, vocab, v, e)) return false;
    if (!later) return true;
    if (!strmap_init(&seen, (listed ? added->len : 0) + decoder->len, e)) return false;
    for (const struct json *v = listed ? added->child : NULL; v; v = v->next) {
        const struct json *content = json_get(v, "content");
        strmap_put(&seen, content->text, content->len, (uint32_t)json_get(v, "id")->integer);
    }
    bool ok = put_all_later(s, &seen, vocab, decoder, e);
    strmap_release(&seen);
    return ok;
}
