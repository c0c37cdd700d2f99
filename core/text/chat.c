#include "chat.h"

#include <string.h>

#include "core/base/json.h"
#include "core/jinja/jinja.h"

enum { VARIABLES = 6 };

bool chat_init(struct chat *c, const char *template_text, struct err *e)
{
    *c = (struct chat){0};
    if (!template_text) return true;
    size_t len = strlen(template_text);
    c->text = mem_take(len + 1, 1, e);
    if (!c->text) return false;
    memcpy(c->text, template_text, len);
    c->template = jinja_new(template_text, len, &c->why_not);
    if (c->template) return true;
    (void)err_while(&c->why_not, "reading the model's chat template");
    if (c->why_not.code != ERR_NO_MEMORY) return true;
    *e = c->why_not;
    chat_release(c);
    return false;
}

void chat_release(struct chat *c)
{
    jinja_free(c->template);
    mem_drop(c->text);
    *c = (struct chat){0};
}

/* ---- what the template sees --------------------------------------------------------------------- */

struct given {
    struct arena arena;
    size_t bytes;
    struct jinja_variable variable[VARIABLES];
    size_t n;
};

/* own: the template's word, so that special tokens are parsed in it. */
static bool text_value(struct given *g, const char *s, size_t len, bool own, struct value *out, struct err *e)
{
    size_t bad;
    if (!utf8_valid(s, len, &bad))
        return err_set(e, ERR_INVALID, "a message has %s at byte %zu",
                       s[bad] ? "invalid UTF-8" : "a NUL character", bad);
    unsigned char *origin = arena_take(&g->arena, len + 1, 1, e);
    if (!origin) return false;
    if (own) memset(origin, 1, len);
    g->bytes += len;
    *out = (struct value){.type = V_TEXT, .text = {s, origin, len}};
    return true;
}

static void add(struct given *g, const char *name, struct value v)
{
    g->variable[g->n++] = (struct jinja_variable){name, v};
}

static bool add_token(struct given *g, const char *name, const char *spelling, struct err *e)
{
    struct value v;
    if (!spelling) return true; /* undefined, as there */
    if (!text_value(g, spelling, strlen(spelling), true, &v, e)) return false;
    add(g, name, v);
    return true;
}

static bool is_known_role(const char *role)
{
    static const char *const known[] = {"system",    "user",  "assistant", "tool",       "developer",
                                        "model",     "human", "function",  "ipython",    "observation",
                                        "document",  "tools", "context",   "environment"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i], role) == 0) return true;
    return false;
}

static bool message_value(struct given *g, const struct message *m, struct value *out, struct err *e)
{
    static const unsigned char own[] = {1, 1, 1, 1, 1, 1, 1};
    struct dict *d = arena_take(&g->arena, 1, sizeof *d, e);
    struct pair *pair = d ? arena_take(&g->arena, 2, sizeof *pair, e) : NULL;
    if (!pair) return false;
    pair[0].key = value_text((struct text){"role", own, 4});
    pair[1].key = value_text((struct text){"content", own, 7});
    if (!text_value(g, m->role, strlen(m->role), is_known_role(m->role), &pair[0].value, e) ||
        !text_value(g, m->content, m->content_len, false, &pair[1].value, e))
        return false;
    *d = (struct dict){2, 2, pair};
    *out = (struct value){.type = V_DICT, .dict = d};
    return true;
}

static bool add_messages(struct given *g, const struct conversation *q, struct err *e)
{
    struct list *l = arena_take(&g->arena, 1, sizeof *l, e);
    struct value *item = l ? arena_take(&g->arena, q->n, sizeof *item, e) : NULL;
    if (!item) return false;
    for (size_t i = 0; i < q->n; i++)
        if (!message_value(g, &q->message[i], &item[i], e)) return false;
    *l = (struct list){.kind = LIST, .n = q->n, .item = item};
    add(g, "messages", (struct value){.type = V_LIST, .list = l});
    return true;
}

static bool gather(struct given *g, const struct conversation *q, const struct chat_tokens *tokens, struct err *e)
{
    add(g, "add_generation_prompt", value_bool(q->add_generation_prompt));
    add(g, "tools", VALUE_NONE);
    add(g, "documents", VALUE_NONE);
    return add_messages(g, q, e) && add_token(g, "bos_token", tokens->bos, e) &&
           add_token(g, "eos_token", tokens->eos, e);
}

/* ---- where its own words end --------------------------------------------------------------------- */

static struct section *cut(const char *own, size_t len, struct err *e)
{
    size_t n = 1;
    for (size_t i = 1; i < len; i++) n += own[i] != own[i - 1];
    struct section *s = mem_take(n, sizeof *s, e);
    if (!s) return NULL;
    n = 0;
    for (size_t i = 1; i < len; i++)
        if (own[i] != own[i - 1]) s[n++] = (struct section){i, own[i - 1] != 0};
    s[n] = (struct section){len, len && own[len - 1] != 0};
    return s;
}

bool chat_render(const struct chat *c, const struct conversation *q, const struct chat_tokens *tokens,
                 struct buf *text, struct section **sections, struct err *e)
{
    struct given g = {.n = 0};
    struct sink out = {0};
    *sections = NULL;
    if (!c->text)
        return err_set(e, ERR_UNSUPPORTED, "the model file has no chat template; send text or ids instead of messages");
    if (q->date && !jinja_is_date(q->date))
        return err_set(e, ERR_INVALID, "\"%.20s\" is not a day such as 2024-07-26", q->date);
    if (!c->template) {
        *e = c->why_not;
        return false;
    }
    arena_init(&g.arena, 0);
    bool ok = gather(&g, q, tokens, e);
    const struct jinja_input in = {g.variable, g.n, g.bytes, q->date};
    if (ok && !jinja_render(c->template, &in, &out, e))
        ok = e->code == ERR_INVALID ? false : err_while(e, "rendering the model's chat template");
    if (ok) *sections = cut(out.own.data ? out.own.data : "", out.own.len, e);
    if (*sections) buf_put(text, out.text.data ? out.text.data : "", out.text.len);
    sink_release(&out);
    arena_release(&g.arena);
    return *sections && buf_ok(text, e);
}
