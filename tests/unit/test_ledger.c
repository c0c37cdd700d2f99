/* The ledger as its callers use it: its history. What it keeps beside that: test_ledger_runs.c. */
#include "ledger_fixture.h"

#include "core/base/json.h"
#include "ledger/migrate.h"
#include "ledger/store.h"

/* ---- digests --------------------------------------------------------------------------------- */

static void test_sha256_of_the_standard(void **state)
{
    uint8_t hash[SHA256_BYTES], again[SHA256_BYTES];
    char text[DIGEST_TEXT];
    (void)state;
    sha256("abc", 3, hash); /* FIPS 180-2, appendix B.1 */
    digest_text(hash, text);
    assert_string_equal(text,
                        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_true(digest_parse(text, again));
    assert_memory_equal(hash, again, SHA256_BYTES);
    static const char *const bad[] = {
        "",
        "sha256:",
        "ba7816bf",
        "sha256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad0",
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015a"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(digest_parse(bad[i], again));
}

static void test_base_digests_are_those_of_the_reference(void **state)
{
    /* tests/golden/tiny/ * /expected.json, made with hashlib */
    static const struct {
        const char *path, *digest;
    } want[] = {
        {TINY, TINY_DIGEST},
        {"tests/golden/tiny/gqa_tied/gqa_tied.f32.gguf", TINY_DIGEST},
        {"tests/golden/tiny/gqa_tied/gqa_tied.f16.gguf",
         "sha256:9ad45a9888999cf121eb05a15551ee749ffb9176a89cc451f75cb24647b6ed12"},
        {"tests/golden/tiny/gqa_untied_odd",
         "sha256:d0d6ea19973a709f5cfe7110abd26aae229901d7fa76c42a613bdcddedc43153"},
        {"tests/golden/tiny/mha_bf16",
         "sha256:97021207b7d42de98d58396bc73a761142167de8bce597cfa2699373f02d49d1"},
        {"tests/golden/tiny/wide_head",
         "sha256:9842e04a7c0a582ab5cad72f6f38978a2cb5bebabb07679c748c043f409d2b8e"},
    };
    struct err err;
    (void)state;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct model *m;
        struct base_digests d;
        char again[DIGEST_TEXT];
        must((m = model_open(want[i].path, "tiny", NULL, NULL, &err)) != NULL);
        must(base_digests_init(&d, m, NULL, &err));
        assert_string_equal(d.base, want[i].digest);
        struct view *v = view_base(m);
        digest_view(v, &d, again);
        assert_string_equal(again, want[i].digest);
        view_drop(v);
        base_digests_release(&d);
        model_drop(m);
    }
}

static void cached_digests(struct fixture *x, const char *want_source)
{
    struct err err;
    struct base_digests d;
    must(base_digests_init(&d, x->m, x->dir, &err));
    assert_string_equal(d.base, TINY_DIGEST);
    assert_string_equal(d.source, want_source);
    base_digests_release(&d);
}

static int cache_files(const char *dir, const char *command)
{
    char line[256];
    (void)snprintf(line, sizeof line, command, dir);
    return system(line);
}

static void test_base_digest_cache_is_only_a_cache(void **state)
{
    struct fixture x;
    (void)state;
    fx_open(&x);
    cached_digests(&x, x.d.source);
    assert_int_equal(cache_files(x.dir, "test $(ls %s/base-*.cache | wc -l) = 1"), 0);
    cached_digests(&x, x.d.source);
    assert_int_equal(
        cache_files(x.dir,
                    "printf X | dd of=$(ls %s/base-*.cache) bs=1 seek=70 conv=notrunc 2>/dev/null"),
        0);
    cached_digests(&x, x.d.source);
    assert_int_equal(cache_files(x.dir, "truncate -s 40 $(ls %s/base-*.cache)"), 0);
    cached_digests(&x, x.d.source);
    fx_close(&x);
}

/* ---- beginnings ------------------------------------------------------------------------------ */

static void count_revision(void *ctx, const struct revision *rev)
{
    (void)rev;
    ++*(int *)ctx;
}

static void test_a_fresh_ledger_has_one_base_revision(void **state)
{
    struct fixture x;
    struct err err;
    struct revision rev;
    struct model_row row;
    int64_t models;
    int n = 0;
    (void)state;
    fx_open(&x);
    must(ledger_count_models(x.r, &models, &err));
    assert_int_equal(models, 1);
    must(ledger_find_model(x.r, TINY_DIGEST, &row, &err));
    assert_string_equal(row.id, x.row.id);
    assert_string_equal(row.name, "tiny");
    assert_string_equal(row.pretrained_parent, "unknown");
    assert_string_equal(row.source_sha256, x.d.source);
    must(ledger_revision(x.r, row.base_revision, &rev, &err));
    assert_int_equal(rev.seq, 1);
    assert_int_equal(rev.kind, REV_BASE);
    assert_string_equal(rev.branch, "main");
    assert_string_equal(rev.parent, "");
    assert_string_equal(rev.digest, TINY_DIGEST);
    assert_string_equal(rev.model, row.id);
    assert_string_equal(rev.author, "tester");
    assert_string_equal(rev.edit, "");
    assert_null(rev.summary);
    revision_release(&rev);
    must(ledger_revisions(x.r, x.row.id, "main", 50, 0, count_revision, &n, &err));
    assert_int_equal(n, 1);
    must_fail(ledger_find_model(x.r, "sha256:00", &row, &err), ERR_NOT_FOUND);
    must_fail(ledger_add_model(x.l, x.m, &x.d, "tester", false, &row, &err), ERR_CONFLICT);
    must_fail(ledger_head(x.r, x.row.id, "other", &rev, &err), ERR_NOT_FOUND);
    must_fail(ledger_revision(x.r, "rev_none", &rev, &err), ERR_NOT_FOUND);
    fx_sound(&x);
    fx_close(&x);
}

static unsigned mode_of(const char *dir, const char *name)
{
    char path[256];
    struct stat st;
    (void)snprintf(path, sizeof path, "%s%s", dir, name);
    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 0777;
}

static void test_the_directory_is_private_and_locked(void **state)
{
    struct fixture x;
    struct err err;
    char inner[128];
    (void)state;
    fx_open(&x);
    assert_null(ledger_open(x.dir, &err));
    assert_int_equal(err.code, ERR_CONFLICT);
    assert_non_null(strstr(err.text, "in use"));
    (void)snprintf(inner, sizeof inner, "%s/new", x.dir);
    mode_t old = umask(0);
    struct ledger *l = ledger_open(inner, &err);
    must(l != NULL);
    ledger_close(l);
    (void)umask(old);
    assert_int_equal(mode_of(inner, ""), 0700);
    assert_int_equal(mode_of(inner, "/ledger.db"), 0600);
    assert_int_equal(mode_of(inner, "/ledger.db-wal"), 0600);
    assert_int_equal(mode_of(inner, "/lock"), 0600);
    assert_int_equal(mode_of(inner, "/objects"), 0700);
    must((l = ledger_open(inner, &err)) != NULL); /* the lock goes with the ledger */
    ledger_close(l);
    fx_close(&x);
}

static void test_ids_are_distinct_and_fit(void **state)
{
    char a[ID_TEXT], b[ID_TEXT];
    (void)state;
    ledger_new_id("delta", a);
    ledger_new_id("delta", b);
    assert_string_not_equal(a, b);
    assert_memory_equal(a, "delta_", 6);
    assert_true(strlen(a) < ID_TEXT);
}

/* ---- commits --------------------------------------------------------------------------------- */

static void test_an_edit_reads_back_as_committed(void **state)
{
    struct fixture x;
    struct err err;
    struct edit d;
    struct revision rev, back;
    struct run_row run;
    struct buf answer = {0}, kept = {0}, bytes = {0}, json = {0};
    (void)state;
    fx_open(&x);
    fx_prepare(&x, &d, fx_tensor(x.m, 0), 2, 1);
    assert_string_not_equal(d.digest, TINY_DIGEST);
    must(ledger_commit(x.l, &d.c, &rev, &answer, &err));
    assert_int_equal(rev.seq, 2);
    must(ledger_head(x.r, x.row.id, "main", &back, &err));
    assert_string_equal(back.id, rev.id);
    assert_int_equal(back.kind, REV_EDIT);
    assert_string_equal(back.parent, x.head.id);
    assert_string_equal(back.digest, d.digest);
    assert_string_equal(back.edit, d.edit_id);
    assert_string_equal(back.delta, rev.delta);
    assert_string_equal(back.to, "");
    assert_string_equal(back.message, "an edit");
    assert_string_equal(back.summary, "{\"n\":1}");
    assert_string_equal(back.author, "tester");
    assert_true(back.author_verified);
    assert_int_equal(back.created_us, rev.created_us);
    assert_true(back.created_us > 1700000000000000);

    must(ledger_edit(x.r, d.edit_id, &kept, &err));
    assert_string_equal(kept.data, answer.data);
    assert_non_null(strstr(answer.data, "\"seq\":2"));
    must(ledger_run(x.r, d.edit_id, &run, &err));
    assert_string_equal(run.kind, "edit");
    assert_string_equal(run.request, "{\"facts\":[]}");
    assert_string_equal(run.result, answer.data);
    assert_string_equal(run.revision, x.head.id);
    assert_string_equal(run.view_digest, TINY_DIGEST);
    assert_int_equal(run.seed, 7);
    run_row_release(&run);

    must(ledger_delta(x.r, rev.delta, &bytes, &json, &err));
    assert_int_equal(bytes.len, d.bytes.len);
    assert_memory_equal(bytes.data, d.bytes.data, bytes.len);
    struct arena a;
    arena_init(&a, 0);
    const struct json *j = json_parse(json.data, json.len, &a, &err);
    must(j != NULL);
    assert_string_equal(json_get(j, "method")->text, "locft");
    assert_string_equal(json_get(j, "revision")->text, rev.id);
    const struct json *part = json_get(j, "parts")->child;
    assert_string_equal(json_get(part, "tensor")->text, "model.layers.0.mlp.down_proj.weight");
    assert_string_equal(json_get(part, "kind")->text, "lowrank");
    assert_int_equal(json_get(part, "rank")->integer, 2);
    arena_release(&a);
    must_fail(ledger_edit(x.r, "edit_none", &kept, &err), ERR_NOT_FOUND);
    must_fail(ledger_delta(x.r, "delta_none", &bytes, &json, &err), ERR_NOT_FOUND);

    fx_sound(&x);
    revision_release(&rev);
    revision_release(&back);
    buf_release(&answer);
    buf_release(&kept);
    buf_release(&bytes);
    buf_release(&json);
    fx_drop_edit(&d);
    fx_close(&x);
}

static void test_a_commit_that_does_not_hold_is_refused(void **state)
{
    struct fixture x;
    struct edit d;
    char old_head[ID_TEXT];
    (void)state;
    fx_open(&x);
    memcpy(old_head, x.head.id, sizeof old_head);
    fx_edit(&x, 1);
    fx_prepare(&x, &d, fx_tensor(x.m, 5), 1, 2);
    struct commit good = d.c;
    d.c.expected_head = old_head;
    fx_refuse(&x, &d, ERR_CONFLICT);
    d.c = good;
    d.c.digest = TINY_DIGEST; /* not what parent plus delta gives */
    fx_refuse(&x, &d, ERR_INTERNAL);
    d.c = good;
    d.c.delta_len -= 4;
    fx_refuse(&x, &d, ERR_CORRUPT);
    d.c = good;
    struct view *base = view_base(x.m);
    struct edit same; /* consistent in itself, but made on the base, not on the head */
    struct view *head_view = x.view;
    x.view = base;
    fx_prepare(&x, &same, fx_tensor(x.m, 1), 1, 2);
    x.view = head_view;
    fx_refuse(&x, &same, ERR_INTERNAL);
    fx_drop_edit(&same);
    d.c.kind = REV_REVERT;
    fx_refuse(&x, &d, ERR_UNSUPPORTED);
    d.c = good;
    d.c.branch = "side";
    fx_refuse(&x, &d, ERR_NOT_FOUND);
    d.c = good;
    d.c.kind = REV_ROLLBACK;
    d.c.to = "rev_none";
    fx_refuse(&x, &d, ERR_NOT_FOUND);
    d.c.to = old_head; /* whose digest is another */
    fx_refuse(&x, &d, ERR_CORRUPT);
    view_drop(base);
    fx_drop_edit(&d);
    fx_edit(&x, 3); /* and the ledger still works */
    fx_sound(&x);
    fx_close(&x);
}

struct page {
    int n;
    int64_t seq[16];
};
static void take_page(void *ctx, const struct revision *rev)
{
    struct page *p = ctx;
    p->seq[p->n++] = rev->seq;
}
static void take_branch(void *ctx, const char *branch, const struct revision *head)
{
    assert_string_equal(branch, "main");
    *(int64_t *)ctx = head->seq;
}

static void test_lists_are_paged_from_the_newest(void **state)
{
    struct fixture x;
    struct err err;
    struct page p = {0};
    int64_t head = 0;
    (void)state;
    fx_open(&x);
    for (uint64_t i = 1; i <= 6; i++) fx_edit(&x, i);
    must(ledger_revisions(x.r, x.row.id, "main", 3, 0, take_page, &p, &err));
    assert_int_equal(p.n, 3);
    assert_int_equal(p.seq[0], 7);
    assert_int_equal(p.seq[2], 5);
    must(ledger_revisions(x.r, x.row.id, NULL, 10, p.seq[2], take_page, &p, &err));
    assert_int_equal(p.n, 7);
    assert_int_equal(p.seq[3], 4);
    assert_int_equal(p.seq[6], 1);
    p.n = 0;
    must(ledger_revisions(x.r, x.row.id, "none", 10, 0, take_page, &p, &err));
    assert_int_equal(p.n, 0);
    must(ledger_branches(x.r, x.row.id, take_branch, &head, &err));
    assert_int_equal(head, 7);
    must_fail(ledger_revisions(x.r, "model_none", NULL, 1, 0, take_page, &p, &err), ERR_NOT_FOUND);
    fx_close(&x);
}

/* ---- going back ------------------------------------------------------------------------------ */

static void test_rollback_gives_the_digest_back(void **state)
{
    struct fixture x;
    struct revision first;
    char base[ID_TEXT], digest[DIGEST_TEXT];
    (void)state;
    fx_open(&x);
    memcpy(base, x.head.id, sizeof base);
    fx_edit(&x, 1);
    first = x.head;
    fx_edit(&x, 5);
    fx_rollback(&x, first.id);
    assert_string_equal(x.head.digest, first.digest);
    assert_string_equal(x.head.to, first.id);
    assert_string_equal(x.head.delta, "");
    fx_digest_of(&x, x.head.id, digest);
    assert_string_equal(digest, first.digest);
    fx_edit(&x, 9);
    fx_rollback(&x, base);
    assert_string_equal(x.head.digest, TINY_DIGEST);
    char rolled[ID_TEXT];
    memcpy(rolled, x.head.id, sizeof rolled);
    fx_edit(&x, 13);
    fx_rollback(&x, rolled); /* to a rollback */
    assert_string_equal(x.head.digest, TINY_DIGEST);
    fx_edit(&x, 1); /* the same edit on the same state */
    assert_string_equal(x.head.digest, first.digest);
    fx_sound(&x);
    fx_close(&x);
}

static void test_two_hundred_edits_and_rollbacks_keep_every_digest(void **state)
{
    enum { N = 200 };
    struct fixture x;
    static char id[N + 1][ID_TEXT], digest[N + 1][DIGEST_TEXT];
    char again[DIGEST_TEXT];
    uint64_t random = 42;
    (void)state;
    fx_open(&x);
    memcpy(id[0], x.head.id, ID_TEXT);
    memcpy(digest[0], x.head.digest, DIGEST_TEXT);
    for (size_t i = 1; i <= N; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        if (random >> 62 == 0) {
            size_t to = (size_t)(random >> 32) % i;
            fx_rollback(&x, id[to]);
            assert_string_equal(x.head.digest, digest[to]);
        } else {
            fx_edit(&x, random >> 40);
        }
        memcpy(id[i], x.head.id, ID_TEXT);
        memcpy(digest[i], x.head.digest, DIGEST_TEXT);
    }
    fx_reopen(&x);
    for (size_t i = 0; i <= N; i += 7) {
        fx_digest_of(&x, id[i], again);
        assert_string_equal(again, digest[i]);
    }
    fx_sound(&x);
    fx_close(&x);
}

static void test_a_restart_begins_at_kept_tensors(void **state)
{
    struct fixture x;
    struct err err;
    struct lineage way;
    struct revision_full full;
    char digest[DIGEST_TEXT];
    (void)state;
    fx_open(&x);
    for (uint64_t i = 1; i <= 38; i++)
        fx_edit(&x, i % 4 ? 0 : 4); /* two tensors, again and again */
    assert_int_equal(fx_scalar(&x, "SELECT count(*) FROM revision WHERE snapshot = 1"), 2);
    assert_int_equal(
        fx_scalar(&x, "SELECT count(*) FROM revision_tensor t JOIN revision r ON r.seq = t.revision "
                   "WHERE r.snapshot = 1"),
        4);
    fx_reopen(&x);
    must(revision_by_id(&x.r->s, x.head.id, &full, &err));
    must(lineage_init(&way, &x.r->s, full.state, false, &err));
    assert_false(way.from_base);
    assert_int_equal(way.start, 33); /* the 32nd edit */
    assert_int_equal(way.n, 6);
    lineage_release(&way);
    revision_release(&full.rev);
    fx_digest_of(&x, x.head.id, digest);
    assert_string_equal(digest, x.head.digest);
    fx_sound(&x);
    fx_close(&x);
}

static void test_large_deltas_are_files(void **state)
{
    struct fixture x;
    struct err err;
    struct buf bytes = {0};
    size_t embed;
    char digest[DIGEST_TEXT];
    (void)state;
    fx_open(&x);
    assert_true(model_role(x.m, ROLE_EMBED, 0, &embed));
    fx_edit_with(&x, embed, 100, 3);
    assert_int_equal(
        fx_scalar(
            &x,
            "SELECT count(*) FROM body b JOIN delta d ON d.content = b.hash WHERE b.bytes IS NULL"),
        1);
    must(ledger_delta(x.r, x.head.delta, &bytes, NULL, &err));
    assert_true(bytes.len > BODY_INLINE);
    buf_release(&bytes);
    fx_digest_of(&x, x.head.id, digest);
    assert_string_equal(digest, x.head.digest);
    fx_sound(&x);
    fx_close(&x);
}

static void test_two_models_share_one_ledger(void **state)
{
    struct fixture x, y;
    struct err err;
    struct page p = {0};
    (void)state;
    fx_open(&x);
    fx_edit(&x, 1);
    y = x;
    must((y.m = model_open("tests/golden/tiny/mha_bf16", "other", NULL, NULL, &err)) != NULL);
    must(base_digests_init(&y.d, y.m, NULL, &err));
    must(ledger_add_model(x.l, y.m, &y.d, "tester", false, &y.row, &err));
    must(ledger_head(x.r, y.row.id, "main", &y.head, &err));
    assert_int_equal(y.head.seq, 3);
    y.view = view_base(y.m);
    fx_edit(&y, 2);
    fx_edit(&x, 3);
    assert_int_equal(x.head.seq, 5);
    must(ledger_revisions(x.r, x.row.id, NULL, 10, 0, take_page, &p, &err));
    assert_int_equal(p.n, 3);
    assert_null(ledger_restore(x.r, x.m, &x.d, y.head.id, &err));
    assert_int_equal(err.code, ERR_CONFLICT);
    fx_sound(&x);
    fx_sound(&y); /* replays the other model's revisions */
    const struct verify_base both[] = {{x.m, &x.d}, {y.m, &y.d}};
    struct verify_report report = fx_verify_with(&x, both, 2);
    assert_string_equal(report.problem, "");
    assert_true(report.ok);
    must(ledger_job_accept(x.l, "job_x", "edit", x.row.id, "tester", NULL, &err));
    must(ledger_job_accept(x.l, "job_y", "edit", y.row.id, "tester", NULL, &err));
    must(ledger_job_accept(x.l, "job_none", "load", "", "tester", NULL, &err));
    int n = 0;
    must(ledger_jobs(x.r, NULL, 9, fx_count_job, &n, &err));
    assert_int_equal(n, 3);
    n = 0;
    must(ledger_jobs(x.r, y.row.id, 9, fx_count_job, &n, &err));
    assert_int_equal(n, 1);
    revision_release(&y.head);
    view_drop(y.view);
    base_digests_release(&y.d);
    model_drop(y.m);
    fx_close(&x);
}

/* ---- migrations ------------------------------------------------------------------------------ */

static const char second_sql[] = "CREATE TABLE later (x INTEGER PRIMARY KEY) STRICT;";
static const char changed_sql[] = "CREATE TABLE other (x INTEGER PRIMARY KEY) STRICT;";
static const char broken_sql[] =
    "CREATE TABLE later (x INTEGER PRIMARY KEY) STRICT; CREATE TABEL oops;";

static void test_migrations_go_forward_once(void **state)
{
    struct fixture x;
    struct err err;
    char path[128], copy[160], problem[512];
    int64_t n;
    struct stat st;
    (void)state;
    fx_open(&x);
    fx_shut(&x);
    (void)snprintf(path, sizeof path, "%s/ledger.db", x.dir);
    enum { NOW = 2, NEXT = NOW + 1 };
    struct migration list[NEXT] = {migrations[0], migrations[1],
                                   {"0003_later.sql", broken_sql, broken_sql + sizeof broken_sql - 1}};
    assert_int_equal(n_migrations, NOW);

    struct db *db = db_open(path, DB_WRITER, &err);
    must(db != NULL);
    must_fail(migrate(db, list, NEXT, path, &err), ERR_INTERNAL); /* all of it or nothing */
    assert_non_null(strstr(err.text, "0003_later.sql"));
    must(migrate_check(db, list, NOW, &err));
    list[NOW] = (struct migration){"0003_later.sql", second_sql, second_sql + sizeof second_sql - 1};
    must_fail(migrate_check(db, list, NEXT, &err), ERR_UNSUPPORTED);
    must(migrate(db, list, NEXT, path, &err));
    must(migrate(db, list, NEXT, path, &err)); /* nothing left to do */
    must(migrate_check(db, list, NEXT, &err));
    must(migrate_schema(db, list, NEXT, problem, &err));
    assert_string_equal(problem, "");
    must(migrate_schema(db, list, NOW, problem, &err));
    assert_string_equal(problem, "schema: table later does not belong there");
    must(db_int(db, &err, &n, "SELECT count(*) FROM migration", NULL, 0));
    assert_int_equal(n, NEXT);
    (void)snprintf(copy, sizeof copy, "%s.before-0003", path);
    assert_int_equal(stat(copy, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_true(st.st_size > 0);

    list[NOW] =
        (struct migration){"0003_later.sql", changed_sql, changed_sql + sizeof changed_sql - 1};
    must_fail(migrate(db, list, NEXT, path, &err), ERR_CORRUPT);
    must_fail(migrate(db, list, NOW, path, &err), ERR_UNSUPPORTED);
    db_close(db);
    assert_null(ledger_open(x.dir, &err)); /* a ledger from the future */
    assert_int_equal(err.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "newer"));
    fx_close(&x);
}

/* Ledgers of every past version, as that version's own daemon wrote them (tests/golden/ledger): brought up
 * to date they keep every entry and its hash, verify and replay, and take new rows. A later migration
 * adds a row here. */
static void load_dump(struct fixture *x, const char *path, char file[128])
{
    struct err err;
    struct buf sql = {0};
    char piece[4096];
    size_t n;
    memset(x, 0, sizeof *x);
    (void)snprintf(x->dir, sizeof x->dir, "/tmp/engramd-test-XXXXXX");
    assert_non_null(mkdtemp(x->dir));
    must((x->m = model_open(TINY, "tiny", NULL, NULL, &err)) != NULL);
    must(base_digests_init(&x->d, x->m, NULL, &err));
    x->view = view_base(x->m);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while ((n = fread(piece, 1, sizeof piece, f)) > 0) buf_put(&sql, piece, n);
    (void)fclose(f);
    (void)snprintf(file, 128, "%s/ledger.db", x->dir);
    FILE *empty = fopen(file, "w");
    assert_non_null(empty);
    (void)fclose(empty);
    struct db *db = db_open(file, DB_WRITER, &err);
    must(db != NULL);
    must(db_script(db, sql.data, &err));
    db_close(db);
    buf_release(&sql);
}

static void test_ledgers_of_past_versions_are_brought_up_to_date(void **state)
{
    static const struct {
        const char *dump, *copy, *head; /* the newest entry's hash */
        int64_t entries, revisions;
    } past[] = {
        {"tests/golden/ledger/0001.sql", "before-0002",
         "sha256:74c0338667e204e8f3bee617cff20d4b9595db13ae9e75c52ea49b3e2b0637e9", 9, 3},
    };
    (void)state;
    assert_int_equal(sizeof past / sizeof *past, n_migrations - 1);
    for (size_t i = 0; i < sizeof past / sizeof *past; i++) {
        struct fixture x;
        struct err err;
        struct stat st;
        char file[128], copy[160], id[ID_TEXT];
        load_dump(&x, past[i].dump, file);
        assert_null(ledger_reader_open(x.dir, &err)); /* only the writer changes it */
        assert_int_equal(err.code, ERR_UNSUPPORTED);
        fx_reopen(&x);
        (void)snprintf(copy, sizeof copy, "%s.%s", file, past[i].copy);
        assert_int_equal(stat(copy, &st), 0);
        struct verify_report report = fx_verify(&x, true);
        assert_string_equal(report.problem, "");
        assert_string_equal(report.head, past[i].head);
        assert_int_equal(report.chain, past[i].entries);
        assert_int_equal(report.seq, past[i].revisions);
        must(ledger_find_model(x.r, x.d.base, &x.row, &err));
        must(ledger_head(x.r, x.row.id, "main", &x.head, &err));
        fx_edit(&x, 1);
        fx_look(&x, "{}", 0, id);
        fx_sound(&x);
        fx_close(&x);
    }
}

static void test_another_database_is_no_ledger(void **state)
{
    struct fixture x;
    struct err err;
    char path[128];
    (void)state;
    fx_open(&x);
    fx_shut(&x);
    (void)snprintf(path, sizeof path, "%s/ledger.db", x.dir);
    struct db *db = db_open(path, DB_WRITER, &err);
    must(db != NULL);
    must(db_script(db, "PRAGMA application_id=1", &err));
    db_close(db);
    assert_null(ledger_open(x.dir, &err));
    assert_int_equal(err.code, ERR_CORRUPT);
    assert_null(ledger_reader_open(x.dir, &err));
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int i = 0; i < 1000; i++) (void)fputs("this is no database\n", f);
    (void)fclose(f);
    assert_null(ledger_open(x.dir, &err));
    assert_int_equal(err.code, ERR_CORRUPT);
    fx_close(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256_of_the_standard),
        cmocka_unit_test(test_base_digests_are_those_of_the_reference),
        cmocka_unit_test(test_base_digest_cache_is_only_a_cache),
        cmocka_unit_test(test_a_fresh_ledger_has_one_base_revision),
        cmocka_unit_test(test_the_directory_is_private_and_locked),
        cmocka_unit_test(test_ids_are_distinct_and_fit),
        cmocka_unit_test(test_an_edit_reads_back_as_committed),
        cmocka_unit_test(test_a_commit_that_does_not_hold_is_refused),
        cmocka_unit_test(test_lists_are_paged_from_the_newest),
        cmocka_unit_test(test_rollback_gives_the_digest_back),
        cmocka_unit_test(test_two_hundred_edits_and_rollbacks_keep_every_digest),
        cmocka_unit_test(test_a_restart_begins_at_kept_tensors),
        cmocka_unit_test(test_large_deltas_are_files),
        cmocka_unit_test(test_two_models_share_one_ledger),
        cmocka_unit_test(test_migrations_go_forward_once),
        cmocka_unit_test(test_ledgers_of_past_versions_are_brought_up_to_date),
        cmocka_unit_test(test_another_database_is_no_ledger),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
