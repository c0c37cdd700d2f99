/* libFuzzer: texts, whole tokenizer.json files, and chat templates. The first byte of the input
 * chooses.
 *
 * A text is encoded exactly when it is valid UTF-8 without NUL, its ids are in range, and by a
 * tokenizer that has all bytes and changes nothing it comes back as it was. A file builds or is
 * refused, and what it builds can encode. A template is recognised or not, and a recognised one
 * renders.
 */
#include "core/file/infile.h"
#include "core/text/tokenizer_int.h"
#include "fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);

static struct tokenizer *small, *plain;

static struct tokenizer *from_text(const char *text, size_t len, const char *chat, struct err *e)
{
    struct arena a;
    struct token_spec s = {.n = 0};
    arena_init(&a, 64u << 20);
    struct token_files files = {.tokenizer = json_parse(text, len, &a, e), .chat_template = chat};
    bool ok = files.tokenizer && token_spec_from_json(&s, &files, e);
    struct tokenizer *t = ok ? tokenizer_build(&s, e) : NULL;
    token_spec_release(&s);
    arena_release(&a);
    return t;
}

/* Every byte is a token, and nothing else happens to a text. */
static struct tokenizer *bytes_only(struct err *e)
{
    struct buf b = {0};
    buf_text(&b, "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"model\":"
                 "{\"merges\":[\"a a\",\"\xC4\xA0 a\"],\"vocab\":{");
    for (unsigned c = 0x21, n = 0; c <= 0x143; c++)
        if (c <= 0x7E || (c >= 0xA1 && c != 0xAD))
            buf_printf(&b, "%s\"\\u%04x\":%u", n ? "," : "", c, n), n++;
    buf_text(&b, ",\"aa\":300,\"\xC4\xA0" "a\":301}}}");
    struct tokenizer *t = from_text(b.data, b.len, NULL, e);
    buf_release(&b);
    return t;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    struct err e;
    size_t len;
    char *text = infile_whole("tests/golden/tokenizer/tiny.json", 1 << 20, &len, &e);
    small = text ? from_text(text, len, NULL, &e) : NULL;
    plain = bytes_only(&e);
    mem_drop(text);
    must(small && plain);
    return 0;
}

static void encode(const struct tokenizer *t, const char *text, size_t len, bool round_trip)
{
    for (int special = 0; special < 2; special++) {
        struct err e;
        struct ids ids = {0};
        struct buf back = {0};
        size_t bad;
        bool ok = tokenizer_encode(t, text, len, special, &ids, &e);
        must(ok == utf8_valid(text, len, &bad));
        for (size_t i = 0; i < ids.n; i++) must(ids.id[i] < tokenizer_size(t));
        tokenizer_decode(t, ids.id, ids.n, special, &back);
        must(!back.len || utf8_valid(back.data, back.len, &bad));
        if (ok && round_trip) must(back.len == len && (!len || memcmp(back.data, text, len) == 0));
        buf_release(&back);
        ids_release(&ids);
    }
}

static void whole_file(const char *text, size_t len)
{
    struct err e;
    struct tokenizer *t = from_text(text, len, NULL, &e);
    static const char sample[] = "ab  12\n caf\xC3\xA9 <|im_end|> \xF0\x9F\x98\x80";
    if (t) encode(t, sample, sizeof sample - 1, false);
    tokenizer_free(t);
}

static void chat(const char *text, size_t len)
{
    struct err e;
    struct ids ids = {0};
    struct buf copy = {0}, shown = {0};
    const struct message m = {"user", text, len};
    buf_put(&copy, text, len);
    static const char one_token[] =
        "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"merges\":[],\"vocab\":{\"a\":0}}}";
    struct tokenizer *t = from_text(one_token, sizeof one_token - 1, copy.data ? copy.data : "", &e);
    const struct conversation c = {&m, 1, true, NULL};
    if (t && !tokenizer_chat(t, &c, &ids, &shown, &e)) must(ids.n == 0);
    tokenizer_free(t);
    buf_release(&copy);
    buf_release(&shown);
    ids_release(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    const char *text = (const char *)data + 1;
    switch (data[0] % 4) {
    case 0: encode(small, text, size - 1, false); break;
    case 1: encode(plain, text, size - 1, true); break;
    case 2: whole_file(text, size - 1); break;
    default: chat(text, size - 1); break;
    }
    return 0;
}
