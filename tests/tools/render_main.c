/* Renders chat templates for the parity test.
 *
 *   render < REQUESTS
 *
 * One JSON object a line: {"template","messages":[{"role","content"}],"add_generation_prompt"} and
 * perhaps "bos_token", "eos_token", "date". One line out for each: {"text", "foreign"}, foreign being
 * the byte ranges [from, end) that messages gave; or {"error", "says"}.
 */
#include <stdio.h>
#include <string.h>

#include "core/base/json_write.h"
#include "core/text/chat.h"

enum { MEMORY = 64 << 20 };

static const char *member(const struct json *q, const char *name)
{
    const struct json *v = json_get(q, name);
    return v && v->type == JSON_STRING ? v->text : NULL;
}

static bool render(const struct json *q, struct arena *a, struct buf *text, struct section **sections, struct err *e)
{
    const struct json *list = json_get(q, "messages"), *open = json_get(q, "add_generation_prompt");
    struct message *m = arena_take(a, list->len, sizeof *m, e);
    struct chat chat;
    if (!m || !chat_init(&chat, member(q, "template"), e)) return false;
    size_t n = 0;
    for (const struct json *v = list->child; v; v = v->next) {
        const struct json *content = json_get(v, "content");
        m[n++] = (struct message){member(v, "role"), content->text, content->len};
    }
    const struct conversation c = {m, n, open && open->boolean, member(q, "date")};
    const struct chat_tokens tokens = {member(q, "bos_token"), member(q, "eos_token")};
    bool ok = chat_render(&chat, &c, &tokens, text, sections, e);
    chat_release(&chat);
    return ok;
}

static void answer(const char *line, size_t len)
{
    struct err e = {0};
    struct arena a;
    struct buf text = {0}, out = {0};
    struct section *sections = NULL;
    arena_init(&a, MEMORY);
    const struct json *q = json_parse(line, len, &a, &e);
    bool ok = q && render(q, &a, &text, &sections, &e);
    buf_text(&out, ok ? "{\"text\":" : "{\"error\":");
    if (ok) json_write_text(&out, text.data ? text.data : "", text.len);
    else json_write_text(&out, err_word(e.code), strlen(err_word(e.code)));
    buf_text(&out, ok ? ",\"foreign\":[" : ",\"says\":");
    if (!ok) json_write_text(&out, e.text, strlen(e.text));
    size_t from = 0, n = 0;
    for (size_t i = 0; ok && from < text.len; from = sections[i++].end)
        if (!sections[i].parse_special)
            buf_printf(&out, "%s[%zu,%zu]", n++ ? "," : "", from, sections[i].end);
    (void)printf("%s%s}\n", out.data, ok ? "]" : "");
    buf_release(&out);
    buf_release(&text);
    mem_drop(sections);
    arena_release(&a);
}

int main(void)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    while ((n = getline(&line, &cap, stdin)) > 0) answer(line, (size_t)n);
    free(line);
    return 0;
}
