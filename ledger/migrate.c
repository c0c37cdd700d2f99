#include "migrate.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "digest.h"
#include "store.h"

static void hash_of(const struct migration *m, uint8_t out[SHA256_BYTES])
{
    sha256(m->text, (size_t)(m->end - m->text), out);
}

static bool identity(struct db *db, int64_t *application, int64_t *version, struct err *e)
{
    return db_int(db, e, application, "PRAGMA application_id", NULL, 0) &&
           db_int(db, e, version, "PRAGMA user_version", NULL, 0);
}

/* ---- checking -------------------------------------------------------------------------------- */

static bool check_applied(struct db *db, const struct migration *m, int64_t number, struct err *e)
{
    struct stmt *row;
    uint8_t is[SHA256_BYTES], was[SHA256_BYTES];
    hash_of(m, is);
    if (!DB_ONE(db, e, &row, "SELECT sha256 FROM migration WHERE number = ?", a_int(number)))
        return false;
    bool same = row && col_hash(row, 0, was) && memcmp(is, was, SHA256_BYTES) == 0;
    stmt_done(row);
    return same || err_set(e, ERR_CORRUPT,
                           "migration %" PRId64 " (%s) is not the one this ledger was "
                           "made with",
                           number, m->name);
}

static bool check_history(struct db *db, const struct migration *list, size_t n, int64_t version,
                          struct err *e)
{
    int64_t recorded = 0;
    if (version > (int64_t)n)
        return err_set(e, ERR_UNSUPPORTED,
                       "the ledger was written by a newer engramd: it is at migration "
                       "%" PRId64 ", this binary knows %zu",
                       version, n);
    if (version && !db_int(db, e, &recorded, "SELECT count(*) FROM migration", NULL, 0))
        return false;
    if (recorded != version)
        return err_set(e, ERR_CORRUPT,
                       "the ledger records %" PRId64 " migrations but is at version %" PRId64,
                       recorded, version);
    for (int64_t i = 0; i < version; i++)
        if (!check_applied(db, &list[i], i + 1, e)) return false;
    return true;
}

static bool is_ledger(int64_t application, struct err *e)
{
    return application == LEDGER_APPLICATION_ID ||
           err_set(e, ERR_CORRUPT,
                   "the database is not an engramd ledger (application id %" PRId64 ")",
                   application);
}

bool migrate_check(struct db *db, const struct migration *list, size_t n, struct err *e)
{
    int64_t application, version;
    if (!identity(db, &application, &version, e) || !is_ledger(application, e) ||
        !check_history(db, list, n, version, e))
        return false;
    return version == (int64_t)n ||
           err_set(e, ERR_UNSUPPORTED,
                   "the ledger is at migration %" PRId64 ", this binary needs %zu: "
                   "start the daemon once to bring it up to date",
                   version, n);
}

/* ---- applying -------------------------------------------------------------------------------- */

/* VACUUM INTO fills an empty file it finds; made here so that it is private from the start. */
static bool copy_before(struct db *db, const char *path, int64_t next, struct err *e)
{
    char copy[4096];
    if (snprintf(copy, sizeof copy, "%s.before-%04" PRId64, path, next) >= (int)sizeof copy)
        return err_set(e, ERR_TOO_LARGE, "the ledger's path is too long");
    (void)unlink(copy);
    int fd = open(copy, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return err_set(e, ERR_IO, "cannot create %s: %s", copy, strerror(errno));
    (void)close(fd);
    return DB_RUN(db, e, "VACUUM INTO ?", a_text(copy));
}

static bool apply_in_transaction(struct db *db, const struct migration *m, int64_t number,
                                 struct err *e)
{
    char pragmas[128];
    uint8_t hash[SHA256_BYTES];
    hash_of(m, hash);
    (void)snprintf(pragmas, sizeof pragmas,
                   "PRAGMA application_id=%d; PRAGMA user_version=%" PRId64 ";",
                   (int)LEDGER_APPLICATION_ID, number);
    return db_script(db, m->text, e) && db_script(db, pragmas, e) &&
           DB_RUN(db, e,
                  "INSERT INTO migration (number, name, sha256, applied_us) VALUES (?, ?, ?, ?)",
                  a_int(number), a_text(m->name), a_hash(hash), a_int(now_us()));
}

static bool apply(struct db *db, const struct migration *m, int64_t number, struct err *e)
{
    bool ok = db_begin(db, e) && apply_in_transaction(db, m, number, e) && db_commit(db, e);
    if (!ok) db_rollback(db);
    return ok || err_while(e, "applying migration %s", m->name);
}

bool migrate(struct db *db, const struct migration *list, size_t n, const char *path, struct err *e)
{
    int64_t application, version, tables;
    if (!identity(db, &application, &version, e) ||
        !db_int(db, e, &tables, "SELECT count(*) FROM sqlite_schema", NULL, 0))
        return false;
    if (application || version || tables) {
        if (!is_ledger(application, e) || !check_history(db, list, n, version, e)) return false;
        if (version < (int64_t)n && path && !copy_before(db, path, version + 1, e)) return false;
    }
    for (; version < (int64_t)n; version++)
        if (!apply(db, &list[version], version + 1, e)) return false;
    return true;
}

/* ---- comparing ------------------------------------------------------------------------------- */

static const char schema_sql[] = "SELECT type || ' ' || name, coalesce(sql, '') FROM sqlite_schema "
                                 "ORDER BY type, name";

static bool compare(struct stmt *is, struct stmt *should, char problem[512], struct err *e)
{
    bool a = true, b = true;
    while (a && b) {
        if (!stmt_next(is, &a, e) || !stmt_next(should, &b, e)) return false;
        int c = a && b ? strcmp(col_text(is, 0), col_text(should, 0)) : a ? -1 : b ? 1 : 0;
        if (c < 0)
            (void)snprintf(problem, 512, "schema: %s does not belong there", col_text(is, 0));
        if (c > 0) (void)snprintf(problem, 512, "schema: %s is missing", col_text(should, 0));
        if (c == 0 && a && strcmp(col_text(is, 1), col_text(should, 1)) != 0)
            (void)snprintf(problem, 512, "schema: %s was changed", col_text(is, 0));
        if (*problem) return true;
    }
    return true;
}

bool migrate_schema(struct db *db, const struct migration *list, size_t n, char problem[512],
                    struct err *e)
{
    problem[0] = '\0';
    struct db *fresh = db_open(":memory:", DB_MEMORY, e);
    struct stmt *is = NULL, *should = NULL;
    bool ok = fresh && migrate(fresh, list, n, NULL, e) &&
              (is = db_query(db, e, schema_sql, NULL, 0)) != NULL &&
              (should = db_query(fresh, e, schema_sql, NULL, 0)) != NULL &&
              compare(is, should, problem, e);
    stmt_done(is);
    stmt_done(should);
    db_close(fresh);
    return ok;
}
