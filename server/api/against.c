#include "against.h"

#include <string.h>

#include "place.h"

void against_release(struct against *a)
{
    resolved_release(&a->at);
    served_drop(a->other);
    a->other = NULL;
}

static bool same_texts(const char *a, const char *b) { return a && b ? strcmp(a, b) == 0 : a == b; }

/* Are all tokens spelled alike, and is the beginning marked alike? */
static bool same_tokens(const struct tokenizer *a, const struct tokenizer *b)
{
    uint32_t bos[2] = {0}, n = tokenizer_size(a);
    if (n != tokenizer_size(b) || tokenizer_adds_bos(a) != tokenizer_adds_bos(b)) return false;
    if (tokenizer_bos(a, &bos[0]) != tokenizer_bos(b, &bos[1]) || bos[0] != bos[1]) return false;
    for (uint32_t i = 0; i < n; i++) {
        size_t len[2];
        const char *x = tokenizer_piece(a, i, &len[0]), *y = tokenizer_piece(b, i, &len[1]);
        if (len[0] != len[1] || memcmp(x, y, len[0]) != 0) return false;
    }
    return true;
}

static bool same_types(const struct model *a, const struct model *b)
{
    bool same = a->n_tensors == b->n_tensors;
    for (size_t i = 0; same && i < a->n_tensors; i++) same = a->tensors[i].memory.type == b->tensors[i].memory.type;
    return same;
}

static bool fits(const struct against *a, struct look *l, struct err *e)
{
    const struct model *mine = look_model(l), *other = a->other->model;
    const char *differs = arch_differs(&mine->arch, &other->arch), *name = a->other->name;
    if (differs)
        return err_field(e, ERR_INVALID, "against.model", "%.64s and %.64s differ in %s; a pair of models has one description",
                         l->view.model, name, differs);
    if (!same_tokens(mine->tokenizer, other->tokenizer))
        look_warn(l, "tokenizers-differ", "ids are those of %.64s; the tokenizer of %.64s spells some of them otherwise",
                  l->view.model, name);
    if (!same_texts(tokenizer_chat_template(mine->tokenizer), tokenizer_chat_template(other->tokenizer)))
        look_warn(l, "templates-differ", "messages are rendered by the chat template of %.64s, which is not that of %.64s",
                  l->view.model, name);
    if (!same_types(mine, other))
        look_warn(l, "types-differ", "%.64s and %.64s hold their weights in different types: rounding is part of the difference",
                  l->view.model, name);
    return true;
}

bool against_read(struct against *a, struct look *l, struct call *c, const struct json *asked, struct err *e)
{
    if (asked->type == JSON_STRING) {
        if (!look_view(l, c, asked->text, &a->at, e)) return place_blame(e, "against");
    } else {
        struct served *s = models_find(daemon_models(c->daemon), json_get(asked, "model")->text, e);
        if (!s) return place_blame(e, "against.model");
        if (s == l->work.served) served_drop(s);
        else a->other = s;
        if (!served_view(a->other ? a->other : l->work.served, c->reader, json_get(asked, "view")->text, &a->at, e))
            return place_blame(e, "against.view");
        if (a->other && !fits(a, l, e)) return false;
    }
    look_also(l, &a->at);
    l->other = a->other;
    return true;
}
