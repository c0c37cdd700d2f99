/* Artefacts: named content, found again by id and by name, in one transaction with the run that made it. */
#include "ledger_fixture.h"

static bool put(struct fixture *x, const char *kind, const char *model, const char *name, const char *content, char id[ID_TEXT])
{
    struct err err;
    bool known;
    const struct artefact a = {.kind = kind, .model = model, .name = name, .summary = "{\"rows\":1}", .content = content,
                               .len = strlen(content)};
    must(ledger_add_artefact(x->l, &a, "tester", true, id, &known, &err));
    return known;
}

static void expect(struct fixture *x, const char *kind, const char *model, const char *name, const char *id, const char *content)
{
    struct err err;
    struct artefact_row row;
    struct buf bytes = {0};
    uint8_t hash[SHA256_BYTES];
    char text[DIGEST_TEXT];
    must(ledger_artefact(x->r, kind, model, name, &row, &err));
    assert_string_equal(row.id, id);
    assert_string_equal(row.kind, kind);
    assert_string_equal(row.author, "tester");
    assert_true(row.author_verified && row.created_us > 0);
    assert_string_equal(row.summary, "{\"rows\":1}");
    must(ledger_artefact_content(x->r, &row, &bytes, &err));
    assert_int_equal(row.size, strlen(content));
    assert_int_equal(bytes.len, strlen(content));
    assert_memory_equal(bytes.data, content, bytes.len);
    sha256(content, strlen(content), hash);
    digest_text(hash, text);
    assert_string_equal(row.hash, text);
    buf_release(&bytes);
    artefact_row_release(&row);
}

static void test_a_name_means_the_newest(void **state)
{
    struct fixture x;
    struct err err;
    struct artefact_row none;
    char a[ID_TEXT], b[ID_TEXT], c[ID_TEXT], again[ID_TEXT], r[ID_TEXT];
    (void)state;
    fx_open(&x);
    assert_false(put(&x, "set", NULL, "caps", "one\n", a));
    assert_int_equal(strncmp(a, "set_", 4), 0);
    assert_true(put(&x, "set", NULL, "caps", "one\n", again));
    assert_string_equal(again, a);
    assert_false(put(&x, "set", NULL, "caps", "two\n", b));
    assert_false(put(&x, "set", NULL, "", "one\n", c)); /* another name: another row, the same body */
    assert_int_equal(fx_scalar(&x, "SELECT count(*) FROM artefact"), 3);
    assert_false(put(&x, "region", x.row.id, "caps", "one\n", r));
    expect(&x, "set", NULL, "caps", b, "two\n");
    expect(&x, "set", NULL, a, a, "one\n");
    expect(&x, "set", x.row.id, c, c, "one\n");
    expect(&x, "region", x.row.id, "caps", r, "one\n");
    must_fail(ledger_artefact(x.r, "region", NULL, "caps", &none, &err), ERR_NOT_FOUND);
    must_fail(ledger_artefact(x.r, "set", NULL, "", &none, &err), ERR_NOT_FOUND);
    must_fail(ledger_artefact(x.r, "set", NULL, r, &none, &err), ERR_NOT_FOUND);
    /* What was said before and is meant again must be the newest again. */
    assert_false(put(&x, "set", NULL, "caps", "one\n", again));
    expect(&x, "set", NULL, "caps", again, "one\n");
    fx_reopen(&x);
    expect(&x, "set", NULL, "caps", again, "one\n");
    fx_sound(&x);
    fx_close(&x);
}

static void test_names_and_bodies_that_are_refused(void **state)
{
    static const char *const names[] = {"set_0123456789abcdefghjkmnpq", "set_x", "\xff"};
    struct fixture x;
    struct err err;
    char id[ID_TEXT], hash[DIGEST_TEXT], longest[NAME_TEXT + 1];
    bool known;
    uint8_t h[SHA256_BYTES];
    (void)state;
    fx_open(&x);
    struct artefact a = {.kind = "set", .summary = "{}", .content = "x", .len = 1};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        a.name = names[i];
        must_fail(ledger_add_artefact(x.l, &a, "tester", false, id, &known, &err), ERR_INVALID);
        assert_string_equal(err.field, "name");
    }
    memset(longest, 'n', NAME_TEXT);
    longest[NAME_TEXT] = '\0';
    a.name = longest;
    must_fail(ledger_add_artefact(x.l, &a, "tester", false, id, &known, &err), ERR_INVALID);
    a.name = "set_ of mine";
    a.model = "model_unknown";
    must_fail(ledger_add_artefact(x.l, &a, "tester", false, id, &known, &err), ERR_NOT_FOUND);
    a.model = NULL;
    assert_int_equal(fx_scalar(&x, "SELECT count(*) FROM artefact"), 0);
    must(ledger_add_artefact(x.l, &a, "tester", false, id, &known, &err));
    /* A run may have said the same bytes; they stay while the artefact is there. */
    fx_look(&x, "x", 0, id);
    sha256("x", 1, h);
    digest_text(h, hash);
    must_fail(ledger_prune_body(x.l, hash, "admin", "no", &err), ERR_CONFLICT);
    fx_sound(&x);
    fx_close(&x);
}

static void count(void *ctx, const struct artefact_row *row)
{
    int64_t *last = ctx;
    assert_true(row->chain_seq < last[0]);
    last[0] = row->chain_seq;
    last[1]++;
}

static void test_lists_are_paged(void **state)
{
    struct fixture x;
    struct err err;
    char id[ID_TEXT], name[16];
    int64_t last[2] = {INT64_MAX, 0};
    (void)state;
    fx_open(&x);
    for (int i = 0; i < 5; i++) {
        (void)snprintf(name, sizeof name, "n%d", i);
        (void)put(&x, i == 2 ? "region" : "set", i == 2 ? x.row.id : NULL, name, "c", id);
    }
    must(ledger_artefacts(x.r, "set", NULL, 3, 0, count, last, &err));
    assert_int_equal(last[1], 3);
    must(ledger_artefacts(x.r, "set", x.row.id, 3, last[0], count, last, &err));
    assert_int_equal(last[1], 4);
    last[0] = INT64_MAX;
    must(ledger_artefacts(x.r, "region", x.row.id, 3, 0, count, last, &err));
    assert_int_equal(last[1], 5);
    last[0] = INT64_MAX;
    must(ledger_artefacts(x.r, "region", "model_other", 3, 0, count, last, &err));
    assert_int_equal(last[1], 5);
    fx_close(&x);
}

static void test_a_run_and_what_it_made_are_one(void **state)
{
    struct fixture x;
    struct err err;
    struct artefact_row row;
    char *large = mem_new(BODY_INLINE + 10);
    (void)state;
    fx_open(&x);
    memset(large, 'v', BODY_INLINE + 9);
    struct artefact made = {.kind = "vector", .model = x.row.id, .name = "refusal", .summary = "{}", .content = large,
                            .len = strlen(large)};
    ledger_new_id("vector", made.id);
    struct run run = {.kind = "probe", .model = x.row.id, .revision = x.head.id, .view_digest = x.head.digest,
                      .result = "{}", .result_len = 2, .by = fx_by(), .status = 200, .artefact = &made};
    ledger_new_id("run", run.id);
    must(ledger_add_run(x.l, &run, &err));
    must(ledger_artefact(x.r, "vector", x.row.id, "refusal", &row, &err));
    assert_string_equal(row.id, made.id);
    assert_string_equal(row.run, run.id);
    assert_string_equal(row.model, x.row.id);
    artefact_row_release(&row);
    /* Neither without the other. */
    int64_t runs = fx_scalar(&x, "SELECT count(*) FROM run"), entries = fx_scalar(&x, "SELECT count(*) FROM chain");
    ledger_new_id("run", run.id);
    made.name = "vector_1";
    must_fail(ledger_add_run(x.l, &run, &err), ERR_INVALID);
    made.name = "refusal"; /* the same id again */
    must_fail(ledger_add_run(x.l, &run, &err), ERR_INTERNAL);
    assert_int_equal(fx_scalar(&x, "SELECT count(*) FROM run"), runs);
    assert_int_equal(fx_scalar(&x, "SELECT count(*) FROM chain"), entries);
    fx_sound(&x);
    mem_drop(large);
    fx_close(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_name_means_the_newest),
        cmocka_unit_test(test_names_and_bodies_that_are_refused),
        cmocka_unit_test(test_lists_are_paged),
        cmocka_unit_test(test_a_run_and_what_it_made_are_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
