/* The budget's sums and refusals, the machine's limits, the sizes of --memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/budget.h"
#include "server/config.h"
#include "server/machine.h"

enum { KB = 1024, MB = 1024 * KB };

static struct plan plan_of(size_t caches, size_t scratch)
{
    return (struct plan){.bytes[NEED_CACHES] = caches, .bytes[NEED_SCRATCH] = scratch};
}

static bool take(struct budget *b, struct plan p, struct lease *l, struct err *e)
{
    *e = (struct err){0};
    return budget_take(b, HOLDER_WORKS, &p, l, e);
}

static struct budget_use use_of(struct budget *b)
{
    struct budget_use u;
    budget_use(b, &u);
    return u;
}

/* ---- sums ---------------------------------------------------------------------------------- */

static void sums_and_refusals(void **state)
{
    (void)state;
    struct budget *b = budget_new(PROGRAM_BYTES + 10 * MB);
    struct lease weights = {0}, first = {0}, second = {0}, third = {0};
    struct err e = {0};
    const struct plan model = {.bytes[NEED_WEIGHTS] = 4 * MB};
    assert_true(budget_take(b, HOLDER_MODELS, &model, &weights, &e));
    assert_true(take(b, plan_of(2 * MB, 1 * MB), &first, &e));
    assert_int_equal(use_of(b).works, 3 * MB);
    /* Two works' scratch is one session's. */
    assert_true(take(b, plan_of(2 * MB, 1 * MB), &second, &e));
    assert_int_equal(use_of(b).works, 5 * MB);
    /* One MiB is left: two fit when the others end, eight never do beside the model. */
    assert_false(take(b, plan_of(2 * MB, 0), &third, &e));
    assert_int_equal(e.code, ERR_NO_MEMORY);
    assert_non_null(strstr(e.text, "2.00 MiB of memory are needed (keys and values 2.00 MiB)"));
    assert_non_null(strstr(e.text, "models 4.00 MiB"));
    assert_non_null(strstr(e.text, "other works 5.00 MiB"));
    assert_false(take(b, plan_of(7 * MB, 0), &third, &e));
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_non_null(strstr(e.text, "the limit is 202.00 MiB"));
    assert_true(take(b, plan_of(1 * MB, 1 * MB), &third, &e));
    lease_give(&second);
    lease_give(&second);
    assert_int_equal(use_of(b).works, 4 * MB);
    lease_give(&first);
    lease_give(&third);
    assert_int_equal(use_of(b).works, 0);
    assert_int_equal(use_of(b).models, 4 * MB);
    lease_give(&weights);
    budget_free(b);
}

static void views_count_for_good(void **state)
{
    (void)state;
    struct budget *b = budget_new(PROGRAM_BYTES + 10 * MB);
    struct lease l = {0};
    struct err e;
    atomic_fetch_add(budget_overlays(b), 6 * MB);
    assert_false(take(b, plan_of(5 * MB, 0), &l, &e));
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_non_null(strstr(e.text, "views 6.00 MiB"));
    assert_true(take(b, plan_of(4 * MB, 0), &l, &e));
    lease_give(&l);
    atomic_fetch_sub(budget_overlays(b), 6 * MB);
    budget_free(b);
}

/* The program's share of answers is in its own sum; what is above counts like works, which end. */
static void answers_count_above_the_programs_share(void **state)
{
    (void)state;
    struct budget *b = budget_new(PROGRAM_BYTES + 10 * MB);
    struct lease l = {0};
    struct err e = {0};
    assert_true(budget_take_answer(b, ANSWER_BYTES, &e));
    assert_int_equal(use_of(b).answers, 0);
    assert_true(take(b, plan_of(4 * MB, 0), &l, &e));
    assert_true(budget_take_answer(b, 6 * MB, &e));
    assert_int_equal(use_of(b).answers, 6 * MB);
    assert_false(budget_take_answer(b, 1, &e));
    assert_int_equal(e.code, ERR_NO_MEMORY);
    assert_int_equal(use_of(b).answers, 6 * MB);
    lease_give(&l);
    assert_true(budget_take_answer(b, 1, &e));
    assert_false(take(b, plan_of(5 * MB, 0), &l, &e));
    assert_int_equal(e.code, ERR_NO_MEMORY);
    assert_non_null(strstr(e.text, "answers 6.00 MiB"));
    atomic_fetch_sub(budget_answers(b), ANSWER_BYTES + 6 * MB + 1);
    assert_true(take(b, plan_of(5 * MB, 0), &l, &e));
    lease_give(&l);
    budget_free(b);
}

/* A model that others keep from fitting may come later; one larger than all there is may not. */
static void models_take_turns(void **state)
{
    (void)state;
    struct budget *b = budget_new(PROGRAM_BYTES + 10 * MB);
    struct lease one = {0}, two = {0};
    struct err e = {0};
    const struct plan small = {.bytes[NEED_WEIGHTS] = 6 * MB}, large = {.bytes[NEED_WEIGHTS] = 11 * MB};
    assert_true(budget_take(b, HOLDER_MODELS, &small, &one, &e));
    assert_false(budget_take(b, HOLDER_MODELS, &small, &two, &e));
    assert_int_equal(e.code, ERR_NO_MEMORY);
    assert_false(budget_take(b, HOLDER_MODELS, &large, &two, &e));
    assert_int_equal(e.code, ERR_TOO_LARGE);
    lease_give(&one);
    assert_true(budget_take(b, HOLDER_MODELS, &small, &two, &e));
    lease_give(&two);
    budget_free(b);
}

static void what_overflows_never_fits(void **state)
{
    (void)state;
    struct budget *b = budget_new(SIZE_MAX - 1);
    struct lease l = {0};
    struct err e;
    struct plan p = {0};
    plan_add(&p, NEED_CACHES, plan_times(SIZE_MAX / 2, 3));
    plan_add(&p, NEED_LOGITS, SIZE_MAX);
    assert_int_equal(plan_total(&p), SIZE_MAX);
    assert_false(take(b, p, &l, &e));
    assert_int_equal(e.code, ERR_TOO_LARGE);
    budget_free(b);
}

/* ---- the machine ---------------------------------------------------------------------------- */

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void least_cgroup_counts(void **state)
{
    (void)state;
    char root[] = "/tmp/engramd-cgroup-XXXXXX", path[128];
    assert_non_null(mkdtemp(root));
    static const char *const folders[] = {"", "/a", "/a/b", "/memory", "/memory/c"};
    static const struct { const char *file, *text; } files[] = {
        {"/memory.max", "max\n"}, {"/a/memory.max", "3000\n"}, {"/a/b/memory.max", "5000\n"},
        {"/memory/c/memory.limit_in_bytes", "7000\n"}};
    for (size_t i = 1; i < sizeof folders / sizeof *folders; i++) {
        (void)snprintf(path, sizeof path, "%s%s", root, folders[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        (void)snprintf(path, sizeof path, "%s%s", root, files[i].file);
        put(path, files[i].text);
    }
    assert_int_equal(machine_cgroup_limit("0::/a/b\n", root), 3000);
    assert_int_equal(machine_cgroup_limit("0::/\n", root), SIZE_MAX);
    assert_int_equal(machine_cgroup_limit("5:memory:/c\n4:cpu:/x\n", root), 7000);
    assert_int_equal(machine_cgroup_limit("5:memory:/c\n0::/a/b\n", root), 3000);
    assert_int_equal(machine_cgroup_limit("", root), SIZE_MAX);
    assert_int_equal(machine_cgroup_limit("nonsense", root), SIZE_MAX);
    assert_true(machine_memory() > MB && machine_memory() < SIZE_MAX);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        (void)snprintf(path, sizeof path, "%s%s", root, files[i].file);
        (void)unlink(path);
    }
    for (size_t i = sizeof folders / sizeof *folders; i-- > 0;) {
        (void)snprintf(path, sizeof path, "%s%s", root, folders[i]);
        (void)rmdir(path);
    }
}

/* ---- --memory -------------------------------------------------------------------------------- */

static bool parsed(const char *value, int64_t *out)
{
    char *argv[] = {(char[]){"engramd"}, (char[]){"serve"}, (char[]){"--model"}, (char[]){"m"},
                    (char[]){"--data"},  (char[]){"d"},     (char[]){"--memory"}, NULL};
    char text[64];
    struct config c;
    struct err e = {0};
    (void)snprintf(text, sizeof text, "%s", value);
    argv[7] = text;
    bool ok = config_parse(&c, 8, argv, &e);
    *out = ok ? c.memory : 0;
    if (ok) config_release(&c);
    else assert_non_null(strstr(e.text, "--memory takes bytes"));
    return ok;
}

static void sizes_are_read(void **state)
{
    (void)state;
    static const struct { const char *text; int64_t bytes; } good[] = {
        {"4096", 4096}, {"64k", 64 << 10}, {"512M", INT64_C(512) << 20}, {"4G", INT64_C(4) << 30}, {"2T", INT64_C(2) << 40}};
    static const char *const bad[] = {"", "0", "-1", "G", "4GB", "4.5G", "4 G", "9999999999G", "4x", "99999999999999999999"};
    int64_t bytes;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(parsed(good[i].text, &bytes));
        assert_int_equal(bytes, good[i].bytes);
    }
    for (size_t i = 1; i < sizeof bad / sizeof *bad; i++) assert_false(parsed(bad[i], &bytes));
}

static void bytes_are_shown(void **state)
{
    (void)state;
    char text[BYTES_TEXT];
    assert_string_equal(bytes_text(0, text), "0 bytes");
    assert_string_equal(bytes_text(1, text), "1 byte");
    assert_string_equal(bytes_text(1023, text), "1023 bytes");
    assert_string_equal(bytes_text(1536, text), "1.50 KiB");
    assert_string_equal(bytes_text((size_t)13 << 30, text), "13.00 GiB");
    assert_true(strlen(bytes_text(SIZE_MAX, text)) < BYTES_TEXT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_and_refusals),  cmocka_unit_test(views_count_for_good),
        cmocka_unit_test(answers_count_above_the_programs_share),
        cmocka_unit_test(models_take_turns),  cmocka_unit_test(what_overflows_never_fits),
        cmocka_unit_test(least_cgroup_counts), cmocka_unit_test(sizes_are_read),
        cmocka_unit_test(bytes_are_shown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
