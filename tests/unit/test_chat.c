/* Chat templates against what Jinja2 makes of them (tests/golden/make_chat.py): each family's format,
 * every construct, random expressions; whose words the parts of the text are; and that a hostile
 * template can do no more than be refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/json.h"
#include "core/file/infile.h"
#include "core/jinja/jinja.h"
#include "core/text/chat.h"
#include "core/text/tokenizer_int.h"
#include "tests/unit/support/gguf_bytes.h"
#include "support/golden.h"

enum { MESSAGES = 8 };

static const struct json *golden(const char *name)
{
    char path[128];
    (void)snprintf(path, sizeof path, "tests/golden/%s", name);
    return golden_json(path, &golden_arena);
}

static size_t read_messages(const struct json *list, struct message m[MESSAGES])
{
    size_t n = 0;
    for (const struct json *v = list ? list->child : NULL; v; v = v->next) {
        const struct json *role = v->child, *content = role->next;
        assert_true(n < MESSAGES);
        m[n++] = (struct message){role->text, content->text, content->len};
    }
    return n;
}

struct rendered {
    struct buf text;
    struct section *sections;
    struct err e;
    bool ok;
};

static struct rendered render(const char *template, const struct conversation *c)
{
    struct rendered r = {.ok = false};
    struct chat chat;
    const struct chat_tokens tokens = {"<s>", "</s>"};
    if (!chat_init(&chat, template, &r.e)) fail_msg("%s", r.e.text);
    r.ok = chat_render(&chat, c, &tokens, &r.text, &r.sections, &r.e);
    chat_release(&chat);
    return r;
}

static void release(struct rendered *r)
{
    buf_release(&r->text);
    mem_drop(r->sections);
}

static bool is_text(const struct rendered *r, const char *want, size_t len)
{
    return r->ok && r->text.len == len && memcmp(r->text.data ? r->text.data : "", want, len) == 0;
}

/* A row's conversation: none when it has no messages of its own. */
static struct conversation conversation(const struct json *row, struct message m[MESSAGES])
{
    const struct json *add = json_get(row, "add"), *date = json_get(row, "date");
    size_t n = read_messages(json_get(row, "messages"), m);
    return (struct conversation){m, n, add && add->boolean, date ? date->text : NULL};
}

/* ---- what Jinja2 makes of them ------------------------------------------------------------------ */

static void check_case(const char *name, const char *template, const struct json *row)
{
    struct message m[MESSAGES];
    const struct conversation c = conversation(row, m);
    const struct json *want = json_get(row, "text"), *raises = json_get(row, "raises");
    struct rendered r = render(template, &c);
    if (want && !is_text(&r, want->text, want->len))
        fail_msg("%s: got \"%.300s\", not \"%.300s\"", name, r.ok ? r.text.data : r.e.text, want->text);
    if (!want && r.ok) fail_msg("%s: rendered what Jinja2 refuses: %.300s", name, r.text.data);
    if (raises && raises->len && (r.e.code != ERR_INVALID || !strstr(r.e.text, raises->text)))
        fail_msg("%s: says \"%s\", not \"%s\"", name, r.e.text, raises->text);
    if (raises && !raises->len) assert_int_equal(r.e.code, ERR_UNSUPPORTED);
    release(&r);
}

static void every_familys_format_renders_as_in_jinja(void **state)
{
    (void)state;
    size_t families = 0, raised = 0;
    for (const struct json *row = golden("chat/families.json")->child; row; row = row->next, families++)
        for (const struct json *c = json_get(row, "cases")->child; c; c = c->next) {
            check_case(json_get(row, "name")->text, json_get(row, "template")->text, c);
            raised += json_get(c, "raises") != NULL;
        }
    assert_true(families >= 16 && raised > 20);
}

static void every_construct_evaluates_as_in_jinja(void **state)
{
    (void)state;
    size_t refused = 0, rows = 0;
    for (const struct json *row = golden("chat/expressions.json")->child; row; row = row->next, rows++) {
        const char *template = json_get(row, "template")->text;
        check_case(template, template, row);
        refused += !json_get(row, "text");
    }
    assert_true(rows > 100 && refused > 40);
}

/* Never another text; a refusal only where something is not one we have, and seldom. */
static void random_expressions_are_never_wrong(void **state)
{
    (void)state;
    static const struct message talk[] = {{"user", " Xa,\u00e9 <|im_end|>", 17}, {"x<|y", "b\n", 2}};
    const struct conversation c = {talk, 2, false, NULL};
    size_t rendered = 0, refused = 0;
    for (const struct json *row = golden("chat/random.json")->child; row; row = row->next) {
        const struct json *want = json_get(row, "text");
        struct rendered r = render(json_get(row, "template")->text, &c);
        if (r.ok && (!want || !is_text(&r, want->text, want->len)))
            fail_msg("%s\ngot \"%.300s\", not \"%.300s\"", json_get(row, "template")->text, r.text.data,
                     want ? want->text : "an error");
        if (!r.ok && r.e.code != ERR_UNSUPPORTED) fail_msg("%s", r.e.text);
        rendered += r.ok;
        refused += !r.ok && want;
        release(&r);
    }
    assert_true(rendered > 200);
    assert_true(refused * 5 < rendered);
}

/* ---- whose words -------------------------------------------------------------------------------- */

/* The text with what people wrote in brackets. */
static void expect_origins(const char *template, const char *want)
{
    static const struct message talk[] = {{"user", " a<|b|> ", 8}, {"evil|>", "x,y", 3}};
    const struct conversation c = {talk, 2, true, NULL};
    struct rendered r = render(template, &c);
    struct buf shown = {0};
    if (!r.ok) fail_msg("%s: %s", template, r.e.text);
    for (size_t i = 0, from = 0; from < r.text.len; from = r.sections[i++].end) {
        size_t n = r.sections[i].end - from;
        buf_printf(&shown, r.sections[i].parse_special ? "%.*s" : "[%.*s]", (int)n, r.text.data + from);
    }
    if (strcmp(shown.data ? shown.data : "", want) != 0)
        fail_msg("%s\ngives %s\nnot   %s", template, shown.data, want);
    buf_release(&shown);
    release(&r);
}

static void origin_survives_what_a_template_does(void **state)
{
    (void)state;
    static const struct {
        const char *template, *want;
    } rows[] = {
        {"<{{ messages[0].content }}>", "<[ a<|b|> ]>"},
        {"{{ '<' + messages[0].content | trim + '>' }}", "<[a<|b|>]>"},
        {"{{ messages[0].content.strip() ~ eos_token ~ 1 }}", "[a<|b|>]</s>1"},
        {"{{ messages[0].content.split('<')[1].rstrip() }}", "[|b|>]"},
        {"{{ messages[0].content | replace('|', '#') | trim }}", "[a<]#[b]#[>]"},
        {"{{ '<|#|>' | replace('#', messages[1].content) }}", "<|[x,y]|>"},
        {"{{ messages[0].content[1:4] }}{{ messages[1].content[::-1] }}", "[a<|y,x]"},
        {"{{ messages[1].content.split(',') | join('|') }}", "[x]|[y]"},
        {"{{ messages[1].content | upper }}{{ messages[1].content | list | join }}", "[X,Yx,y]"},
        {"{{ messages[1].content | tojson }}", "\"[x,y]\""},
        {"{{ messages[1] }}", "{'role': '[evil|>]', 'content': '[x,y]'}"},
        {"{% set c = messages[1].content %}{% macro m(t) %}<|{{ t }}|>{% endmacro %}{{ m(c) }}", "<|[x,y]|>"},
        {"{% set c %}<|{{ messages[1].content }}|>{% endset %}{{ c * 2 }}", "<|[x,y]|><|[x,y]|>"},
        {"{% for c in messages[1].content %}{{ loop.index ~ c }}{% endfor %}", "1[x]2[,]3[y]"},
        {"{{ '<|' + messages[0].role + '|>' }}", "<|user|>"},    /* a role every template knows */
        {"{{ '<|' + messages[1].role + '|>' }}", "<|[evil|>]|>"},
        {"{{ messages[0].role ~ messages | length }}", "user2"},
        {"{{ ('a' ~ messages[1].content) == 'ax,y' }}{{ messages[1].content | length }}", "True3"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) expect_origins(rows[i].template, rows[i].want);
}

static size_t count(const char *text, size_t len, const char *what)
{
    size_t n = 0, w = strlen(what);
    for (size_t i = 0; i + w <= len; i++) n += memcmp(text + i, what, w) == 0;
    return n;
}

static struct tokenizer *with_template(const char *text)
{
    struct err e;
    struct token_spec s;
    struct token_files files = {.tokenizer = golden("tokenizer/tiny.json"), .chat_template = text};
    bool ok = token_spec_from_json(&s, &files, &e);
    struct tokenizer *t = ok ? tokenizer_build(&s, &e) : NULL;
    token_spec_release(&s);
    if (!t) fail_msg("%s", e.text);
    return t;
}

/* Only the template's own special spellings become special tokens. */
static void what_people_write_never_becomes_a_special_token(void **state)
{
    (void)state;
    size_t written = 0;
    const struct json *row = golden("chat/families.json")->child;
    while (strcmp(json_get(row, "name")->text, "chatml") != 0) row = row->next;
    struct tokenizer *t = with_template(json_get(row, "template")->text);
    assert_string_equal(tokenizer_chat_template(t), json_get(row, "template")->text);
    for (const struct json *c = json_get(row, "cases")->child; c; c = c->next) {
        struct err e;
        struct message m[MESSAGES];
        const struct conversation q = conversation(c, m);
        struct ids ids = {0};
        struct buf text = {0};
        size_t starts = 0, here = 0;
        if (!tokenizer_chat(t, &q, &ids, &text, &e)) fail_msg("%s", e.text);
        for (size_t i = 0; i < ids.n; i++) starts += ids.id[i] == 1;
        for (size_t i = 0; i < q.n; i++)
            here += count(m[i].content, m[i].content_len, "<|im_start|>") +
                    count(m[i].role, strlen(m[i].role), "<|im_start|>");
        assert_int_equal(starts + here, count(text.data ? text.data : "", text.len, "<|im_start|>"));
        written += here;
        buf_release(&text);
        ids_release(&ids);
    }
    assert_true(written > 0);
    tokenizer_free(t);
}

/* ---- where a template comes from ------------------------------------------------------------------ */

/* The template that a GGUF file with these two keys gives (NULL: no such key), or NULL. */
static void expect_gguf_template(const char *plain, const char *named, const char *want)
{
    struct err e = {0};
    struct buf b = {0};
    char path[] = "/tmp/engram-test-XXXXXX";
    int fd = mkstemp(path);
    buf_text(&b, "GGUF");
    put(&b, 3, 4);
    put(&b, 0, 8); /* tensors */
    put(&b, 6 + (plain != NULL) + (named != NULL), 8);
    gguf_put_text(&b, "general.architecture", "llama");
    gguf_put_text(&b, "tokenizer.ggml.model", "gpt2");
    gguf_put_text(&b, "tokenizer.ggml.pre", "gpt-2");
    put_list(&b, "tokenizer.ggml.tokens", GGUF_STRING, "a|b|ab");
    put_list(&b, "tokenizer.ggml.merges", GGUF_STRING, "a b");
    put_list(&b, "tokenizer.chat_templates", GGUF_STRING, "default|tool_use");
    if (plain) gguf_put_text(&b, "tokenizer.chat_template", plain);
    if (named) gguf_put_text(&b, "tokenizer.chat_template.default", named);
    while (b.len % 32) put(&b, 0, 1);
    assert_int_equal(write(fd, b.data, b.len), b.len);
    assert_int_equal(close(fd), 0);
    struct modelfile *f = modelfile_open(path, &e);
    struct tokenizer *t = f ? tokenizer_new(f, &e) : NULL;
    if (!t) fail_msg("%s", e.text);
    const char *got = tokenizer_chat_template(t);
    if (want ? !got || strcmp(got, want) != 0 : got != NULL) fail_msg("%s, not %s", got, want);
    tokenizer_free(t);
    modelfile_close(f);
    buf_release(&b);
    assert_int_equal(remove(path), 0);
}

static void gguf_files_name_their_default_template(void **state)
{
    (void)state;
    expect_gguf_template(NULL, NULL, NULL);
    expect_gguf_template("plain", NULL, "plain");
    expect_gguf_template(NULL, "named", "named");
    expect_gguf_template("plain", "named", "plain");
}

/* chat_template.jinja before tokenizer_config.json, and there a text, or a list with "default". */
static void hub_files_name_their_default_template(void **state)
{
    (void)state;
    static const struct {
        const char *config, *file, *want;
    } rows[] = {
        {"{}", NULL, NULL},
        {"{\"chat_template\":\"text\"}", NULL, "text"},
        {"{\"chat_template\":\"text\"}", "file", "file"},
        {"{\"chat_template\":[{\"name\":\"rag\",\"template\":\"r\"},{\"name\":\"default\",\"template\":\"d\"}]}", NULL, "d"},
        {"{\"chat_template\":[{\"name\":\"rag\",\"template\":\"r\"}]}", NULL, NULL},
        {"{\"chat_template\":7}", NULL, NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e;
        struct token_spec s;
        struct token_files files = {.tokenizer = golden("tokenizer/tiny.json"), .chat_template = rows[i].file,
                                    .tokenizer_config = json_parse(rows[i].config, strlen(rows[i].config), &golden_arena, &e)};
        assert_non_null(files.tokenizer_config);
        if (!token_spec_from_json(&s, &files, &e)) fail_msg("%s", e.text);
        assert_true(rows[i].want ? s.chat_template && strcmp(s.chat_template, rows[i].want) == 0 : !s.chat_template);
        token_spec_release(&s);
    }
}

/* ---- refusals ------------------------------------------------------------------------------------ */

static void refusals_name_the_line_and_the_thing(void **state)
{
    (void)state;
    static const struct {
        const char *template;
        enum err_code code;
        const char *says;
    } rows[] = {
        {NULL, ERR_UNSUPPORTED, "no chat template"},
        {"a\nb{% include 'x' %}", ERR_UNSUPPORTED, "line 2: a statement that is not one we have near \"include\""},
        {"{% for x in messages recursive %}{% endfor %}", ERR_UNSUPPORTED, "line 1: a recursive loop"},
        {"\n\n{{ 'a' | wordwrap }}", ERR_UNSUPPORTED, "line 3: cannot evaluate the filter wordwrap"},
        {"{{ 'a' is escaped }}", ERR_UNSUPPORTED, "line 1: cannot evaluate the test escaped"},
        {"{{ 'a'.zfill(3) }}", ERR_UNSUPPORTED, "the method zfill"},
        {"{{ pad_token }}", ERR_UNSUPPORTED, "the variable pad_token"},
        {"{{ 2 ** 3 }}", ERR_UNSUPPORTED, "the operator **"},
        {"{{ range(*[1]) }}", ERR_UNSUPPORTED, "a call with * or **"},
        {"{{ 'a' | safe + 'b' }}", ERR_UNSUPPORTED, "marked safe"},
        {"{{ '\u00e9' | upper }}", ERR_UNSUPPORTED, "outside ASCII"},
        {"{{ ['\u00e9'] }}", ERR_UNSUPPORTED, "outside ASCII"},
        {"{% set g = [1] | map('string') %}{{ g | list }}{{ g | list }}", ERR_UNSUPPORTED, "reading twice"},
        {"{{ 9223372036854775807 }}", ERR_UNSUPPORTED, "more than 18 digits"},
        {"{{ 999999999999999999 * 999999999999999999 }}", ERR_UNSUPPORTED, "outside 64 bits"},
        {"{{ 'a' if }}", ERR_UNSUPPORTED, "line 1: expected a value"},
        {"{{ messages.x.y }}", ERR_UNSUPPORTED, "\"x\", which is undefined"},
        {"{{ raise_exception('No ' ~ messages[0].role ~ '!') }}", ERR_INVALID, "the chat template says: No user!"},
        {"{{ strftime_now('%Y') }}", ERR_INVALID, "give a date"},
    };
    static const struct message m = {"user", "x", 1};
    const struct conversation c = {&m, 1, false, NULL};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct rendered r = render(rows[i].template, &c);
        if (r.ok || r.e.code != rows[i].code || !strstr(r.e.text, rows[i].says))
            fail_msg("%s: %s, not %s", rows[i].template, r.ok ? "rendered" : r.e.text, rows[i].says);
        release(&r);
    }
}

/* Where a template has something we do not, conversations that never come there render. */
static void what_is_not_reached_is_not_refused(void **state)
{
    (void)state;
    const struct conversation c = {NULL, 0, false, NULL};
    struct rendered r = render("{% if tools %}{{ tools | wordwrap }}{{ x.zfill(*y) ** 2 }}{% endif %}fine", &c);
    assert_true(is_text(&r, "fine", 4));
    release(&r);
}

static void the_day_is_the_callers(void **state)
{
    (void)state;
    static const char template[] = "{{ strftime_now('%d %b %Y|%A %B %-d %j %y %m %u%%') if strftime_now is defined else 'none' }}";
    struct conversation c = {NULL, 0, false, NULL};
    struct rendered r = render(template, &c);
    assert_true(is_text(&r, "none", 4));
    release(&r);
    c.date = "2024-02-29";
    r = render(template, &c);
    static const char want[] = "29 Feb 2024|Thursday February 29 060 24 02 4%";
    assert_true(is_text(&r, want, strlen(want)));
    release(&r);
    static const char *const bad[] = {"2023-02-29", "2024-13-01", "2024-00-10", "24-01-01", "2024-1-001", "2024-01-32", ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        c.date = bad[i];
        r = render(template, &c);
        assert_false(r.ok);
        assert_int_equal(r.e.code, ERR_INVALID);
        release(&r);
    }
    c.date = "2024-02-29";
    r = render("{{ strftime_now('%H:%M') }}", &c);
    assert_false(r.ok);
    assert_non_null(strstr(r.e.text, "%H"));
    release(&r);
}

static void broken_messages_are_refused(void **state)
{
    (void)state;
    static const struct message bad[] = {{"user", "a\xFF", 2}, {"us\xC3", "a", 1}, {"user", "a\0b", 3}};
    for (size_t i = 0; i < 3; i++) {
        const struct conversation c = {&bad[i], 1, false, NULL};
        struct rendered r = render("{{ messages[0].content }}", &c);
        assert_false(r.ok);
        assert_int_equal(r.e.code, ERR_INVALID);
        release(&r);
    }
}

/* ---- hostile templates --------------------------------------------------------------------------- */

static void repeat(struct buf *b, const char *text, size_t n)
{
    while (n--) buf_text(b, text);
}

static void expect_bounded(const char *template)
{
    static const struct message m = {"user", "aaaaaaaaaa", 10};
    const struct conversation c = {&m, 1, false, NULL};
    struct rendered r = render(template, &c);
    if (r.ok || (r.e.code != ERR_TOO_LARGE && r.e.code != ERR_UNSUPPORTED))
        fail_msg("%.60s…: %s", template, r.ok ? "rendered" : r.e.text);
    release(&r);
}

static size_t most_resident(void)
{
    struct rusage u;
    assert_int_equal(getrusage(RUSAGE_SELF, &u), 0);
    return (size_t)u.ru_maxrss * 1024;
}

/* Refused on the way, not when all of it stands there: indents, brackets and numbers are text too. Runs
 * first, for the height is the process'. */
static void hostile_printing_is_refused_on_the_way(void **state)
{
    (void)state;
#ifdef ENGRAM_SANITIZED
    return; /* their heap keeps what is freed */
#endif
    static const char *const loops[] = {
        "{% set ns = namespace(x=range(20000) | list) %}{% for i in range(150) %}{% set ns.x = [ns.x] %}{% endfor %}"
        "{{ ns.x | tojson(indent=64) | length }}",
        "{% set ns = namespace(x=[123456789012345678]) %}{% for i in range(22) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
        "{{ ns.x }}",
        "{% set ns = namespace(x=[123456789012345678]) %}{% for i in range(22) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
        "{{ ns.x | tojson }}",
    };
    size_t before = most_resident();
    for (size_t i = 0; i < sizeof loops / sizeof *loops; i++) {
        expect_bounded(loops[i]);
        size_t grown = most_resident() - before;
        if (grown > 2 * JINJA_MEMORY) fail_msg("%.40s…: %zu bytes", loops[i], grown);
    }
}

static void hostile_templates_are_bounded(void **state)
{
    (void)state;
    static const char *const loops[] = {
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s=['a']) %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='aa') %}{% for i in range(100) %}{% set ns.s = ns.s | replace('a', ns.s) %}{% endfor %}",
        "{{ 'aaaaaaaa' * 1000000000 }}",
        "{{ 'aaaaaaaa' * 9000000000000000 }}",
        "{% set ns = namespace(s=[]) %}{% for i in range(1000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s=[]) %}{% for i in range(1000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s == ns.s | list }}",
        "{% set ns = namespace(s={}) %}{% for i in range(1000) %}{% set ns.s = {'a': ns.s} %}{% endfor %}{{ ns.s | tojson }}",
        "{% set ns = namespace(s=[]) %}{% for i in range(40) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}",
        "{% for i in range(100000) %}{% for j in range(1000) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' }}{% endfor %}{% endfor %}",
        "{{ range(0, 1000000000000) }}",
        "{{ range(-4000000000000000000, 4000000000000000000, 1) }}",
    };
    for (size_t i = 0; i < sizeof loops / sizeof *loops; i++) expect_bounded(loops[i]);
    static const struct {
        const char *open, *middle, *close;
        size_t n;
    } nested[] = {
        {"(", "1", ")", 50000},          {"[", "", "]", 50000},
        {"-", "1", "", 100000},          {"not ", "1", "", 50000},
        {"{1:", "1", "}", 40000},        {"a[", "1", "]", 50000},
        {"", "a", ".a", 100000},         {"", "'a'", "|trim", 40000},
        {"1 if 1 else ", "1", "", 20000}, {"f(", "", ")", 50000},
        {"", "1", "+1", 100000},         {"", "1", " is defined", 20000},
    };
    for (size_t i = 0; i < sizeof nested / sizeof *nested; i++) {
        struct buf b = {0};
        buf_text(&b, "{{ ");
        repeat(&b, nested[i].open, nested[i].n);
        buf_text(&b, nested[i].middle);
        repeat(&b, nested[i].close, nested[i].n);
        buf_text(&b, " }}");
        expect_bounded(b.data);
        buf_release(&b);
    }
    static const char *const blocks[] = {"{% if 1 %}", "{% for x in [1] %}", "{% set x %}", "{% macro f() %}", "{% filter trim %}"};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
        struct buf b = {0};
        repeat(&b, blocks[i], 10000);
        expect_bounded(b.data);
        buf_release(&b);
    }
    struct buf b = {0};
    repeat(&b, "{% set ((((((((((", 1);
    repeat(&b, "(", 100000);
    expect_bounded(b.data);
    repeat(&b, "x", JINJA_TEXT_MAX);
    expect_bounded(b.data);
    b.len = 0;
    buf_text(&b, "{% set x ");
    repeat(&b, "|trim", 40000);
    buf_text(&b, " %}{% endset %}");
    expect_bounded(b.data);
    buf_release(&b);
}

/* Every template cut short anywhere is refused or rendered, never worse. */
static void templates_cut_short_do_no_harm(void **state)
{
    (void)state;
    static const struct message talk[] = {{"user", "x", 1}, {"assistant", "</think>y", 9}};
    const struct conversation c = {talk, 2, true, NULL};
    for (const struct json *row = golden("chat/families.json")->child; row; row = row->next) {
        const struct json *template = json_get(row, "template");
        for (size_t n = 0; n < template->len; n += 3) {
            char *part = arena_text(&golden_arena, template->text, n, &(struct err){0});
            struct rendered r = render(part, &c);
            if (!r.ok) assert_true(r.e.code == ERR_UNSUPPORTED || r.e.code == ERR_INVALID || r.e.code == ERR_CORRUPT);
            release(&r);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_printing_is_refused_on_the_way),
        cmocka_unit_test(every_familys_format_renders_as_in_jinja),
        cmocka_unit_test(every_construct_evaluates_as_in_jinja),
        cmocka_unit_test(random_expressions_are_never_wrong),
        cmocka_unit_test(origin_survives_what_a_template_does),
        cmocka_unit_test(what_people_write_never_becomes_a_special_token),
        cmocka_unit_test(gguf_files_name_their_default_template),
        cmocka_unit_test(hub_files_name_their_default_template),
        cmocka_unit_test(refusals_name_the_line_and_the_thing),
        cmocka_unit_test(what_is_not_reached_is_not_refused),
        cmocka_unit_test(the_day_is_the_callers),
        cmocka_unit_test(broken_messages_are_refused),
        cmocka_unit_test(hostile_templates_are_bounded),
        cmocka_unit_test(templates_cut_short_do_no_harm),
    };
    return cmocka_run_group_tests(tests, golden_arena_init, golden_arena_release);
}
