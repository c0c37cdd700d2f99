#include "db.h"

#include <assert.h>
#include <errno.h>
#include <sqlite3.h>
#include <string.h>

enum { CACHE = 128, BUSY_MS = 5000 }; /* CACHE: well above the number of literals in ledger/ */

struct stmt {
    struct db *db;
    sqlite3_stmt *raw;
    const char *sql; /* the key; NULL: a temporary copy */
    bool busy;
};

struct db {
    sqlite3 *raw;
    enum db_mode mode;
    bool broken;
    const char *const *append_only;
    struct stmt cache[CACHE];
};

/* ---- errors ---------------------------------------------------------------------------------- */

/* The last errno of the database file and of its log. sqlite3_system_errno is asked too late: by
 * then the rollback has had errors and successes of its own. */
static int last_errno(struct db *db, int which)
{
    sqlite3_file *f = NULL;
    int os = 0;
    if (sqlite3_file_control(db->raw, "main", which, &f) == SQLITE_OK && f && f->pMethods)
        (void)f->pMethods->xFileControl(f, SQLITE_FCNTL_LAST_ERRNO, &os);
    return os;
}

static bool out_of_space(struct db *db, int rc)
{
    static const int files[] = {SQLITE_FCNTL_FILE_POINTER, SQLITE_FCNTL_JOURNAL_POINTER};
    if ((rc & 0xff) == SQLITE_FULL) return true;
    if (rc != SQLITE_IOERR_WRITE) return false;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        int os = last_errno(db, files[i]);
        if (os == ENOSPC || os == EDQUOT || os == EFBIG) return true;
    }
    return false;
}

static enum err_code classify(struct db *db, int rc)
{
    static const struct {
        int rc;
        enum err_code code;
    } map[] = {
        {SQLITE_IOERR, ERR_IO},        {SQLITE_CANTOPEN, ERR_IO},      {SQLITE_PERM, ERR_IO},
        {SQLITE_READONLY, ERR_IO},     {SQLITE_CORRUPT, ERR_CORRUPT},  {SQLITE_NOTADB, ERR_CORRUPT},
        {SQLITE_NOMEM, ERR_NO_MEMORY}, {SQLITE_TOOBIG, ERR_TOO_LARGE},
    };
    if (out_of_space(db, rc)) return ERR_NO_SPACE;
    for (size_t i = 0; i < sizeof map / sizeof *map; i++)
        if ((rc & 0xff) == map[i].rc) return map[i].code;
    return ERR_INTERNAL;
}

static bool fail(struct db *db, int rc, struct err *e)
{
    enum err_code code = classify(db, rc);
    const char *why = sqlite3_errmsg(db->raw);
    if (code == ERR_NO_SPACE) return err_set(e, code, "no space left for the ledger (%s)", why);
    return err_set(e, code, "ledger database: %s", why);
}

/* ---- opening --------------------------------------------------------------------------------- */

static const char settings_all[] =
    "PRAGMA foreign_keys=ON;"
    "PRAGMA recursive_triggers=ON;" /* else INSERT OR REPLACE deletes past the triggers */
    "PRAGMA trusted_schema=OFF;"
    "PRAGMA cell_size_check=ON;"
    "PRAGMA temp_store=MEMORY;"
    "PRAGMA mmap_size=0;";
static const char settings_writer[] = "PRAGMA journal_mode=WAL;"
                                      "PRAGMA synchronous=FULL;"
                                      "PRAGMA wal_autocheckpoint=0;";

static bool harden(struct db *db, struct err *e)
{
    static const struct {
        int option, value;
    } want[] = {
        {SQLITE_DBCONFIG_DEFENSIVE, 1},
        {SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0},
        {SQLITE_DBCONFIG_DQS_DML, 0},
        {SQLITE_DBCONFIG_DQS_DDL, 0},
        {SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0},
        {SQLITE_DBCONFIG_ENABLE_TRIGGER, 1},
        {SQLITE_DBCONFIG_ENABLE_FKEY, 1},
        {SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1},
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        int is = -1;
        int rc = sqlite3_db_config(db->raw, want[i].option, want[i].value, &is);
        if (rc != SQLITE_OK || is != want[i].value)
            return err_set(e, ERR_INTERNAL, "this SQLite refuses setting %d", want[i].option);
    }
    (void)sqlite3_busy_timeout(db->raw, BUSY_MS);
    return true;
}

static bool set_up(struct db *db, struct err *e)
{
    if (!harden(db, e) || !db_script(db, settings_all, e)) return false;
    if (db->mode == DB_READER) return db_script(db, "PRAGMA query_only=ON;", e);
    if (db->mode == DB_MEMORY) return true;
    if (!db_script(db, settings_writer, e)) return false;
    struct stmt *s = db_query(db, e, "PRAGMA journal_mode", NULL, 0);
    bool row = false, ok = s && stmt_next(s, &row, e);
    if (ok && (!row || strcmp(col_text(s, 0), "wal") != 0))
        ok = err_set(e, ERR_UNSUPPORTED, "the file system of the ledger has no write-ahead log");
    stmt_done(s);
    return ok;
}

struct db *db_open(const char *path, enum db_mode mode, struct err *e)
{
    static const int flags[] = {
        [DB_WRITER] = SQLITE_OPEN_READWRITE,
        [DB_READER] = SQLITE_OPEN_READONLY,
        [DB_MEMORY] = SQLITE_OPEN_READWRITE | SQLITE_OPEN_MEMORY,
    };
    struct db *db = mem_new(sizeof *db);
    db->mode = mode;
    int rc = sqlite3_open_v2(path, &db->raw,
                             flags[mode] | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
    if (rc == SQLITE_OK && set_up(db, e)) return db;
    if (rc != SQLITE_OK)
        (void)err_set(e, rc == SQLITE_NOMEM ? ERR_NO_MEMORY : ERR_IO, "cannot open %s: %s", path,
                      db->raw ? sqlite3_errmsg(db->raw) : sqlite3_errstr(rc));
    db_close(db);
    return NULL;
}

void db_close(struct db *db)
{
    if (!db) return;
    for (size_t i = 0; i < CACHE; i++) {
        assert(!db->cache[i].busy && "a statement outlives its connection");
        (void)sqlite3_finalize(db->cache[i].raw);
    }
    (void)sqlite3_close(db->raw);
    mem_drop(db);
}

/* ---- the guard ------------------------------------------------------------------------------- */

static int authorize(void *ctx, int action, const char *table, const char *b, const char *c,
                     const char *d)
{
    const struct db *db = ctx;
    (void)b, (void)c, (void)d;
    switch (action) {
    case SQLITE_SELECT:
    case SQLITE_READ:
    case SQLITE_FUNCTION:
    case SQLITE_INSERT:
    case SQLITE_TRANSACTION:
    case SQLITE_RECURSIVE:
        return SQLITE_OK;
    case SQLITE_UPDATE:
    case SQLITE_DELETE:
        for (size_t i = 0; db->append_only[i]; i++)
            if (strcmp(table, db->append_only[i]) == 0) return SQLITE_DENY;
        return SQLITE_OK;
    default: /* schema, ATTACH, PRAGMA, savepoints, virtual tables */
        return SQLITE_DENY;
    }
}

void db_guard(struct db *db, const char *const *append_only)
{
    db->append_only = append_only;
    (void)sqlite3_set_authorizer(db->raw, authorize, db);
}

/* ---- transactions ---------------------------------------------------------------------------- */

bool db_script(struct db *db, const char *sql, struct err *e)
{
    int rc = sqlite3_exec(db->raw, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK || fail(db, rc, e);
}

bool db_broken(const struct db *db)
{
    return db->broken;
}

bool db_begin(struct db *db, struct err *e)
{
    if (db->broken)
        return err_set(e, ERR_READ_ONLY,
                       "the ledger takes no writes until the daemon is restarted: "
                       "a sync to disk failed");
    assert(sqlite3_get_autocommit(db->raw) && "transactions do not nest");
    return db_script(db, db->mode == DB_READER ? "BEGIN" : "BEGIN IMMEDIATE", e);
}

void db_rollback(struct db *db)
{
    if (sqlite3_get_autocommit(db->raw)) return; /* SQLite has already done it */
    (void)sqlite3_exec(db->raw, "ROLLBACK", NULL, NULL, NULL);
}

bool db_commit(struct db *db, struct err *e)
{
    int rc = sqlite3_exec(db->raw, "COMMIT", NULL, NULL, NULL);
    if (rc == SQLITE_OK) return true;
    if ((rc & 0xff) == SQLITE_IOERR && !out_of_space(db, rc)) {
        db->broken = true;
        (void)err_set(e, ERR_UNKNOWN_OUTCOME,
                      "the disk failed while committing (%s): whether it "
                      "happened is known only after a restart",
                      sqlite3_errmsg(db->raw));
    } else {
        (void)fail(db, rc, e);
    }
    db_rollback(db);
    return false;
}

bool db_checkpoint(struct db *db, bool truncate, struct err *e)
{
    if (db->broken) return true; /* the log is evidence: leave it to the restart */
    int rc = sqlite3_wal_checkpoint_v2(
        db->raw, NULL, truncate ? SQLITE_CHECKPOINT_TRUNCATE : SQLITE_CHECKPOINT_PASSIVE, NULL,
        NULL);
    if (rc == SQLITE_OK || (rc & 0xff) == SQLITE_BUSY || (rc & 0xff) == SQLITE_LOCKED) return true;
    /* A second sync of pages that failed once may lie, and would let the log be overwritten. */
    if ((rc & 0xff) == SQLITE_IOERR && !out_of_space(db, rc)) db->broken = true;
    return fail(db, rc, e);
}

/* ---- statements ------------------------------------------------------------------------------ */

static bool prepare(struct db *db, const char *sql, bool keep, sqlite3_stmt **out, struct err *e)
{
    int rc = sqlite3_prepare_v3(db->raw, sql, -1, keep ? SQLITE_PREPARE_PERSISTENT : 0, out, NULL);
    return rc == SQLITE_OK || fail(db, rc, e);
}

static struct stmt *temporary(struct db *db, const char *sql, struct err *e)
{
    struct stmt *s = mem_new(sizeof *s);
    s->db = db;
    s->busy = true;
    if (prepare(db, sql, false, &s->raw, e)) return s;
    mem_drop(s);
    return NULL;
}

static struct stmt *obtain(struct db *db, const char *sql, struct err *e)
{
    size_t at = (size_t)((uintptr_t)sql >> 3) % CACHE;
    for (size_t i = 0; i < CACHE; i++, at = (at + 1) % CACHE) {
        struct stmt *s = &db->cache[at];
        if (s->sql == sql && s->busy) break;
        if (s->sql != sql && s->sql) continue;
        if (!s->sql) {
            if (!prepare(db, sql, true, &s->raw, e)) return NULL;
            s->db = db;
            s->sql = sql;
        }
        s->busy = true;
        return s;
    }
    return temporary(db, sql, e);
}

static int bind(sqlite3_stmt *raw, int at, const struct arg *a)
{
    switch (a->type) {
    case 'i':
        return sqlite3_bind_int64(raw, at, a->i);
    case 't':
        return sqlite3_bind_text64(raw, at, a->p, strlen(a->p), SQLITE_STATIC, SQLITE_UTF8);
    case 'b':
        return sqlite3_bind_blob64(raw, at, a->n ? a->p : "", a->n, SQLITE_STATIC);
    default:
        return sqlite3_bind_null(raw, at);
    }
}

struct stmt *db_query(struct db *db, struct err *e, const char *sql, const struct arg *args,
                      size_t n)
{
    struct stmt *s = obtain(db, sql, e);
    if (!s) return NULL;
    assert((size_t)sqlite3_bind_parameter_count(s->raw) == n);
    for (size_t i = 0; i < n; i++) {
        int rc = bind(s->raw, (int)i + 1, &args[i]);
        if (rc == SQLITE_OK) continue;
        (void)fail(db, rc, e);
        stmt_done(s);
        return NULL;
    }
    return s;
}

bool db_run(struct db *db, struct err *e, const char *sql, const struct arg *args, size_t n)
{
    struct stmt *s = db_query(db, e, sql, args, n);
    if (!s) return false;
    bool row, ok;
    do ok = stmt_next(s, &row, e);
    while (ok && row);
    stmt_done(s);
    return ok;
}

bool db_one(struct db *db, struct err *e, struct stmt **out, const char *sql,
            const struct arg *args, size_t n)
{
    bool row = false;
    *out = db_query(db, e, sql, args, n);
    bool ok = *out && stmt_next(*out, &row, e);
    if (ok && row) return true;
    stmt_done(*out);
    *out = NULL;
    return ok;
}

bool db_int(struct db *db, struct err *e, int64_t *out, const char *sql, const struct arg *args,
            size_t n)
{
    bool row = false;
    struct stmt *s = db_query(db, e, sql, args, n);
    bool ok = s && stmt_next(s, &row, e);
    if (ok) *out = row ? col_int(s, 0) : 0;
    stmt_done(s);
    return ok;
}

bool stmt_next(struct stmt *s, bool *row, struct err *e)
{
    int rc = sqlite3_step(s->raw);
    *row = rc == SQLITE_ROW;
    return rc == SQLITE_ROW || rc == SQLITE_DONE || fail(s->db, rc, e);
}

void stmt_done(struct stmt *s)
{
    if (!s) return;
    assert(s->busy);
    if (!s->sql) {
        (void)sqlite3_finalize(s->raw);
        mem_drop(s);
        return;
    }
    (void)sqlite3_reset(s->raw);
    (void)sqlite3_clear_bindings(s->raw);
    s->busy = false;
}

/* ---- columns --------------------------------------------------------------------------------- */

int col_count(struct stmt *s)
{
    return sqlite3_column_count(s->raw);
}

char col_type(struct stmt *s, int i)
{
    switch (sqlite3_column_type(s->raw, i)) {
    case SQLITE_INTEGER:
        return 'i';
    case SQLITE_TEXT:
        return 't';
    case SQLITE_BLOB:
        return 'b';
    case SQLITE_FLOAT:
        return 'f';
    default:
        return 0;
    }
}

int64_t col_int(struct stmt *s, int i)
{
    return sqlite3_column_int64(s->raw, i);
}

const char *col_text(struct stmt *s, int i)
{
    const unsigned char *t = sqlite3_column_text(s->raw, i);
    return t ? (const char *)t : "";
}

const void *col_bytes(struct stmt *s, int i, size_t *n)
{
    const void *p = sqlite3_column_blob(s->raw, i);
    *n = (size_t)sqlite3_column_bytes(s->raw, i);
    return p ? p : "";
}

void col_copy(struct stmt *s, int i, char *out, size_t size)
{
    const char *t = col_text(s, i);
    size_t n = strnlen(t, size - 1);
    memcpy(out, t, n);
    out[n] = '\0';
}

bool col_hash(struct stmt *s, int i, uint8_t out[32])
{
    size_t n;
    const void *p = col_bytes(s, i, &n);
    memset(out, 0, 32);
    if (n != 32) return false;
    memcpy(out, p, 32);
    return true;
}
