/* Requests against shapes: what is filled in, and what a refusal says. The shapes are made by hand
 * so that the walk is tested apart from the generator. */
#include "server/validate.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const struct shape text = {.kind = SHAPE_STRING, .min = 1, .max = 8};
static const struct shape flag = {.kind = SHAPE_BOOL};
static const struct shape count = {.kind = SHAPE_INT, .min = 0, .max = 200};
static const struct shape real = {.kind = SHAPE_NUMBER, .min = -INFINITY, .max = INFINITY};
static const struct shape map = {.kind = SHAPE_MAP};
static const struct shape counts = {.kind = SHAPE_LIST, .min = 1, .max = 3, .item = &count};
static const char *const word_choices[] = {"all", "last", "later", NULL};
static const struct shape word = {.kind = SHAPE_STRING, .max = INFINITY, .choices = word_choices,
                                  .n_choices_shown = 2};
static const struct shape *const where_of[] = {&count, &counts, &word, NULL};
static const struct shape where = {.kind = SHAPE_UNION, .of = where_of};

static const struct field fact_fields[] = {
    {"prompt", &text, true, true, NULL},
    {"target_new", &text, true, true, NULL},
    {"pos", &where, false, true, "\"last\""},
};
static const struct shape fact = {.kind = SHAPE_OBJECT, .fields = fact_fields, .n_fields = 3};
static const struct shape facts = {.kind = SHAPE_LIST, .min = 1, .max = INFINITY, .item = &fact};

static const struct field inner_fields[] = {{"depth", &count, false, true, "7"}};
static const struct shape inner = {.kind = SHAPE_OBJECT, .fields = inner_fields, .n_fields = 1};

static const char *const either[] = {"text", "ids", "hidden", NULL};
static const struct exactly root_exactly[] = {{either, "text or ids"}};
static const struct field root_fields[] = {
    {"view", &text, false, true, "\"main\""},  {"limit", &count, false, true, "50"},
    {"weight", &real, false, true, "1.0"},     {"stream", &flag, false, true, "false"},
    {"facts", &facts, false, true, NULL},      {"params", &map, false, true, "{}"},
    {"inner", &inner, false, true, "{}"},      {"text", &text, false, true, NULL},
    {"ids", &counts, false, true, NULL},       {"hidden", &text, false, false, NULL},
};
static const struct shape root = {.kind = SHAPE_OBJECT, .fields = root_fields, .n_fields = 10,
                                  .exactly = root_exactly, .n_exactly = 1};

static const struct field query_fields[] = {
    {"limit", &count, false, true, "50"},
    {"branch", &text, false, true, "\"main\""},
    {"all", &flag, false, true, NULL},
};
static const struct shape query = {.kind = SHAPE_OBJECT, .from_text = true,
                                   .fields = query_fields, .n_fields = 3};

struct result {
    struct arena arena;
    const struct json *out;
    struct err e;
    bool ok;
};

static struct result run(const struct shape *s, const char *json)
{
    struct result r = {0};
    arena_init(&r.arena, 0);
    const struct json *in = json ? json_parse(json, strlen(json), &r.arena, &r.e) : NULL;
    assert_true(!json || in);
    r.ok = validate(s, in, &r.arena, &r.out, &r.e);
    return r;
}

static void refused(const struct shape *s, const char *json, const char *field, const char *said)
{
    struct result r = run(s, json);
    assert_false(r.ok);
    assert_int_equal(r.e.code, ERR_INVALID);
    assert_string_equal(r.e.field, field);
    if (!strstr(r.e.text, said)) fail_msg("\"%s\" does not say \"%s\"", r.e.text, said);
    arena_release(&r.arena);
}

static void defaults_are_filled_in(void **state)
{
    (void)state;
    struct result r = run(&root, "{\"text\":\"a\"}");
    assert_true(r.ok);
    assert_string_equal(json_get(r.out, "view")->text, "main");
    assert_int_equal(json_get(r.out, "limit")->integer, 50);
    assert_true(json_get(r.out, "weight")->number == 1.0);
    assert_false(json_get(r.out, "stream")->boolean);
    assert_int_equal(json_get(r.out, "params")->type, JSON_OBJECT);
    assert_int_equal(json_get(json_get(r.out, "inner"), "depth")->integer, 7);
    assert_null(json_get(r.out, "facts"));
    arena_release(&r.arena);
}

static void null_is_absent(void **state)
{
    (void)state;
    struct result r = run(&root, "{\"text\":\"a\",\"ids\":null,\"limit\":null,\"facts\":null}");
    assert_true(r.ok);
    assert_int_equal(json_get(r.out, "limit")->integer, 50);
    assert_null(json_get(r.out, "ids"));
    arena_release(&r.arena);
}

static void members_come_in_the_order_of_the_shape(void **state)
{
    (void)state;
    struct result r = run(&root, "{\"text\":\"a\",\"limit\":3,\"view\":\"x\"}");
    assert_true(r.ok);
    const char *const keys[] = {"view", "limit", "weight", "stream", "params", "inner", "text"};
    size_t i = 0;
    for (const struct json *m = r.out->child; m; m = m->next)
        assert_string_equal(m->key, keys[i++]);
    assert_int_equal(i, 7);
    assert_int_equal(r.out->len, 7);
    arena_release(&r.arena);
}

static void unknown_fields_are_named(void **state)
{
    (void)state;
    refused(&root, "{\"text\":\"a\",\"veiw\":\"x\"}", "veiw", "did you mean \"view\"?");
    refused(&root, "{\"text\":\"a\",\"zzz\":1}", "zzz", "known here: view, limit");
    refused(&root, "{\"text\":\"a\",\"facts\":[{\"prompt\":\"p\",\"target_new\":\"t\"},"
                   "{\"prompt\":\"p\",\"target\":\"t\"}]}",
            "facts[1].target", "did you mean \"target_new\"?");
    refused(&root, "{\"text\":\"a\",\"hiden\":\"x\"}", "hiden", "unknown field"); /* never advertised */
}

static void types_are_checked(void **state)
{
    (void)state;
    refused(&root, "{\"text\":1}", "text", "must be a string, not a number");
    refused(&root, "{\"text\":\"a\",\"stream\":\"yes\"}", "stream", "must be true or false");
    refused(&root, "{\"text\":\"a\",\"limit\":\"3\"}", "limit", "must be an integer, not a string");
    refused(&root, "{\"text\":\"a\",\"limit\":3.5}", "limit", "must be an integer; 3.5 is not");
    refused(&root, "{\"text\":\"a\",\"facts\":{}}", "facts", "must be a list, not an object");
    refused(&root, "{\"text\":\"a\",\"params\":[]}", "params", "must be an object");
    refused(&root, "[]", "", "must be an object, not a list");
}

static void whole_numbers_are_integers(void **state)
{
    (void)state;
    struct result r = run(&root, "{\"text\":\"a\",\"limit\":3.0}");
    assert_true(r.ok);
    assert_true(json_get(r.out, "limit")->is_int);
    assert_int_equal(json_get(r.out, "limit")->integer, 3);
    arena_release(&r.arena);
}

static void ranges_are_named(void **state)
{
    (void)state;
    refused(&root, "{\"text\":\"a\",\"limit\":201}", "limit", "between 0 and 200");
    refused(&root, "{\"text\":\"a\",\"limit\":-1}", "limit", "between 0 and 200");
    refused(&root, "{\"text\":\"a\",\"limit\":1e300}", "limit", "between 0 and 200");
    refused(&root, "{\"text\":\"\"}", "text", "must not be empty");
    refused(&root, "{\"text\":\"123456789\"}", "text", "between 1 and 8 bytes");
    refused(&root, "{\"ids\":[]}", "ids", "must not be empty");
    refused(&root, "{\"ids\":[1,2,3,4]}", "ids", "between 1 and 3 elements");
    refused(&root, "{\"ids\":[1,999]}", "ids[1]", "between 0 and 200");
}

static void required_fields_are_missed(void **state)
{
    (void)state;
    refused(&root, "{\"text\":\"a\",\"facts\":[{\"prompt\":\"p\"}]}", "facts[0].target_new", "required");
    refused(&root, "{\"text\":\"a\",\"facts\":[{\"prompt\":\"p\",\"target_new\":null}]}",
            "facts[0].target_new", "required");
}

static void exactly_one_of_a_group(void **state)
{
    (void)state;
    refused(&root, "{}", "text", "required: text or ids");
    refused(&root, NULL, "text", "required: text or ids");
    refused(&root, "{\"ids\":[1],\"text\":\"a\"}", "ids", "cannot stand beside \"text\"");
    struct result r = run(&root, "{\"hidden\":\"h\"}"); /* accepted, not advertised */
    assert_true(r.ok);
    arena_release(&r.arena);
}

static void unions_go_by_json_type(void **state)
{
    (void)state;
    const char *const good[] = {"3", "[1,2]", "\"all\"", "\"later\""};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct buf b = {0};
        buf_printf(&b, "{\"text\":\"a\",\"facts\":[{\"prompt\":\"p\",\"target_new\":\"t\",\"pos\":%s}]}",
                   good[i]);
        struct result r = run(&root, b.data);
        assert_true(r.ok);
        arena_release(&r.arena);
        buf_release(&b);
    }
    refused(&root, "{\"text\":\"a\",\"facts\":[{\"prompt\":\"p\",\"target_new\":\"t\",\"pos\":true}]}",
            "facts[0].pos", "must be an integer, a list or a string, not a boolean");
    refused(&root, "{\"text\":\"a\",\"facts\":[{\"prompt\":\"p\",\"target_new\":\"t\",\"pos\":\"x\"}]}",
            "facts[0].pos", "must be \"all\" or \"last\"; \"x\" is not");
}

static void queries_are_converted(void **state)
{
    (void)state;
    struct result r = run(&query, "{\"limit\":\"20\",\"branch\":\"7\",\"all\":\"true\"}");
    assert_true(r.ok);
    assert_int_equal(json_get(r.out, "limit")->integer, 20);
    assert_string_equal(json_get(r.out, "branch")->text, "7");
    assert_true(json_get(r.out, "all")->boolean);
    arena_release(&r.arena);
    r = run(&query, "{\"limit\":\"\",\"branch\":\"\"}"); /* ?limit=&branch= */
    assert_true(r.ok);
    assert_int_equal(json_get(r.out, "limit")->integer, 50);
    assert_string_equal(json_get(r.out, "branch")->text, "main");
    arena_release(&r.arena);
    refused(&query, "{\"limit\":\"many\"}", "limit", "must be an integer; \"many\" is not");
    refused(&query, "{\"limit\":\"0x10\"}", "limit", "must be an integer");
    refused(&query, "{\"limit\":\"201\"}", "limit", "between 0 and 200");
    refused(&query, "{\"limt\":\"1\"}", "limt", "unknown parameter; did you mean \"limit\"?");
}

static void long_names_are_cut_between_characters(void **state)
{
    (void)state;
    struct buf b = {0};
    buf_text(&b, "{\"text\":\"a\",\"");
    for (int i = 0; i < 400; i++) buf_text(&b, "\xC3\xA9");
    buf_text(&b, "\":1}");
    struct result r = run(&root, b.data);
    size_t bad;
    assert_false(r.ok);
    assert_true(utf8_valid(r.e.field, strlen(r.e.field), &bad));
    assert_in_range(strlen(r.e.field), 100, sizeof r.e.field - 1);
    arena_release(&r.arena);
    buf_release(&b);
}

static void near_names_are_found(void **state)
{
    (void)state;
    static const char *const names[] = {"view", "temperature", "target_new", "top_k"};
    assert_string_equal(nearest_name("veiw", names, 4), "view");
    assert_string_equal(nearest_name("temprature", names, 4), "temperature");
    assert_string_equal(nearest_name("topk", names, 4), "top_k");
    assert_string_equal(nearest_name("target", names, 4), "target_new");
    assert_null(nearest_name("banana", names, 4));
    assert_null(nearest_name("", names, 4));
    assert_null(nearest_name("xy", names, 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_filled_in),
        cmocka_unit_test(null_is_absent),
        cmocka_unit_test(members_come_in_the_order_of_the_shape),
        cmocka_unit_test(unknown_fields_are_named),
        cmocka_unit_test(types_are_checked),
        cmocka_unit_test(whole_numbers_are_integers),
        cmocka_unit_test(ranges_are_named),
        cmocka_unit_test(required_fields_are_missed),
        cmocka_unit_test(exactly_one_of_a_group),
        cmocka_unit_test(unions_go_by_json_type),
        cmocka_unit_test(queries_are_converted),
        cmocka_unit_test(long_names_are_cut_between_characters),
        cmocka_unit_test(near_names_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
