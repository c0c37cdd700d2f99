#include "input.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "core/jinja/jinja.h"

enum { FIELD = sizeof((struct err *)0)->field };

/* An error of the tokenizer, now with the field to blame. */
static bool blame(struct err *e, const char *field)
{
    if (!e->field[0]) (void)snprintf(e->field, sizeof e->field, "%s", field);
    return false;
}

static bool resolve_ids(const struct model *m, const struct json *list, const char *field,
                        struct ids *ids, struct err *e)
{
    size_t i = 0;
    for (const struct json *c = list->child; c; c = c->next, i++) {
        if (c->integer < 0 || c->integer >= m->arch.d_vocab) {
            struct buf path = {0};
            buf_printf(&path, "%s[%zu]", field, i);
            (void)err_field(e, ERR_INVALID, path.failed ? field : path.data,
                            "must be a token id, 0 to %u", m->arch.d_vocab - 1);
            buf_release(&path);
            return false;
        }
        if (!ids_push(ids, (uint32_t)c->integer, e)) return false;
    }
    return true;
}

/* Which template wrote the text: the hash of the file's own bytes. */
static void name_template(const struct model *m, char out[DIGEST_TEXT])
{
    uint8_t hash[SHA256_BYTES];
    const char *text = tokenizer_chat_template(m->tokenizer);
    sha256(text, strlen(text), hash);
    digest_text(hash, out);
}

static bool resolve_messages(const struct model *m, const struct json *list, bool open_turn, const struct json *date,
                             struct ids *ids, struct buf *rendered, struct err *e)
{
    struct message *messages = mem_take(list->len, sizeof *messages, e);
    if (!messages) return false;
    size_t n = 0;
    for (const struct json *c = list->child; c; c = c->next) {
        const struct json *role = json_get(c, "role"), *content = json_get(c, "content");
        messages[n++] = (struct message){role->text, content->text, content->len};
    }
    const struct conversation c = {messages, n, open_turn, date ? date->text : NULL};
    bool ok = tokenizer_chat(m->tokenizer, &c, ids, rendered, e);
    mem_drop(messages);
    return ok;
}

/* Put a beginning-of-sequence token in front where it belongs. */
static bool add_bos(const struct model *m, const struct json *overrule, bool by_default,
                    struct ids *ids, bool *added, struct err *e)
{
    uint32_t bos;
    bool has = tokenizer_bos(m->tokenizer, &bos);
    if (overrule && overrule->boolean && !has)
        return err_set(e, ERR_INVALID, "this model has no beginning-of-sequence token");
    if (!has || !(overrule ? overrule->boolean : by_default)) return true;
    if (!ids_push(ids, bos, e)) return false;
    memmove(ids->id + 1, ids->id, (ids->n - 1) * sizeof *ids->id);
    ids->id[0] = bos;
    *added = true;
    return true;
}

static bool begins_with_bos(const struct model *m, const struct ids *ids)
{
    uint32_t bos;
    return ids->n && tokenizer_bos(m->tokenizer, &bos) && ids->id[0] == bos;
}

struct source { /* which of the forms an INPUT has */
    const struct json *text, *ids, *messages, *bos, *open_turn, *date;
    char field[FIELD];     /* of the form itself */
    char bos_field[FIELD], date_field[FIELD];
};

static void find_source(const struct json *in, const char *field, struct source *s)
{
    *s = (struct source){0};
    const char *dot = field[0] ? "." : "", *form = "";
    if (in->type == JSON_STRING) {
        s->text = in;
        dot = "";
    } else {
        s->bos = json_get(in, "bos");
        s->open_turn = json_get(in, "add_generation_prompt");
        s->date = json_get(in, "date");
        if ((s->text = json_get(in, "text"))) form = "text";
        else if ((s->ids = json_get(in, "ids"))) form = "ids";
        else if ((s->messages = json_get(in, "messages"))) form = "messages";
    }
    (void)snprintf(s->field, sizeof s->field, "%s%s%s", field, dot, form);
    (void)snprintf(s->bos_field, sizeof s->bos_field, "%s%sbos", field, dot);
    (void)snprintf(s->date_field, sizeof s->date_field, "%s%sdate", field, dot);
}

static bool encode(const struct model *m, const struct source *s, struct ids *ids,
                   struct buf *text, bool *bos, struct err *e)
{
    if (s->ids) {
        *bos = false;
        return resolve_ids(m, s->ids, s->field, ids, e);
    }
    *bos = tokenizer_adds_bos(m->tokenizer);
    if (s->text) {
        buf_put(text, s->text->text, s->text->len);
        return tokenizer_encode(m->tokenizer, s->text->text, s->text->len, true, ids, e);
    }
    assert(s->messages);
    if (!resolve_messages(m, s->messages, !s->open_turn || s->open_turn->boolean, s->date, ids, text, e))
        return false;
    *bos = *bos && !begins_with_bos(m, ids);
    return true;
}

static bool check_length(const struct model *m, const struct ids *ids, const char *field,
                         struct err *e)
{
    if (ids->n == 0) return err_field(e, ERR_INVALID, field, "has no tokens");
    if (ids->n <= m->arch.context) return true;
    return err_field(e, ERR_INVALID, field, "has %zu tokens; the model's context is 1 to %u",
                     ids->n, m->arch.context);
}

bool input_resolve(const struct model *m, const struct json *in, const char *field,
                   struct input *out, struct err *e)
{
    *out = (struct input){0};
    struct source s;
    struct ids ids = {0};
    struct buf text = {0};
    struct err fault = {0};
    find_source(in, field, &s);
    if (s.date && !jinja_is_date(s.date->text))
        return err_field(e, ERR_INVALID, s.date_field, "\"%.20s\" is not a day such as 2024-07-26", s.date->text);
    bool bos = false, ok = encode(m, &s, &ids, &text, &bos, &fault) && buf_ok(&text, &fault);
    if (!ok) (void)blame(&fault, s.field);
    if (ok && !add_bos(m, s.bos, bos, &ids, &out->bos_added, &fault)) ok = blame(&fault, s.bos_field);
    if (ok) ok = check_length(m, &ids, s.field, &fault);
    if (!ok) {
        ids_release(&ids);
        buf_release(&text);
        *out = (struct input){0};
        *e = fault;
        return false;
    }
    out->ids = ids.id;
    out->n = ids.n;
    out->text = s.ids ? NULL : buf_detach(&text);
    if (s.messages) name_template(m, out->template);
    return true;
}

void input_release(struct input *in)
{
    struct ids ids = {.id = in->ids, .n = in->n, .cap = in->n};
    ids_release(&ids);
    mem_drop(in->text);
    *in = (struct input){0};
}

void input_tokens(jout *o, const char *key, const struct model *m, const uint32_t *ids, size_t n)
{
    jout *list = jout_put_array(o, key);
    struct buf b = {0};
    for (size_t i = 0; i < n; i++) {
        b.len = 0;
        buf_put(&b, "", 0);
        tokenizer_show(m->tokenizer, ids[i], &b);
        if (b.failed) jout_add(list, NULL, NULL); /* marks the answer as broken */
        else jout_text(list, NULL, b.data);
    }
    buf_release(&b);
}

void input_rendered(jout *o, const struct input *in)
{
    if (!in->template[0]) return;
    jout_text(o, "rendered", in->text);
    jout_text(o, "template", in->template);
}

void input_echo(jout *o, const struct model *m, const struct input *in)
{
    jout_u32s(o, "ids", in->ids, in->n);
    input_tokens(o, "tokens", m, in->ids, in->n);
    jout_bool(o, "bos_added", in->bos_added);
    input_rendered(o, in);
}
