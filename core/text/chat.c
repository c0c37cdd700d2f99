#include "chat.h"

#include <assert.h>
#include <string.h>

#include "jinja.h"

/* The forms, as jinja_read spells their steps. ANY stands for one literal of any text. */
#define ANY NULL
#define TURN                                                                                       \
    {STEP_TEXT, "<|im_start|>"}, {STEP_VALUE, "message . role"}, {STEP_TEXT, "\n"},                \
        {STEP_VALUE, "message . content"}, {STEP_TEXT, "<|im_end|>\n"}, {STEP_TAG, "endfor"},      \
        {STEP_TAG, "if add_generation_prompt"}, {STEP_TEXT, "<|im_start|>assistant\n"},            \
        {STEP_TAG, "endif"}
#define EACH {STEP_TAG, "for message in messages"}
#define DEFAULT_TURN                                                                               \
    {STEP_TAG, "if loop . first and messages [ 0 ] . role != 'system'"}, {STEP_TEXT, ANY},         \
        {STEP_TAG, "endif"}
#define PREAMBLE                                                                                   \
    {STEP_TAG, "if not add_generation_prompt is defined"},                                         \
        {STEP_TAG, "set add_generation_prompt = false"}, {STEP_TAG, "endif"}

enum { FORM_STEPS = 17 };
static const struct form_step {
    enum step_kind kind;
    const char *text;
} forms[][FORM_STEPS] = {
    {EACH, TURN},
    {EACH, DEFAULT_TURN, TURN},
    {PREAMBLE, EACH, TURN},
    {PREAMBLE, EACH, DEFAULT_TURN, TURN},
};

static bool matches(const struct form_step *form, const struct jinja *j, const char **any)
{
    size_t n = 0;
    while (n < FORM_STEPS && form[n].kind != STEP_END) n++;
    if (n != j->n) return false;
    for (size_t i = 0; i < n; i++) {
        if (form[i].kind != j->step[i].kind) return false;
        if (form[i].text == ANY)
            *any = j->step[i].text;
        else if (strcmp(form[i].text, j->step[i].text) != 0)
            return false;
    }
    return true;
}

bool chat_init(struct chat *c, const char *template_text, struct err *e)
{
    *c = (struct chat){0};
    if (!template_text) return true;
    struct jinja j = {0};
    bool ok = jinja_read(&j, template_text, e);
    for (size_t i = 0; ok && j.readable && !c->known && i < sizeof forms / sizeof *forms; i++) {
        const char *any = NULL;
        c->known = matches(forms[i], &j, &any);
        if (!c->known || !any) continue;
        size_t len = strlen(any) + 1;
        c->default_turn = mem_take(len, 1, e);
        if (c->default_turn) memcpy(c->default_turn, any, len);
        ok = c->default_turn != NULL;
    }
    jinja_release(&j);
    if (!ok) chat_release(c);
    return ok;
}

void chat_release(struct chat *c)
{
    mem_drop(c->default_turn);
    *c = (struct chat){0};
}

struct page {
    struct buf *text;
    struct section *section;
    size_t n, from;
};

static void put(struct page *p, const char *bytes, size_t len, bool own)
{
    buf_put(p->text, bytes, len);
    p->section[p->n++] = (struct section){p->text->len - p->from, own};
}

static void put_own(struct page *p, const char *text) { put(p, text, strlen(text), true); }

bool chat_render(const struct chat *c, const struct message *m, size_t n, bool generation_prompt,
                 struct buf *text, struct section **sections, struct err *e)
{
    *sections = NULL;
    if (!c->known)
        return err_set(e, ERR_UNSUPPORTED,
                       "the model's chat template is not one that can be rendered exactly; send "
                       "text or ids instead of messages");
    size_t most;
    if (!size_mul(n, 5, &most) || !size_add(most, 2, &most))
        return err_set(e, ERR_TOO_LARGE, "%zu messages are too many", n);
    struct page p = {text, mem_take(most, sizeof **sections, e), 0, text->len};
    if (!p.section) return false;
    if (n && c->default_turn && strcmp(m[0].role, "system") != 0) put_own(&p, c->default_turn);
    for (size_t i = 0; i < n; i++) {
        put_own(&p, "<|im_start|>");
        put(&p, m[i].role, strlen(m[i].role), false);
        put_own(&p, "\n");
        put(&p, m[i].content, m[i].content_len, false);
        put_own(&p, "<|im_end|>\n");
    }
    if (generation_prompt) put_own(&p, "<|im_start|>assistant\n");
    assert(p.n <= most);
    *sections = p.section;
    return buf_ok(text, e);
}
