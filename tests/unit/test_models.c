/* The registry of served models: names and bases are unique, the first is the default, what was taken
 * out lives as long as somebody holds it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "server/models.h"

#define must(call)                                                                                 \
    do {                                                                                           \
        if (!(call)) fail_msg("%s: %s", #call, err.text);                                          \
    } while (0)

static struct budget *budget; /* of all tests; its end asserts that everything was given back */

static struct served *open_tiny(const char *folder, const char *name)
{
    struct err err = {0};
    char path[128];
    (void)snprintf(path, sizeof path, "tests/golden/tiny/%s", folder);
    struct served *s = served_open(path, name, NULL, budget, NULL, NULL, &err);
    must(s != NULL);
    (void)snprintf(s->row.id, sizeof s->row.id, "model_%s", name);
    return s;
}

/* The name of what is found, or "" and the error. */
static const char *found(struct models *m, const char *name, char out[NAME_TEXT], struct err *e)
{
    struct served *s = models_find(m, name, e);
    (void)snprintf(out, NAME_TEXT, "%s", s ? s->name : "");
    served_drop(s);
    return out;
}

static void names_and_bases_are_unique(void **state)
{
    struct err err = {0};
    struct models *m = models_new();
    struct served *a = open_tiny("gqa_tied", "a"), *b = open_tiny("mha_bf16", "b"), *again = open_tiny("gqa_tied", "c"),
                  *namesake = open_tiny("wide_head", "a");
    (void)state;
    must(models_add(m, a, &err) && models_add(m, b, &err));
    assert_false(models_add(m, again, &err));
    assert_int_equal(err.code, ERR_CONFLICT);
    assert_string_equal(err.field, "path");
    assert_non_null(strstr(err.text, "as \"a\""));
    assert_false(models_add(m, namesake, &err));
    assert_string_equal(err.field, "name");
    assert_false(models_may_add(m, "b", NULL, &err));
    assert_false(models_may_add(m, "d", b->digests.base, &err));
    must(models_may_add(m, "d", NULL, &err) && models_may_add(m, "d", namesake->digests.base, &err));
    assert_int_equal(models_count(m), 2);
    models_free(m);
    served_drop(a);
    served_drop(b);
    served_drop(again);
    served_drop(namesake);
}

static void the_first_is_the_default(void **state)
{
    struct err err = {0};
    char name[NAME_TEXT];
    struct models *m = models_new();
    struct served *a = open_tiny("gqa_tied", "a"), *b = open_tiny("mha_bf16", "b");
    (void)state;
    assert_string_equal(found(m, NULL, name, &err), "");
    assert_int_equal(err.code, ERR_NOT_FOUND);
    must(models_add(m, a, &err) && models_add(m, b, &err));
    assert_string_equal(found(m, NULL, name, &err), "a");
    assert_string_equal(found(m, "b", name, &err), "b");
    assert_string_equal(found(m, "model_b", name, &err), "b");
    assert_string_equal(found(m, "z", name, &err), "");
    assert_string_equal(err.field, "model");
    assert_true(strstr(err.text, "\"z\"") && strstr(err.text, "\"a\", \"b\""));
    must(models_remove(m, "a", name, &err));
    assert_string_equal(name, "b");
    assert_string_equal(found(m, NULL, name, &err), "b");
    assert_false(models_remove(m, "a", name, &err));
    must(models_add(m, a, &err)); /* back, and behind the other now */
    assert_string_equal(found(m, NULL, name, &err), "b");
    struct served *all[MODELS_MOST];
    assert_int_equal(models_list(m, all), 2);
    assert_ptr_equal(all[0], b);
    assert_ptr_equal(all[1], a);
    served_drop(all[0]);
    served_drop(all[1]);
    models_free(m);
    served_drop(a);
    served_drop(b);
}

static void what_was_taken_out_lives_on_and_knows_its_successor(void **state)
{
    struct err err = {0};
    char name[NAME_TEXT];
    struct models *m = models_new();
    struct served *a = open_tiny("gqa_tied", "a"), *anew = open_tiny("gqa_tied", "anew");
    (void)state;
    must(models_add(m, a, &err));
    assert_true(models_is_current(m, a));
    must(models_remove(m, "a", name, &err));
    assert_string_equal(name, "");
    assert_true(models_is_current(m, a)); /* nobody else commits to this base */
    assert_int_equal(atomic_load(&a->references), 1);
    assert_true(a->model->n_parameters > 0);
    must(models_add(m, anew, &err));
    assert_false(models_is_current(m, a));
    assert_true(models_is_current(m, anew));
    struct served *row = models_find_row(m, "model_anew");
    assert_ptr_equal(row, anew);
    assert_null(models_find_row(m, "model_a"));
    served_drop(row);
    served_drop(a);
    served_drop(anew); /* the registry's reference stays */
    assert_true(models_is_current(m, anew));
    models_free(m);
}

static void a_name_is_one_segment_of_a_path(void **state)
{
    struct err err = {0};
    char longest[NAME_TEXT + 1];
    (void)state;
    memset(longest, 'x', sizeof longest);
    longest[NAME_TEXT] = '\0';
    static const char *const bad[] = {"", "a/b", "/", "a\nb", "\x7f", "\xff", "caf\xc3", "a@main"};
    static const char *const good[] = {"a", "a b", "smollm2-135m.q4_1", "caf\xc3\xa9", "x:y=z"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(served_may_be_called(bad[i], &err));
        assert_string_equal(err.field, "name");
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) must(served_may_be_called(good[i], &err));
    assert_false(served_may_be_called(longest, &err));
    longest[NAME_TEXT - 1] = '\0';
    must(served_may_be_called(longest, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_bases_are_unique),
        cmocka_unit_test(the_first_is_the_default),
        cmocka_unit_test(what_was_taken_out_lives_on_and_knows_its_successor),
        cmocka_unit_test(a_name_is_one_segment_of_a_path),
    };
    budget = budget_new((size_t)1 << 30);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    budget_free(budget);
    return failed;
}
