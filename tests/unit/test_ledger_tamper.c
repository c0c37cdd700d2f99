/* Whoever can write the file can change it; the verifier must say so. Each test takes one sound
 * ledger, changes one thing through a plain SQLite connection (triggers taken off and put back, so
 * that only the change itself can give it away), and expects a finding that names it.
 *
 * What no check can see without a copy kept elsewhere: a chain that was cut at the end together
 * with everything it sealed, or a whole older ledger put back. The last test pins that down. */
#include "ledger_fixture.h"

#include <sqlite3.h>

#include "ledger/sha.h"
#include "ledger/store.h"

static struct fixture world;
static char pristine[96];

static void shell(const char *fmt, const char *a, const char *b)
{
    char line[512];
    (void)snprintf(line, sizeof line, fmt, a, b);
    if (system(line) != 0) fail_msg("failed: %s", line);
}

static void add_artefacts(void)
{
    struct err err;
    char id[ID_TEXT];
    bool known;
    struct artefact a = {.kind = "set", .name = "a set", .summary = "{}", .content = "{}\n", .len = 3};
    must(ledger_add_artefact(world.l, &a, "tester", true, id, &known, &err));
    a = (struct artefact){.kind = "region", .model = world.row.id, .name = "", .summary = "{}", .content = "[1]", .len = 3};
    must(ledger_add_artefact(world.l, &a, "tester", true, id, &known, &err));
}

/* A ledger with every kind of row: edits, a rollback, a snapshot, looks, a prune, bodies that are
 * files. */
static int make_world(void **state)
{
    struct err err;
    struct run_row run;
    char id[ID_TEXT], base[ID_TEXT], hash[DIGEST_TEXT];
    size_t embed;
    (void)state;
    fx_open(&world);
    memcpy(base, world.head.id, sizeof base);
    for (uint64_t i = 1; i <= 17; i++) fx_edit(&world, i % 2 * 4);
    assert_true(model_role(world.m, ROLE_EMBED, 0, &embed));
    fx_edit_with(&world, embed, 70, 1);
    fx_edit_with(&world, embed, 90, 2);
    fx_rollback(&world, base);
    fx_edit(&world, 2);
    add_artefacts();
    fx_look(&world, "{\"look\":1}", 3, id);
    fx_look(&world, "{\"look\":2}", 4, id);
    must(ledger_run(world.r, id, &run, &err));
    memcpy(hash, run.result_hash, sizeof hash);
    run_row_release(&run);
    must(ledger_prune_body(world.l, hash, "admin", "a reason", &err));
    fx_sound(&world);
    fx_shut(&world);
    (void)snprintf(pristine, sizeof pristine, "%s.pristine", world.dir);
    shell("cp -a %s %s", world.dir, pristine);
    return 0;
}

static int end_world(void **state)
{
    (void)state;
    shell("rm -r %s%s", pristine, "");
    fx_close(&world);
    return 0;
}

static void restore_pristine(void)
{
    char line[256];
    (void)snprintf(line, sizeof line, "rm -r %s && cp -a %s %s", world.dir, pristine, world.dir);
    if (system(line) != 0) fail_msg("failed: %s", line);
}

/* ---- a plain connection ---------------------------------------------------------------------- */

static sqlite3 *plain(void)
{
    char path[128];
    sqlite3 *db;
    (void)snprintf(path, sizeof path, "%s/ledger.db", world.dir);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA synchronous=OFF", NULL, NULL, NULL), SQLITE_OK);
    return db;
}

static void run_sql(sqlite3 *db, const char *sql)
{
    char *why = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK) fail_msg("%s: %s", sql, why);
}

static int take_trigger(void *ctx, int n, char **value, char **name)
{
    struct buf *both = ctx; /* [0] what drops them, [1] what makes them */
    (void)n, (void)name;
    buf_printf(&both[0], "DROP TRIGGER %s;", value[0]);
    buf_printf(&both[1], "%s;", value[1]);
    return 0;
}

/* Triggers off; what puts them back is in `both`. */
static sqlite3 *disarm(struct buf both[2])
{
    sqlite3 *db = plain();
    run_sql(db, "PRAGMA foreign_keys=OFF; PRAGMA ignore_check_constraints=ON;");
    assert_int_equal(sqlite3_exec(db, "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'",
                                  take_trigger, both, NULL),
                     SQLITE_OK);
    run_sql(db, both[0].data);
    return db;
}
static void rearm(sqlite3 *db, struct buf both[2])
{
    run_sql(db, both[1].data);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    buf_release(&both[0]);
    buf_release(&both[1]);
}

/* Change rows as a forger would: triggers off, no checks, triggers back as they were. */
static void forge(const char *sql)
{
    struct buf both[2] = {{0}, {0}};
    sqlite3 *db = disarm(both);
    run_sql(db, sql);
    if (sqlite3_changes(db) == 0) fail_msg("changes nothing: %s", sql);
    rearm(db, both);
}

static void expect_finding(const char *what, const char *in_problem)
{
    struct verify_report report = fx_verify(&world, false);
    if (report.ok) fail_msg("not found: %s", what);
    if (!strstr(report.problem, in_problem))
        fail_msg("%s: \"%s\" lacks \"%s\"", what, report.problem, in_problem);
}

/* ---- every field ----------------------------------------------------------------------------- */

static const char *const history[] = {"chain",           "genesis", "model", "delta", "revision",
                                      "revision_tensor", "run",     "prune", "body",  "migration",
                                      "artefact"};
enum { TABLES = sizeof history / sizeof *history };

struct columns {
    int n;
    char name[24][32];
};
static int take_column(void *ctx, int n, char **value, char **name)
{
    struct columns *c = ctx;
    (void)n, (void)name;
    (void)snprintf(c->name[c->n++], sizeof *c->name, "%s", value[1]);
    return 0;
}

static struct columns columns_of(const char *table)
{
    struct columns c = {0};
    char sql[64];
    sqlite3 *db = plain();
    (void)snprintf(sql, sizeof sql, "PRAGMA table_info(%s)", table);
    assert_int_equal(sqlite3_exec(db, sql, take_column, &c, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    assert_true(c.n > 2);
    return c;
}

/* The smallest change a value of its type can suffer. One row, in the middle where there is one. */
static void flip(const char *table, const char *column)
{
    char sql[1024];
    (void)snprintf(
        sql, sizeof sql,
        "UPDATE %1$s SET %2$s = CASE typeof(%2$s) WHEN 'integer' THEN CASE WHEN %2$s IN (0, 1) "
        "THEN 1 - %2$s ELSE -%2$s END "
        "WHEN 'text' THEN %2$s || ' ' WHEN 'blob' THEN CAST(substr(%2$s, 1, length(%2$s) - 1) || "
        "CASE WHEN substr(%2$s, -1) = x'41' THEN x'42' ELSE x'41' END AS BLOB) ELSE "
        "CASE (SELECT type FROM pragma_table_info('%1$s') WHERE name = '%2$s') WHEN 'INTEGER' THEN "
        "1 "
        "WHEN 'TEXT' THEN 'x' ELSE x'41' END END "
        "WHERE (%3$s) = (SELECT %3$s FROM %1$s ORDER BY %3$s LIMIT 1 OFFSET (SELECT count(*) / 2 "
        "FROM %1$s))",
        table, column, strcmp(table, "revision_tensor") == 0 ? "revision || tensor" : "rowid");
    forge(sql);
}

static void test_every_field_of_history_is_covered(void **state)
{
    (void)state;
    for (size_t t = 0; t < TABLES; t++) {
        struct columns c = columns_of(history[t]);
        for (int i = 0; i < c.n; i++) {
            /* When a migration was applied, and under what name, is a note; its hash is what
             * counts. */
            if (strcmp(history[t], "migration") == 0 &&
                (strcmp(c.name[i], "applied_us") == 0 || strcmp(c.name[i], "name") == 0))
                continue;
            char what[80];
            (void)snprintf(what, sizeof what, "%s.%s changed", history[t], c.name[i]);
            flip(history[t], c.name[i]);
            expect_finding(what, "");
            restore_pristine();
        }
    }
}

static void test_every_row_that_goes_is_missed(void **state)
{
    static const char *const which[] = {"min", "max"};
    (void)state;
    for (size_t t = 0; t < TABLES; t++)
        for (size_t i = 0; i < 2; i++) {
            char sql[256], what[80];
            const char *key =
                strcmp(history[t], "revision_tensor") == 0 ? "revision || tensor" : "rowid";
            (void)snprintf(sql, sizeof sql, "DELETE FROM %s WHERE (%s) = (SELECT %s(%s) FROM %s)",
                           history[t], key, which[i], key, history[t]);
            (void)snprintf(what, sizeof what, "%s row of %s deleted", which[i], history[t]);
            forge(sql);
            expect_finding(what, "");
            restore_pristine();
        }
}

/* ---- what a finding says --------------------------------------------------------------------- */

static void test_findings_name_the_place(void **state)
{
    static const struct {
        const char *sql, *want;
    } forgeries[] = {
        {"UPDATE chain SET author = 'mallory' WHERE seq = 7",
         "chain entry 7: its hash is not that of its fields"},
        {"UPDATE chain SET hash = randomblob(32) WHERE seq = 9",
         "chain entry 9: its hash is not that of its fields"},
        {"UPDATE chain SET prev = randomblob(32) WHERE seq = 9",
         "chain entry 9: it does not follow from the entry before it"},
        {"UPDATE chain SET format = 2 WHERE seq = 9", "chain entry 9: format 2 is unknown"},
        {"DELETE FROM chain WHERE seq = 8", "chain entry 8: it is missing"},
        {"UPDATE chain SET seq = -1 WHERE seq = 7; UPDATE chain SET seq = 7 WHERE seq = 8; UPDATE "
         "chain SET seq = 8 WHERE seq = -1",
         "chain entry 7"},
        {"UPDATE revision SET message = 'harmless' WHERE seq = 3", "revision rev_"},
        {"UPDATE revision SET digest = (SELECT digest FROM revision WHERE seq = 4) WHERE seq = 3",
         "is not what was sealed"},
        {"UPDATE run SET seed = 8 WHERE entry = (SELECT max(entry) FROM run)",
         "is not what was sealed"},
        {"DELETE FROM revision_tensor WHERE revision = 5", "is not what was sealed"},
        {"INSERT INTO revision_tensor SELECT 5, 'zz', hash FROM revision_tensor WHERE revision = 6 "
         "LIMIT 1",
         "is not what was sealed"},
        {"DELETE FROM chain WHERE seq = (SELECT max(seq) FROM chain)", "prune"},
        {"INSERT INTO prune SELECT entry + 100, id, model, hash, reason FROM prune",
         "refers to a row of chain"},
        {"INSERT INTO genesis VALUES (2, 'ledger_x', zeroblob(32))",
         "a row of genesis claims chain entry 2"},
        {"DELETE FROM body WHERE hash = (SELECT content FROM delta ORDER BY entry LIMIT 1)",
         "the content of delta_"},
        {"DELETE FROM prune", "the prune it seals is missing"},
        {"UPDATE artefact SET name = 'another' WHERE kind = 'set'", "artefact set_"},
        {"DELETE FROM artefact WHERE kind = 'set'", "the artefact it seals is missing"},
        {"INSERT INTO artefact SELECT 1, 'set_x', kind, model, name, summary, size, content, run FROM artefact LIMIT 1",
         "a row of artefact claims chain entry 1"},
        {"UPDATE body SET bytes = x'7b7d0b' WHERE hash = (SELECT content FROM artefact WHERE kind = 'set')",
         "the content of set_"},
        {"DELETE FROM body WHERE hash = (SELECT content FROM artefact WHERE kind = 'set')", "the content of set_"},
        {"PRAGMA user_version=3; UPDATE migration SET name = name", "newer engramd"},
        {"PRAGMA application_id=7; UPDATE migration SET name = name", "not an engramd ledger"},
        {"CREATE TABLE extra (x); INSERT INTO extra VALUES (1)",
         "schema: table extra does not belong there"},
        {"UPDATE job SET state = 'done'; UPDATE body SET bytes = zeroblob(size) WHERE hash = "
         "(SELECT request FROM run ORDER BY entry LIMIT 1)",
         "the request of edit_"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof forgeries / sizeof *forgeries; i++) {
        forge(forgeries[i].sql);
        expect_finding(forgeries[i].sql, forgeries[i].want);
        restore_pristine();
    }
}

static int take_name(void *ctx, int n, char **value, char **name)
{
    (void)n, (void)name;
    buf_printf(ctx, "%s ", value[0]);
    return 0;
}

static void test_every_trigger_is_missed(void **state)
{
    struct buf names = {0};
    sqlite3 *db = plain();
    int n = 0;
    (void)state;
    assert_int_equal(sqlite3_exec(db, "SELECT name FROM sqlite_schema WHERE type = 'trigger'",
                                  take_name, &names, NULL),
                     SQLITE_OK);
    (void)sqlite3_close(db);
    char *rest = names.data, *name;
    while ((name = strsep(&rest, " ")) && *name) {
        char sql[128], want[128];
        (void)snprintf(sql, sizeof sql, "DROP TRIGGER %s", name);
        (void)snprintf(want, sizeof want, "schema: trigger %s is missing", name);
        db = plain();
        run_sql(db, sql);
        (void)sqlite3_close(db);
        expect_finding(sql, want);
        restore_pristine();
        n++;
    }
    assert_int_equal(n, 33);
    buf_release(&names);
}

/* ---- files ----------------------------------------------------------------------------------- */

static void test_every_object_is_checked(void **state)
{
    static const struct {
        const char *command, *want;
    } crimes[] = {
        {"printf X | dd of=$(find %s/objects -type f | sort | head -1) bs=1 seek=%s conv=notrunc "
         "2>/dev/null",
         "do not have the hash"},
        {"truncate -s %2$s $(find %1$s/objects -type f | sort | head -1)",
         "has 1000 bytes instead of"},
        {"rm $(find %s/objects -type f | sort | tail -1) # %s", "cannot open it"},
        {"set -- $(find %s/objects -type f | sort); mv $1 $1.x; mv $2 $1; mv $1.x $2 # %s",
         "object"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof crimes / sizeof *crimes; i++) {
        shell(crimes[i].command, world.dir, "1000");
        expect_finding(crimes[i].command, crimes[i].want);
        expect_finding(crimes[i].command, "chain entry");
        restore_pristine();
    }
}

static void test_a_damaged_delta_is_refused_when_restoring(void **state)
{
    struct err err;
    char digest[DIGEST_TEXT];
    (void)state;
    forge("UPDATE body SET bytes = CAST(substr(bytes, 1, size - 1) || x'7f' AS BLOB) WHERE hash = "
          "(SELECT d.content FROM delta d "
          "JOIN revision r ON r.delta = d.entry WHERE r.seq = 3)");
    fx_reopen(&world);
    struct revision rev;
    struct revision at[20];
    int n = 0;
    for (int64_t seq = 1; seq <= 19; seq++) {
        sqlite3 *db = plain();
        sqlite3_stmt *s;
        assert_int_equal(
            sqlite3_prepare_v2(db, "SELECT id FROM revision WHERE seq = ?", -1, &s, NULL),
            SQLITE_OK);
        sqlite3_bind_int64(s, 1, seq);
        assert_int_equal(sqlite3_step(s), SQLITE_ROW);
        must(ledger_revision(world.r, (const char *)sqlite3_column_text(s, 0), &rev, &err));
        at[n++] = rev;
        sqlite3_finalize(s);
        sqlite3_close(db);
    }
    for (int i = 0; i < n; i++) {
        bool broken = at[i].seq >= 3 && at[i].seq < 17; /* 17 is a snapshot: it starts afresh */
        struct view *v = ledger_restore(world.r, world.m, &world.d, at[i].id, &err);
        if (broken) {
            assert_null(v);
            assert_int_equal(err.code, ERR_CORRUPT);
            assert_non_null(strstr(err.text, "revision 3"));
        } else {
            must(v != NULL);
            digest_view(v, &world.d, digest);
            assert_string_equal(digest, at[i].digest);
            view_drop(v);
        }
        revision_release(&at[i]);
    }
    fx_shut(&world);
    expect_finding("delta of revision 3", "the content of delta_");
    restore_pristine();
}

/* An entry's hash as docs/ledger.md writes it down, by hand. */
static void number(struct sha *s, int64_t x)
{
    sha_u64(s, 8);
    sha_u64(s, (uint64_t)x);
}
static void field(struct sha *s, sqlite3_stmt *row, int i)
{
    sha_field(s, sqlite3_column_blob(row, i), (size_t)sqlite3_column_bytes(row, i));
}
static void documented_hash(sqlite3_stmt *row, const uint8_t *record, const uint8_t *prev,
                            uint8_t out[32])
{
    struct sha *s = sha_new();
    sha_field(s, "engramd.chain.1", 15);
    number(s, sqlite3_column_int64(row, 1));
    number(s, sqlite3_column_int64(row, 0));
    number(s, sqlite3_column_int64(row, 2));
    field(s, row, 3);
    number(s, sqlite3_column_int64(row, 4));
    for (int i = 5; i < 8; i++) field(s, row, i);
    sha_field(s, record, 32);
    sha_field(s, prev, 32);
    sha_end(s, out);
}

/* Seal every entry anew, as a forger with the manual in hand would; or only check that nothing
 * changes. */
static void reseal(bool write)
{
    struct err err;
    struct buf both[2] = {{0}, {0}};
    uint8_t prev[32] = {0}, record[32], hash[32];
    int64_t rows, n = 0;
    struct ledger_reader *r = ledger_reader_open(world.dir, &err);
    sqlite3_stmt *q, *u;
    must(r != NULL);
    sqlite3 *db = disarm(both);
    assert_int_equal(
        sqlite3_prepare_v2(
            db,
            "SELECT seq, format, time_us, author, verified, kind, subject, model, hash "
            "FROM chain ORDER BY seq",
            -1, &q, NULL),
        SQLITE_OK);
    assert_int_equal(
        sqlite3_prepare_v2(db, "UPDATE chain SET record = ?, prev = ?, hash = ? WHERE seq = ?", -1,
                           &u, NULL),
        SQLITE_OK);
    for (; sqlite3_step(q) == SQLITE_ROW; n++) {
        must(chain_record(&r->s, (const char *)sqlite3_column_text(q, 5),
                          sqlite3_column_int64(q, 0), record, &rows, &err));
        documented_hash(q, record, prev, hash);
        if (!write) assert_memory_equal(hash, sqlite3_column_blob(q, 8), 32);
        sqlite3_bind_blob(u, 1, record, 32, SQLITE_TRANSIENT);
        sqlite3_bind_blob(u, 2, prev, 32, SQLITE_TRANSIENT);
        sqlite3_bind_blob(u, 3, hash, 32, SQLITE_TRANSIENT);
        sqlite3_bind_int64(u, 4, sqlite3_column_int64(q, 0));
        if (write) assert_int_equal(sqlite3_step(u), SQLITE_DONE);
        sqlite3_reset(u);
        memcpy(prev, hash, 32);
    }
    assert_true(n > 60);
    sqlite3_finalize(q);
    sqlite3_finalize(u);
    ledger_reader_close(r);
    rearm(db, both);
}

static void test_entries_are_hashed_as_documented(void **state)
{
    (void)state;
    reseal(false);
    restore_pristine();
}

/* A forger who recomputes every hash still cannot make other deltas give the recorded weights. */
static void test_replay_finds_what_hashes_cannot(void **state)
{
    (void)state;
    forge("UPDATE delta SET content = (SELECT content FROM delta WHERE entry > 10 LIMIT 1) WHERE "
          "entry = "
          "(SELECT delta FROM revision WHERE seq = 2)");
    expect_finding("without resealing", "is not what was sealed");
    reseal(true);
    struct verify_report blind = fx_verify(&world, false);
    assert_string_equal(blind.problem, "");
    struct verify_report report = fx_verify(&world, true);
    assert_false(report.ok);
    assert_non_null(strstr(report.problem, "revision 2 (rev_"));
    assert_non_null(strstr(report.problem, "replayed from the base"));
    restore_pristine();
}

static void test_a_strange_model_is_a_finding(void **state)
{
    struct base_digests other = world.d;
    (void)state;
    (void)snprintf(other.base, sizeof other.base, "sha256:%064d", 7);
    /* Also behind one that is known: each is asked about. */
    const struct verify_base bases[] = {{world.m, &world.d}, {world.m, &other}};
    struct verify_report report = fx_verify_with(&world, bases, 2);
    assert_false(report.ok);
    assert_non_null(strstr(report.problem, "does not know this model"));
}

/* ---- statements that the triggers refuse ----------------------------------------------------- */

static void test_plain_statements_are_refused(void **state)
{
    static const struct {
        const char *sql, *why;
    } attempts[] = {
        {"UPDATE chain SET author = 'x'", "append-only"},
        {"DELETE FROM chain", "append-only"},
        {"INSERT OR REPLACE INTO chain SELECT * FROM chain WHERE seq = 2", "next entry"},
        {"REPLACE INTO chain SELECT seq, format, time_us, 'x', verified, kind, subject, model, "
         "record, prev, hash FROM chain WHERE seq = (SELECT max(seq) FROM chain)",
         "next entry"},
        {"INSERT INTO chain SELECT seq + 1000, format, time_us, author, verified, kind, subject, "
         "model, record, prev, hash FROM chain WHERE seq = 2",
         "next entry"},
        {"INSERT INTO chain SELECT 1 + (SELECT max(seq) FROM chain), format, time_us, author, "
         "verified, kind, subject, model, record, prev, hash FROM chain WHERE seq = 2",
         "next entry"},
        {"UPDATE OR REPLACE revision SET digest = 'x'", "append-only"},
        {"DELETE FROM revision", "append-only"},
        {"INSERT OR REPLACE INTO revision SELECT * FROM revision WHERE seq = 2", "next one"},
        {"INSERT OR REPLACE INTO revision_tensor SELECT * FROM revision_tensor LIMIT 1",
         "not sealed"},
        {"INSERT INTO revision_tensor SELECT revision, 'zz', hash FROM revision_tensor LIMIT 1",
         "not sealed"},
        {"UPDATE revision_tensor SET hash = zeroblob(32)", "append-only"},
        {"DELETE FROM revision_tensor", "append-only"},
        {"INSERT OR REPLACE INTO run SELECT * FROM run LIMIT 1", "next entry"},
        {"UPDATE run SET seed = 1", "append-only"},
        {"DELETE FROM run", "append-only"},
        {"INSERT OR REPLACE INTO model SELECT * FROM model", "next entry"},
        {"UPDATE model SET name = 'x'", "append-only"},
        {"DELETE FROM model", "append-only"},
        {"INSERT OR REPLACE INTO delta SELECT * FROM delta LIMIT 1", "next entry"},
        {"UPDATE delta SET method = 'x'", "append-only"},
        {"DELETE FROM delta", "append-only"},
        {"INSERT OR REPLACE INTO genesis SELECT * FROM genesis", "first entry"},
        {"UPDATE genesis SET id = 'x'", "append-only"},
        {"DELETE FROM genesis", "append-only"},
        {"INSERT OR REPLACE INTO prune SELECT * FROM prune", "next entry"},
        {"UPDATE prune SET reason = 'x'", "append-only"},
        {"DELETE FROM prune", "append-only"},
        {"UPDATE body SET size = 1", "never rewritten"},
        {"DELETE FROM body", "only when pruned"},
        {"INSERT OR REPLACE INTO body SELECT * FROM body LIMIT 1", "never rewritten"},
        {"INSERT OR REPLACE INTO migration SELECT * FROM migration", "next number"},
        {"UPDATE migration SET sha256 = zeroblob(32)", "append-only"},
        {"DELETE FROM migration", "append-only"},
        {"INSERT OR REPLACE INTO artefact SELECT * FROM artefact", "next entry"},
        {"UPDATE artefact SET name = 'x'", "append-only"},
        {"DELETE FROM artefact", "append-only"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof attempts / sizeof *attempts; i++) {
        char *why = NULL;
        sqlite3 *db = plain(); /* as it comes: recursive triggers off, foreign keys off */
        int rc = sqlite3_exec(db, attempts[i].sql, NULL, NULL, &why);
        if (rc == SQLITE_OK) fail_msg("not refused: %s", attempts[i].sql);
        if (!strstr(why, attempts[i].why)) fail_msg("%s: %s", attempts[i].sql, why);
        sqlite3_free(why);
        (void)sqlite3_close(db);
    }
    fx_sound(&world);
}

/* ---- what stays invisible -------------------------------------------------------------------- */

static void test_a_tail_cut_off_whole_shows_only_in_the_head(void **state)
{
    struct verify_report before = fx_verify(&world, true), after;
    (void)state;
    forge("DELETE FROM prune; DELETE FROM chain WHERE seq = (SELECT max(seq) FROM chain);"
          "DELETE FROM run WHERE entry = (SELECT max(seq) FROM chain);"
          "DELETE FROM chain WHERE seq = (SELECT max(seq) FROM chain)");
    after = fx_verify(&world, true);
    assert_string_equal(after.problem, "");
    assert_string_not_equal(before.head, after.head); /* whoever kept the head knows */
    assert_int_equal(after.rows, before.rows - 2);
    restore_pristine();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_field_of_history_is_covered),
        cmocka_unit_test(test_every_row_that_goes_is_missed),
        cmocka_unit_test(test_findings_name_the_place),
        cmocka_unit_test(test_every_trigger_is_missed),
        cmocka_unit_test(test_every_object_is_checked),
        cmocka_unit_test(test_a_damaged_delta_is_refused_when_restoring),
        cmocka_unit_test(test_entries_are_hashed_as_documented),
        cmocka_unit_test(test_replay_finds_what_hashes_cannot),
        cmocka_unit_test(test_a_strange_model_is_a_finding),
        cmocka_unit_test(test_plain_statements_are_refused),
        cmocka_unit_test(test_a_tail_cut_off_whole_shows_only_in_the_head),
    };
    return cmocka_run_group_tests(tests, make_world, end_world);
}
