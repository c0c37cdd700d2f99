/* The tokenizer against ids, texts and conversations made by the reference implementations
 * (tests/golden/make_tokenizer.py). The default model's cases need its file: ENGRAM_MODEL. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/file/infile.h"
#include "core/text/tokenizer_int.h"
#include "tests/unit/support/gguf_bytes.h"

#define GOLDEN "tests/golden/tokenizer/"

struct fixture {
    struct arena arena;
    struct tokenizer *small;
};
static struct fixture fix;

static const struct json *golden(const char *name)
{
    struct err e;
    char path[128];
    size_t len;
    (void)snprintf(path, sizeof path, GOLDEN "%s", name);
    char *text = infile_whole(path, 1 << 24, &len, &e);
    if (!text) fail_msg("%s", e.text);
    const struct json *j = json_parse(text, len, &fix.arena, &e);
    if (!j) fail_msg("%s: %s", name, e.text);
    mem_drop(text);
    return j;
}

static struct tokenizer *from_files(const struct token_files *files, struct err *e)
{
    struct token_spec s;
    bool ok = token_spec_from_json(&s, files, e);
    struct tokenizer *t = ok ? tokenizer_build(&s, e) : NULL;
    token_spec_release(&s);
    return t;
}

static struct tokenizer *from_text(const char *text, struct err *e)
{
    struct token_files files = {.tokenizer = json_parse(text, strlen(text), &fix.arena, e)};
    return files.tokenizer ? from_files(&files, e) : NULL;
}

static int set_up(void **state)
{
    (void)state;
    struct err e;
    arena_init(&fix.arena, 0);
    struct token_files files = {.tokenizer = golden("tiny.json")};
    fix.small = from_files(&files, &e);
    if (!fix.small) print_message("%s\n", e.text);
    return fix.small ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    tokenizer_free(fix.small);
    arena_release(&fix.arena);
    return 0;
}

/* ---- ids ----------------------------------------------------------------------------------- */

static void expect_ids(const struct ids *got, const struct json *want, const char *text)
{
    size_t i = 0;
    for (const struct json *v = want->child; v; v = v->next, i++)
        if (i >= got->n || got->id[i] != (uint32_t)v->integer)
            fail_msg("id %zu of %zu differs from %lld in: %.80s", i, got->n, (long long)v->integer,
                     text);
    if (i != got->n) fail_msg("%zu ids, not %zu, in: %.80s", got->n, i, text);
}

static void expect_text(const struct buf *got, const char *want, size_t len)
{
    if (got->len != len || memcmp(got->data ? got->data : "", want, len) != 0)
        fail_msg("got \"%.200s\", not \"%.200s\"", got->data ? got->data : "", want);
}

/* One row: ids of the plain text, ids with special spellings parsed, and the way back. */
static void check_case(const struct tokenizer *t, const struct json *row)
{
    struct err e;
    const struct json *text = json_get(row, "text"), *special = json_get(row, "special");
    const struct json *decoded = json_get(row, "decoded");
    struct ids ids = {0};
    struct buf back = {0};
    if (!tokenizer_encode(t, text->text, text->len, false, &ids, &e)) fail_msg("%s", e.text);
    expect_ids(&ids, json_get(row, "ids"), text->text);
    ids.n = 0;
    if (!tokenizer_encode(t, text->text, text->len, true, &ids, &e)) fail_msg("%s", e.text);
    expect_ids(&ids, special ? special : json_get(row, "ids"), text->text);
    tokenizer_decode(t, ids.id, ids.n, true, &back);
    if (!decoded || decoded->type == JSON_STRING)
        expect_text(&back, decoded ? decoded->text : text->text, decoded ? decoded->len : text->len);
    buf_release(&back);
    ids_release(&ids);
}

static size_t check_cases(const struct tokenizer *t, const struct json *list)
{
    size_t n = 0;
    for (const struct json *row = list->child; row; row = row->next, n++) check_case(t, row);
    return n;
}

static void small_tokenizer_gives_the_reference_ids(void **state)
{
    (void)state;
    assert_true(check_cases(fix.small, json_get(golden("cases.json"), "cases")) > 300);
}

/* ---- conversations ------------------------------------------------------------------------- */

enum { MESSAGES = 8 };

static size_t read_messages(const struct json *list, struct message m[MESSAGES])
{
    size_t n = 0;
    for (const struct json *v = list->child; v; v = v->next) {
        const struct json *role = v->child, *content = role->next;
        assert_true(n < MESSAGES);
        m[n++] = (struct message){role->text, content->text, content->len};
    }
    return n;
}

/* ---- refusals ------------------------------------------------------------------------------ */

static void bad_text_is_refused_with_its_offset(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t len;
        const char *says;
    } bad[] = {
        {"ab\xFF", 3, "invalid UTF-8 at byte 2"},
        {"\x80", 1, "invalid UTF-8 at byte 0"},
        {"a\xC3", 2, "invalid UTF-8 at byte 1"},
        {"\xC0\xAF", 2, "invalid UTF-8 at byte 0"},
        {"xy\xED\xA0\x80", 5, "invalid UTF-8 at byte 2"},
        {"\xF4\x90\x80\x80", 4, "invalid UTF-8 at byte 0"},
        {"\xE2\x82", 2, "invalid UTF-8 at byte 0"},
        {"a\0b", 3, "a NUL character at byte 1"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e = {0};
        struct ids ids = {0};
        assert_true(ids_push(&ids, 7, &e));
        assert_false(tokenizer_encode(fix.small, bad[i].text, bad[i].len, true, &ids, &e));
        assert_int_equal(e.code, ERR_INVALID);
        assert_non_null(strstr(e.text, bad[i].says));
        assert_int_equal(ids.n, 1); /* nothing was appended */
        ids_release(&ids);
    }
}

/* A tokenizer.json of one changed part, and the error it must give (NULL: it is fine). */
#define MODEL(vocab, merges, more)                                                                 \
    "\"model\":{\"type\":\"BPE\"," more "\"vocab\":" vocab ",\"merges\":" merges "}"
#define BYTE_LEVEL "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
#define METASPACE(scheme)                                                                          \
    "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"prepend_scheme\":" scheme "},"                     \
    "\"decoder\":{\"type\":\"Metaspace\"}"
#define DECODER(list) "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[" list "]}"
#define SPLIT_ON(pattern, behavior)                                                                \
    "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{" pattern "},\"behavior\":" behavior "},"   \
    DECODER("{\"type\":\"Fuse\"}") ","
#define AB "{\"a\":0,\"b\":1,\"ab\":2}"
static const struct {
    const char *json;
    enum err_code code;
    const char *says;
} files[] = {
    {"{" BYTE_LEVEL MODEL(AB, "[\"a b\"]", "") "}", ERR_NONE, NULL},
    {"{" BYTE_LEVEL MODEL(AB, "[[\"a\",\"b\"]]", "") "}", ERR_NONE, NULL},
    {"{}", ERR_CORRUPT, "no model"},
    {"[]", ERR_CORRUPT, "no model"},
    {"{" BYTE_LEVEL MODEL("{}", "[]", "") "}", ERR_CORRUPT, "no tokens"},
    {"{" BYTE_LEVEL MODEL("[]", "[]", "") "}", ERR_CORRUPT, "no vocab"},
    {"{" BYTE_LEVEL MODEL("{\"a\":-1}", "[]", "") "}", ERR_CORRUPT, "a token id"},
    {"{" BYTE_LEVEL MODEL("{\"a\":4294967295}", "[]", "") "}", ERR_CORRUPT, "a token id"},
    {"{" BYTE_LEVEL MODEL("{\"a\":1.5}", "[]", "") "}", ERR_CORRUPT, "a token id"},
    {"{" BYTE_LEVEL MODEL("{\"a\":0,\"b\":0}", "[]", "") "}", ERR_CORRUPT, "gives id 0"},
    {"{" BYTE_LEVEL MODEL(AB, "{}", "") "}", ERR_CORRUPT, "no merges"},
    {"{" BYTE_LEVEL MODEL(AB, "[\"a c\"]", "") "}", ERR_CORRUPT, "merge 0 names \"c\""},
    {"{" BYTE_LEVEL MODEL(AB, "[\"a b\",\"b a\"]", "") "}", ERR_CORRUPT, "merge 1 names \"ba\""},
    {"{" BYTE_LEVEL MODEL(AB, "[\"ab\"]", "") "}", ERR_CORRUPT, "merge 0 is not a pair"},
    {"{" BYTE_LEVEL MODEL(AB, "[\"a  b\"]", "") "}", ERR_CORRUPT, "merge 0 is not a pair"},
    {"{" BYTE_LEVEL MODEL(AB, "[[\"a\"]]", "") "}", ERR_CORRUPT, "merge 0 is not a pair"},
    {"{" BYTE_LEVEL MODEL(AB, "[\"a b\"]", "\"unk_token\":\"?\",") "}", ERR_CORRUPT, "unk_token"},
    {"{" BYTE_LEVEL MODEL(AB, "[]", "\"dropout\":0.1,") "}", ERR_UNSUPPORTED, "dropout"},
    {"{" BYTE_LEVEL MODEL(AB, "[]", "\"byte_fallback\":true,") "}", ERR_UNSUPPORTED, "byte_fallback"},
    {"{" BYTE_LEVEL MODEL(AB, "[]", "\"end_of_word_suffix\":\"</w>\",") "}", ERR_UNSUPPORTED, "words"},
    {"{" BYTE_LEVEL "\"model\":{\"type\":\"Unigram\"}}", ERR_UNSUPPORTED, "Unigram"},
    {"{" MODEL(AB, "[]", "") "}", ERR_UNSUPPORTED, "without a decoder"},
    {"{\"normalizer\":{\"type\":\"NFKC\"}," BYTE_LEVEL MODEL(AB, "[]", "") "}", ERR_NONE, NULL},
    {"{\"normalizer\":{\"type\":\"Precompiled\"}," BYTE_LEVEL MODEL(AB, "[]", "") "}", ERR_UNSUPPORTED,
     "Precompiled"},
    {"{\"normalizer\":{}," BYTE_LEVEL MODEL(AB, "[]", "") "}", ERR_CORRUPT, "normalizer without a type"},
    {"{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(a+)+\"},\"content\":\"\"},"
     BYTE_LEVEL MODEL(AB, "[]", "") "}", ERR_UNSUPPORTED, "(a+)+"},
    {"{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"\"},"
     BYTE_LEVEL MODEL(AB, "[]", "") "}", ERR_CORRUPT, "Replace"},
    {"{\"post_processor\":{\"type\":\"Novel\"}," BYTE_LEVEL MODEL(AB, "[]", "") "}", ERR_UNSUPPORTED, "Novel"},
    {"{\"decoder\":{\"type\":\"Fuse\"}," BYTE_LEVEL MODEL(AB, "[]", "") "}", ERR_UNSUPPORTED, "decoder"},
    {"{\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}," MODEL(AB, "[]", "") "}", ERR_UNSUPPORTED, "Bert"},
    {"{" METASPACE("\"first\"") "," MODEL(AB, "[]", "") "}", ERR_NONE, NULL},
    {"{" METASPACE("\"never\"") ",\"normalizer\":{\"type\":\"Strip\"}," MODEL(AB, "[]", "") "}", ERR_NONE, NULL},
    {"{" METASPACE("\"first\"") ",\"normalizer\":{\"type\":\"Strip\"}," MODEL(AB, "[]", "") "}",
     ERR_UNSUPPORTED, "takes away"},
    {"{" METASPACE("\"now\"") "," MODEL(AB, "[]", "") "}", ERR_UNSUPPORTED, "prepend_scheme"},
    {"{" BYTE_LEVEL "\"decoder\":{\"type\":\"Metaspace\"}," MODEL(AB, "[]", "") "}", ERR_UNSUPPORTED,
     "not that of its pre_tokenizer"},
    {"{" DECODER("{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}") "," MODEL(AB, "[]", "") "}",
     ERR_UNSUPPORTED, "after Fuse"},
    {"{" DECODER("{\"type\":\"Fuse\"},{\"type\":\"ByteFallback\"}") "," MODEL(AB, "[]", "") "}", ERR_UNSUPPORTED,
     "ByteFallback after Fuse"},
    {"{" DECODER("{\"type\":\"WordPiece\"}") "," MODEL(AB, "[]", "") "}", ERR_UNSUPPORTED, "WordPiece"},
    {"{" SPLIT_ON("\"String\":\" \"", "\"Shuffled\"") MODEL(AB, "[]", "") "}", ERR_UNSUPPORTED, "Shuffled"},
    {"{" SPLIT_ON("\"String\":\"0123456789abcdef\"", "\"Isolated\"") MODEL(AB, "[]", "") "}", ERR_UNSUPPORTED,
     "16 bytes"},
    {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a+)+\"},"
     "\"behavior\":\"Isolated\"}," MODEL(AB, "[]", "") "}", ERR_UNSUPPORTED, "(a+)+"},
    {"{\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true}]," BYTE_LEVEL
     MODEL(AB, "[]", "") "}", ERR_CORRUPT, "contradicts"},
    {"{\"added_tokens\":[{\"id\":5,\"content\":\"ab\"}]," BYTE_LEVEL MODEL(AB, "[]", "") "}",
     ERR_CORRUPT, "contradicts"},
    {"{\"added_tokens\":[{\"content\":\"x\"}]," BYTE_LEVEL MODEL(AB, "[]", "") "}", ERR_CORRUPT,
     "added_tokens"},
    {"{\"added_tokens\":[{\"id\":9,\"content\":\"\"}]," BYTE_LEVEL MODEL(AB, "[]", "") "}",
     ERR_CORRUPT, "without content"},
};

static void hostile_files_are_refused_in_a_sentence(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct err e = {0};
        struct tokenizer *t = from_text(files[i].json, &e);
        if ((t == NULL) != (files[i].says != NULL))
            fail_msg("%s %s: %s", files[i].json, t ? "accepted" : "refused", e.text);
        if (!t && (e.code != files[i].code || !strstr(e.text, files[i].says)))
            fail_msg("%s: %s", files[i].json, e.text);
        tokenizer_free(t);
    }
}

/* ---- hostile GGUF metadata ------------------------------------------------------------------ */

static const struct gguf_case {
    const char *model, *pre, *tokens, *types, *merges;
    long bos;
    const char *text, *ids; /* what it makes of a text, or */
    enum err_code code;     /* why it is refused */
    const char *says;
} gguf_cases[] = {
    {"gpt2", "gpt-2", "a|b|ab|<s>", "1|1|1|3", "a b", 3, "abab<s>", "2 2 3", ERR_NONE, NULL},
    {"gpt2", "gpt-2", "a|b|ab|a", "1|1|1|1", "a b", 0, "ab", "2", ERR_NONE, NULL},    /* a twice */
    {"gpt2", "gpt-2", "a|b|ab|a", "1|1|1|1", "a b", 0, "aab", "3 2", ERR_NONE, NULL}, /* the last */
    {"gpt2", "gpt-2", "a||ab|b", "1|1|1|1", "a b", 0, "ab?b", "2 3", ERR_NONE, NULL}, /* empty */
    {"gpt2", "gpt-2", "a|b|ab|ba", "1|4|1|1", "a b|b a", 0, "aba", "0 1 0", ERR_NONE, NULL},
    {"gpt2", "gpt-2", "a|b", "1|1|1", "a b", 0, NULL, NULL, ERR_CORRUPT, "2 tokens but 3"},
    {"gpt2", "gpt-2", "a|b", "1|9", "a b", 0, NULL, NULL, ERR_CORRUPT, "token 1 is of unknown type"},
    {"gpt2", "gpt-2", "a|b", "1|-1", "a b", 0, NULL, NULL, ERR_CORRUPT, "token 1 is of unknown type"},
    {"gpt2", "gpt-2", "a|b", "1|1", "a b", 0, NULL, NULL, ERR_CORRUPT, "merge 0 names \"ab\""},
    {"gpt2", "gpt-2", "a|b|ab", "1|1|1", "a c", 0, NULL, NULL, ERR_CORRUPT, "merge 0 names \"c\""},
    {"gpt2", "gpt-2", "a|b|ab", "1|1|1", "ab", 0, NULL, NULL, ERR_CORRUPT, "merge 0 is not two"},
    {"gpt2", "gpt-2", "a|b|ab", "1|1|1", "a b ", 0, NULL, NULL, ERR_CORRUPT, "merge 0 is not two"},
    {"gpt2", "gpt-2", "a|b|ab", "1|1|1", " b", 0, NULL, NULL, ERR_CORRUPT, "merge 0 names \"\""},
    {"gpt2", "gpt-2", "a|b|ab", "1|1|1", "a b", 3, NULL, NULL, ERR_CORRUPT, "bos_token_id is 3"},
    {"bert", "gpt-2", "a|b|ab", "1|1|1", "a b", 0, NULL, NULL, ERR_UNSUPPORTED, "\"bert\""},
    {"llama", "gpt-2", "a|b|ab", "1|1|1", "a b", 0, NULL, NULL, ERR_CORRUPT, "no tokenizer.ggml.scores"},
    {"gpt2", "novel", "a|b|ab", "1|1|1", "a b", 0, NULL, NULL, ERR_UNSUPPORTED, "\"novel\""},
};

static void write_gguf(const char *path, const struct gguf_case *c)
{
    struct buf b = {0};
    buf_text(&b, "GGUF");
    put(&b, 3, 4);
    put(&b, 0, 8); /* tensors */
    put(&b, 7, 8); /* keys */
    gguf_put_text(&b, "general.architecture", "llama");
    gguf_put_text(&b, "tokenizer.ggml.model", c->model);
    gguf_put_text(&b, "tokenizer.ggml.pre", c->pre);
    put_list(&b, "tokenizer.ggml.tokens", GGUF_STRING, c->tokens);
    put_list(&b, "tokenizer.ggml.token_type", GGUF_INT32, c->types);
    put_list(&b, "tokenizer.ggml.merges", GGUF_STRING, c->merges);
    put_key(&b, "tokenizer.ggml.bos_token_id", GGUF_UINT32);
    put(&b, (uint64_t)c->bos, 4);
    while (b.len % 32) put(&b, 0, 1);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(b.data, 1, b.len, f), b.len);
    assert_int_equal(fclose(f), 0);
    buf_release(&b);
}

static void check_made(const struct tokenizer *t, const struct gguf_case *c)
{
    struct err e;
    struct ids ids = {0};
    struct buf got = {0};
    if (!tokenizer_encode(t, c->text, strlen(c->text), true, &ids, &e)) fail_msg("%s", e.text);
    for (size_t i = 0; i < ids.n; i++) buf_printf(&got, "%s%u", i ? " " : "", ids.id[i]);
    expect_text(&got, c->ids, strlen(c->ids));
    buf_release(&got);
    ids_release(&ids);
}

static void hostile_metadata_is_refused_or_has_a_meaning(void **state)
{
    (void)state;
    char path[] = "/tmp/engram-test-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0 && close(fd) == 0);
    for (size_t i = 0; i < sizeof gguf_cases / sizeof *gguf_cases; i++) {
        const struct gguf_case *c = &gguf_cases[i];
        struct err e = {0};
        write_gguf(path, c);
        struct modelfile *f = modelfile_open(path, &e);
        struct tokenizer *t = f ? tokenizer_new(f, &e) : NULL;
        modelfile_close(f);
        if ((t != NULL) != (c->ids != NULL)) fail_msg("case %zu: %s", i, t ? "accepted" : e.text);
        if (t) check_made(t, c);
        if (!t && (e.code != c->code || !strstr(e.text, c->says))) fail_msg("case %zu: %s", i, e.text);
        tokenizer_free(t);
    }
    assert_int_equal(remove(path), 0);
}

/* ---- companions ---------------------------------------------------------------------------- */

static const struct json *parsed(const char *text)
{
    struct err e;
    const struct json *j = json_parse(text, strlen(text), &fix.arena, &e);
    if (!j) fail_msg("%s", e.text);
    return j;
}

/* A vocabulary of three letters; <s> is 3, </s> is 4, <x> is 5. */
#define LETTERS(post)                                                                                     \
    "{" BYTE_LEVEL "\"added_tokens\":[" SPECIAL("3", "<s>") "," SPECIAL("4", "</s>") "," SPECIAL("5", "<x>") "]," \
    "\"post_processor\":" post ",\"model\":{\"merges\":[],\"vocab\":{\"a\":0,\"b\":1,\"c\":2}}}"
#define SPECIAL(id, text) "{\"id\":" id ",\"content\":\"" text "\",\"special\":true}"
#define SILENT            LETTERS("null")
#define BEGINS                                                                                            \
    LETTERS("{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}}," \
            "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[3]," \
            "\"tokens\":[\"<s>\"]}}}")
enum { NO = -1 };

/* What transformers 5 makes of the same files; of LlamaTokenizer's flag, what transformers 4 does. */
static const struct companions {
    const char *tokenizer, *tokenizer_config, *generation_config, *config;
    int adds_bos, bos, eos;
    const char *enders;   /* all ids that end generation */
    const char *template; /* what "[{{ bos_token }}|{{ eos_token }}]" becomes */
} companions[] = {
    {SILENT, NULL, NULL, NULL, 0, NO, NO, "4", "[|]"},
    /* names, and numbers */
    {SILENT, "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"<x>\"}}", NULL, NULL, 0, 3, 5, "4 5", "[<s>|<x>]"},
    {SILENT, "{\"eos_token\":\"<x>\"}", "{\"eos_token_id\":2}", NULL, 0, NO, 5, "2 4 5", "[|<x>]"},
    {SILENT, "{\"eos_token\":\"<x>\"}", "{\"eos_token_id\":[2, 1]}", NULL, 0, NO, 5, "1 2 4 5", "[|<x>]"},
    {SILENT, "{\"eos_token\":\"<x>\"}", "{\"eos_token_id\":2}", "{\"eos_token_id\":1}", 0, NO, 5, "2 4 5", "[|<x>]"},
    {SILENT, "{\"eos_token\":\"<x>\"}", "{\"eos_token_id\":null}", "{\"eos_token_id\":1}", 0, NO, 5, "1 4 5", "[|<x>]"},
    {SILENT, "{\"eos_token\":\"<x>\"}", "{}", "{\"eos_token_id\":[1, 100, -1, \"a\"]}", 0, NO, 5, "1 4 5", "[|<x>]"},
    {SILENT, "{\"bos_token\":null,\"eos_token\":\"<x>\"}", NULL, "{\"bos_token_id\":3}", 0, 3, 5, "4 5", "[|<x>]"},
    {SILENT, "{\"bos_token\":\"<s>\",\"eos_token\":null}", NULL, "{\"eos_token_id\":5}", 0, 3, 5, "4 5", "[<s>|]"},
    {SILENT, NULL, "{\"bos_token_id\":3,\"eos_token_id\":[5]}", NULL, 0, 3, 5, "4 5", "[|]"},
    /* who decides about the first token */
    {BEGINS, NULL, NULL, NULL, 1, 3, NO, "4", "[|]"},
    {BEGINS, "{\"bos_token\":\"<x>\"}", NULL, NULL, 1, 3, NO, "4", "[<x>|]"},
    {BEGINS, "{\"bos_token\":\"<s>\",\"add_bos_token\":false,\"tokenizer_class\":\"PreTrainedTokenizerFast\"}", NULL, NULL, 1, 3, NO,
     "4", "[<s>|]"},
    {SILENT, "{\"bos_token\":\"<s>\",\"add_bos_token\":true,\"tokenizer_class\":\"GPT2Tokenizer\"}", NULL, NULL, 0, 3, NO, "4",
     "[<s>|]"},
    {SILENT, "{\"bos_token\":\"<s>\",\"add_bos_token\":true}", NULL, NULL, 0, 3, NO, "4", "[<s>|]"},
    {BEGINS, "{\"bos_token\":\"<s>\",\"add_bos_token\":false,\"tokenizer_class\":\"LlamaTokenizer\"}", NULL, NULL, 0, 3, NO, "4",
     "[<s>|]"},
    {SILENT, "{\"bos_token\":\"<x>\",\"add_bos_token\":true,\"tokenizer_class\":\"LlamaTokenizerFast\"}", NULL, NULL, 1, 5, NO, "4",
     "[<x>|]"},
    {BEGINS, "{\"bos_token\":\"<x>\",\"add_bos_token\":true,\"tokenizer_class\":\"LlamaTokenizerFast\"}", NULL, NULL, 1, 5, NO, "4",
     "[<x>|]"},
    {SILENT, "{\"bos_token\":\"<s>\",\"add_bos_token\":null,\"tokenizer_class\":\"LlamaTokenizer\"}", NULL, NULL, 0, 3, NO, "4",
     "[<s>|]"},
};

static void expect_template(const struct tokenizer *t, size_t row, const char *want)
{
    const struct message m = {"user", "a", 1};
    const struct conversation c = {&m, 1, false, NULL};
    struct err e;
    struct ids ids = {0};
    struct buf text = {0};
    if (!tokenizer_chat(t, &c, &ids, &text, &e)) fail_msg("row %zu: %s", row, e.text);
    if (text.len != strlen(want) || memcmp(text.data, want, text.len) != 0)
        fail_msg("row %zu: the template writes %.*s, not %s", row, (int)text.len, text.data, want);
    buf_release(&text);
    ids_release(&ids);
}

static void companion_files_name_the_special_ids(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof companions / sizeof *companions; i++) {
        const struct companions *c = &companions[i];
        struct err e;
        struct buf enders = {0};
        struct token_files f = {parsed(c->tokenizer), c->tokenizer_config ? parsed(c->tokenizer_config) : NULL,
                                c->generation_config ? parsed(c->generation_config) : NULL,
                                c->config ? parsed(c->config) : NULL, "[{{ bos_token }}|{{ eos_token }}]"};
        struct tokenizer *t = from_files(&f, &e);
        if (!t) fail_msg("row %zu: %s", i, e.text);
        uint32_t bos, eos;
        int got_bos = tokenizer_bos(t, &bos) ? (int)bos : NO, got_eos = tokenizer_eos(t, &eos) ? (int)eos : NO;
        for (uint32_t id = 0; id < 200; id++)
            if (tokenizer_ends_generation(t, id)) buf_printf(&enders, "%s%u", enders.len ? " " : "", id);
        if (tokenizer_adds_bos(t) != c->adds_bos || got_bos != c->bos || got_eos != c->eos)
            fail_msg("row %zu: adds %d, bos %d, eos %d", i, tokenizer_adds_bos(t), got_bos, got_eos);
        if (enders.len != strlen(c->enders) || memcmp(enders.data, c->enders, enders.len) != 0)
            fail_msg("row %zu: %.*s end, not %s", i, (int)enders.len, enders.data, c->enders);
        expect_template(t, i, c->template);
        assert_true(tokenizer_is_special(t, 5) && !tokenizer_is_special(t, 2));
        buf_release(&enders);
        tokenizer_free(t);
    }
}

/* Letters a, b, c, then 3 "<", 4 ">", 5 a space, 6 "ab" in the vocabulary, and 7 "<c>" added; what transformers
 * makes of the second list. */
#define LATER(flags)                                                                                      \
    "{" BYTE_LEVEL "\"added_tokens\":[{\"id\":7,\"content\":\"<c>\"," flags "}],\"model\":{\"merges\":[\"a b\"],"       \
    "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"<\":3,\">\":4,\"\u0120\":5,\"ab\":6}}}"
#define PLAIN      "\"normalized\":false,\"special\":true"
#define ADDS(list) "{\"added_tokens_decoder\":{" list "}}"

static void tokens_that_only_the_companion_has_are_added(void **state)
{
    (void)state;
    static const struct {
        const char *tokenizer, *config, *text, *ids, *without_special;
    } rows[] = {
        {LATER(PLAIN), "{}", "a <c> b<a>", "0 5 7 5 1 3 0 4", "a  b<a>"},
        {LATER(PLAIN), ADDS("\"7\":{\"content\":\"<c>\"," PLAIN "}"), "a <c> b<a>", "0 5 7 5 1 3 0 4", "a  b<a>"},
        {LATER(PLAIN), ADDS("\"20\":{\"content\":\"<a>\"," PLAIN "}"), "a <c> b<a>", "0 5 7 5 1 8", "a  b"},
        {LATER(PLAIN), ADDS("\"7\":{\"content\":\"<a>\"," PLAIN "}"), "<c><a>", "7 8", ""},
        {LATER(PLAIN), ADDS("\"20\":{\"content\":\"<a>\"," PLAIN "},\"9\":{\"content\":\"<b>\"," PLAIN "}"), "<a><b>", "9 8", ""},
        {LATER(PLAIN), ADDS("\"9\":{\"content\":\"<a>\"}"), "<a>c", "8 2", "<a>c"},
        {LATER(PLAIN), ADDS("\"7\":{\"content\":\"<c>\",\"rstrip\":true," PLAIN "}"), "a <c> b", "0 5 7 1", "a b"},
        {LATER("\"lstrip\":true," PLAIN), ADDS("\"7\":{\"content\":\"<c>\"," PLAIN "}"), "a <c>", "0 5 7", "a "},
        {LATER(PLAIN), ADDS("\"7\":{\"content\":\"<c>\",\"special\":false}"), "a<c>", "0 7", "a"},
        {LATER("\"special\":false"), ADDS("\"7\":{\"content\":\"<c>\"," PLAIN "}"), "a<c>", "0 7", "a"},
        {LATER(PLAIN), ADDS("\"6\":{\"content\":\"ab\"," PLAIN "}"), "cab", "2 6", "c"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e;
        struct ids ids = {0};
        struct buf text = {0}, got = {0};
        struct token_files f = {.tokenizer = parsed(rows[i].tokenizer), .tokenizer_config = parsed(rows[i].config)};
        struct tokenizer *t = from_files(&f, &e);
        if (!t) fail_msg("row %zu: %s", i, e.text);
        if (!tokenizer_encode(t, rows[i].text, strlen(rows[i].text), true, &ids, &e)) fail_msg("%s", e.text);
        for (size_t k = 0; k < ids.n; k++) buf_printf(&got, "%s%u", k ? " " : "", ids.id[k]);
        tokenizer_decode(t, ids.id, ids.n, false, &text);
        expect_text(&got, rows[i].ids, strlen(rows[i].ids));
        expect_text(&text, rows[i].without_special, strlen(rows[i].without_special));
        buf_release(&got);
        buf_release(&text);
        ids_release(&ids);
        tokenizer_free(t);
    }
}

static void parts_of_characters_are_served_raw_and_shown_repaired(void **state)
{
    (void)state;
    struct err e;
    struct ids ids = {0};
    struct buf out = {0};
    assert_true(tokenizer_encode(fix.small, "\xF0\x92\x8D\x85", 4, false, &ids, &e));
    assert_int_equal(ids.n, 4); /* a character of four tokens */
    tokenizer_decode(fix.small, ids.id, 3, false, &out);
    expect_text(&out, "\xEF\xBF\xBD", 3);
    out.len = 0;
    ids.id[2] = 0; /* left out before bytes are joined, or kept between two broken parts */
    tokenizer_decode(fix.small, ids.id, 4, false, &out);
    expect_text(&out, "\xEF\xBF\xBD", 3);
    out.len = 0;
    tokenizer_decode(fix.small, ids.id, 4, true, &out);
    expect_text(&out, "\xEF\xBF\xBD<|endoftext|>\xEF\xBF\xBD", 19);
    out.len = 0;
    tokenizer_show(fix.small, ids.id[3], &out);
    expect_text(&out, "\xEF\xBF\xBD", 3);
    size_t len = 9;
    assert_memory_equal(tokenizer_piece(fix.small, ids.id[3], &len), "\x85", 1);
    assert_int_equal(len, 1);
    assert_string_equal(tokenizer_piece(fix.small, 1u << 30, &len), "");
    assert_int_equal(len, 0);
    buf_release(&out);
    ids_release(&ids);
}

/* A tokenizer of the 256 bytes and nothing else. */
static struct tokenizer *bytes_only(void)
{
    struct err e;
    struct buf b = {0};
    buf_text(&b, "{" BYTE_LEVEL "\"model\":{\"merges\":[],\"vocab\":{");
    for (unsigned c = 0x21, n = 0; c <= 0x143; c++)
        if (c <= 0x7E || (c >= 0xA1 && c != 0xAD))
            buf_printf(&b, "%s\"\\u%04x\":%u", n ? "," : "", c, n), n++;
    buf_text(&b, "}}}");
    struct tokenizer *t = from_text(b.data, &e);
    if (!t) fail_msg("%s", e.text);
    buf_release(&b);
    return t;
}

static uint32_t token_of_byte(const struct tokenizer *t, char byte)
{
    for (uint32_t id = 0; id < tokenizer_size(t); id++) {
        size_t len;
        const char *piece = tokenizer_piece(t, id, &len);
        if (len == 1 && *piece == byte) return id;
    }
    fail_msg("no token for byte %02X", (unsigned char)byte);
    return 0;
}

/* Tables 3-8 to 3-11 of the Unicode Standard, "?" for U+FFFD. */
static void broken_characters_are_repaired_as_unicode_recommends(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *repaired;
    } rows[] = {
        {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", "????????A"},
        {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", "????????A"},
        {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", "?????A??B"},
        {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", "????A"},
    };
    struct tokenizer *t = bytes_only();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e;
        struct ids ids = {0};
        struct buf got = {0}, want = {0};
        for (const char *p = rows[i].bytes; *p; p++) assert_true(ids_push(&ids, token_of_byte(t, *p), &e));
        for (const char *p = rows[i].repaired; *p; p++)
            buf_put(&want, *p == '?' ? "\xEF\xBF\xBD" : p, *p == '?' ? 3 : 1);
        tokenizer_decode(t, ids.id, ids.n, true, &got);
        expect_text(&got, want.data, want.len);
        buf_release(&got);
        buf_release(&want);
        ids_release(&ids);
    }
    tokenizer_free(t);
}

static void unknown_bytes_become_the_unknown_token(void **state)
{
    (void)state;
    static const struct {
        const char *json, *ids; /* of "aXXb" */
    } rows[] = {
        {"{" BYTE_LEVEL MODEL(AB, "[\"a b\"]", "") "}", "2"}, /* dropped, and what is left joins */
        {"{" BYTE_LEVEL MODEL(AB, "[\"a b\"]", "\"unk_token\":\"ab\",") "}", "0 2 2 1"},
        {"{" BYTE_LEVEL MODEL(AB, "[\"a b\"]", "\"unk_token\":\"ab\",\"fuse_unk\":true,") "}",
         "0 2 1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e;
        struct ids ids = {0};
        struct buf got = {0};
        struct tokenizer *t = from_text(rows[i].json, &e);
        if (!t) fail_msg("%s", e.text);
        assert_true(tokenizer_encode(t, "aXXb", 4, true, &ids, &e));
        for (size_t k = 0; k < ids.n; k++) buf_printf(&got, "%s%u", k ? " " : "", ids.id[k]);
        expect_text(&got, rows[i].ids, strlen(rows[i].ids));
        buf_release(&got);
        ids_release(&ids);
        tokenizer_free(t);
    }
}

/* Role and content cannot complete a spelling that the template began, nor begin one. */
static void special_tokens_never_cross_into_what_people_wrote(void **state)
{
    (void)state;
    static const char json[] =
        "{" BYTE_LEVEL "\"added_tokens\":[{\"id\":3,\"content\":\"<|im_start|>\",\"special\":true},"
        "{\"id\":4,\"content\":\"<|im_start|>ab\",\"special\":true},"
        "{\"id\":5,\"content\":\"a<|im_\",\"special\":true},"
        "{\"id\":6,\"content\":\"<|im_end|>\",\"special\":true}]," MODEL(AB, "[\"a b\"]", "") "}";
    struct err e;
    struct ids ids = {0};
    const struct message m = {"ab", "ba", 2};
    const struct conversation c = {&m, 1, false, NULL};
    struct token_files f = {.tokenizer = parsed(json),
                            .chat_template = "{{ '<|im_start|>' + messages[0].role + messages[0].content }}<|im_end|>"};
    struct tokenizer *t = from_files(&f, &e);
    if (!t) fail_msg("%s", e.text);
    if (!tokenizer_chat(t, &c, &ids, NULL, &e)) fail_msg("%s", e.text);
    static const uint32_t want[] = {3, 2, 1, 0, 6}; /* <|im_start|> ab b a <|im_end|> */
    assert_int_equal(ids.n, 5);
    assert_memory_equal(ids.id, want, sizeof want);
    ids_release(&ids);
    tokenizer_free(t);
}

/* A megabyte of one thing must not blow up: seconds here would be hours at quadratic cost. */
static void long_runs_stay_cheap(void **state)
{
    (void)state;
    static const char *const units[] = {" ", "7", "a", "\n", "<", "\xCC\x81", "ab"};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        struct err e;
        struct ids ids = {0};
        struct buf text = {0}, back = {0};
        while (text.len < 1u << 20) buf_text(&text, units[i]);
        if (!tokenizer_encode(fix.small, text.data, text.len, true, &ids, &e)) fail_msg("%s", e.text);
        tokenizer_decode(fix.small, ids.id, ids.n, true, &back);
        expect_text(&back, text.data, text.len);
        buf_release(&text);
        buf_release(&back);
        ids_release(&ids);
    }
}

/* ---- the default model --------------------------------------------------------------------- */

static void default_model_gives_the_reference_ids(void **state)
{
    (void)state;
    struct err e;
    const char *path = getenv("ENGRAM_MODEL");
    struct modelfile *f = path && *path ? modelfile_open(path, &e) : NULL;
    if (!f) {
        print_message("skipped: ENGRAM_MODEL does not name the default model's file\n");
        skip();
    }
    struct tokenizer *t = tokenizer_new(f, &e);
    if (!t) fail_msg("%s", e.text);
    modelfile_close(f); /* the tokenizer keeps nothing of it */
    uint32_t id = 0;
    assert_int_equal(tokenizer_size(t), 49152);
    assert_true(tokenizer_bos(t, &id) && id == 1);
    assert_true(tokenizer_eos(t, &id) && id == 2);
    assert_false(tokenizer_adds_bos(t));
    assert_true(tokenizer_ends_generation(t, 0) && tokenizer_ends_generation(t, 2));
    assert_true(tokenizer_has_chat(t));
    const struct json *expected = golden("model.json");
    assert_true(check_cases(t, json_get(expected, "cases")) > 300);
    for (const struct json *row = json_get(expected, "chat")->child; row; row = row->next) {
        struct message m[MESSAGES];
        struct ids ids = {0};
        struct buf text = {0};
        size_t n = read_messages(json_get(row, "messages"), m);
        const struct conversation c = {m, n, true, NULL};
        if (!tokenizer_chat(t, &c, &ids, &text, &e)) fail_msg("%s", e.text);
        expect_text(&text, json_get(row, "text")->text, json_get(row, "text")->len);
        expect_ids(&ids, json_get(row, "ids"), text.data);
        ids_release(&ids);
        buf_release(&text);
    }
    tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_tokenizer_gives_the_reference_ids),
        cmocka_unit_test(bad_text_is_refused_with_its_offset),
        cmocka_unit_test(hostile_files_are_refused_in_a_sentence),
        cmocka_unit_test(hostile_metadata_is_refused_or_has_a_meaning),
        cmocka_unit_test(companion_files_name_the_special_ids),
        cmocka_unit_test(tokens_that_only_the_companion_has_are_added),
        cmocka_unit_test(parts_of_characters_are_served_raw_and_shown_repaired),
        cmocka_unit_test(broken_characters_are_repaired_as_unicode_recommends),
        cmocka_unit_test(unknown_bytes_become_the_unknown_token),
        cmocka_unit_test(special_tokens_never_cross_into_what_people_wrote),
        cmocka_unit_test(long_runs_stay_cheap),
        cmocka_unit_test(default_model_gives_the_reference_ids),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
