/* libFuzzer: chat templates. The input is one; it is read and rendered for a small conversation.
 *
 * It is refused in a sentence, or gives valid UTF-8 whose sections are in order and end with it, the
 * same whenever it is asked. The templates of tests/golden/chat are good ones to begin with.
 */
#include "core/base/json.h"
#include "core/text/chat.h"
#include "fuzz.h"

static bool render(const struct chat *c, const char *date, struct buf *text, struct section **sections)
{
    static const struct message talk[] = {
        {"system", " \xE1\x88\x80 ", 5}, {"user", "\xE1\x88\x80,<|x|>\n", 11}, {"odd", "</think>\xE1\x88\x80", 11}};
    const struct conversation q = {talk, 3, true, date};
    const struct chat_tokens tokens = {"<s>", "</s>"};
    struct err e = {0};
    bool ok = chat_render(c, &q, &tokens, text, sections, &e);
    size_t bad;
    must(ok || (e.code != ERR_NONE && e.text[0] && utf8_valid(e.text, strlen(e.text), &bad)));
    return ok;
}

static void check(const char *template)
{
    struct err e = {0};
    struct chat c;
    struct buf text = {0}, again = {0};
    struct section *sections = NULL, *same = NULL;
    size_t bad, i = 0;
    if (!chat_init(&c, template, &e)) return;
    if (render(&c, NULL, &text, &sections)) {
        must(!text.len || utf8_valid(text.data, text.len, &bad));
        for (size_t from = 0; from < text.len; from = sections[i++].end) must(sections[i].end > from);
        must(!i || sections[i - 1].end == text.len);
        must(render(&c, NULL, &again, &same) && again.len == text.len);
        must(!text.len || memcmp(text.data, again.data, text.len) == 0);
    }
    mem_drop(sections);
    mem_drop(same);
    sections = NULL;
    (void)render(&c, "2024-07-26", &text, &sections);
    mem_drop(sections);
    buf_release(&text);
    buf_release(&again);
    chat_release(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *template = malloc(size + 1);
    if (!template) return 0;
    if (size) memcpy(template, data, size);
    template[size] = '\0';
    check(template);
    free(template);
    return 0;
}
