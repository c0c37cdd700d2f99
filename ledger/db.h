/* The database: the only door to SQLite.
 *
 * A struct db is one connection, used by one thread. Three modes:
 *   DB_WRITER   read-write; the only one that commits and checkpoints (WAL, synchronous FULL,
 *               automatic checkpoints off)
 *   DB_READER   read-only, beside the writer or alone
 *   DB_MEMORY   a scratch database, to compare schemas with
 *
 * Statements are SQL literals, prepared once per connection and kept under the literal's address.
 * Values are bound, never pasted. A statement handed out belongs to the caller until db_done;
 * asking for the same one meanwhile gives a second, temporary copy.
 *
 *     struct stmt *s = DB_QUERY(db, e, "SELECT id FROM model WHERE name = ?", a_text(name));
 *     bool row;
 *     while ((ok = stmt_next(s, &row, e)) && row) use(col_text(s, 0));
 *     stmt_done(s);
 *
 * Failures: ERR_NO_SPACE: disk full, the transaction is gone, nothing happened.
 * ERR_UNKNOWN_OUTCOME: COMMIT met an I/O error; the connection is broken from then on and every
 * later db_begin answers ERR_READ_ONLY, because after a failed sync neither the pages in memory
 * nor a second sync can be believed. Statement failures are ERR_INTERNAL with SQLite's sentence.
 */
#ifndef ENGRAM_DB_H
#define ENGRAM_DB_H

#include "core/base/mem.h"

enum db_mode { DB_WRITER, DB_READER, DB_MEMORY };

struct db;
struct stmt;

struct arg { /* one bound value; text and bytes are borrowed until stmt_done */
    char type; /* i, t, b or 0 for NULL */
    int64_t i;
    const void *p;
    size_t n;
};
static inline struct arg a_null(void) { return (struct arg){0}; }
static inline struct arg a_int(int64_t i) { return (struct arg){.type = 'i', .i = i}; }
static inline struct arg a_text(const char *t) { return (struct arg){.type = t ? 't' : 0, .p = t}; }
static inline struct arg a_blob(const void *p, size_t n)
{
    return (struct arg){.type = p ? 'b' : 0, .p = p, .n = n};
}
static inline struct arg a_hash(const uint8_t *h) { return a_blob(h, 32); }
/* The int, or NULL when it is 0: row numbers begin at 1. */
static inline struct arg a_ref(int64_t i) { return i ? a_int(i) : a_null(); }

struct db *db_open(const char *path, enum db_mode mode, struct err *e) MUST_CHECK;
void db_close(struct db *db); /* NULL is fine; never checkpoints by itself */
/* From here on this connection cannot UPDATE or DELETE the tables of the NULL-ended list, nor
 * change the schema, attach another file or set a pragma. */
void db_guard(struct db *db, const char *const *append_only);

/* Several statements without results: migrations, settings. */
bool db_script(struct db *db, const char *sql, struct err *e) MUST_CHECK;
bool db_begin(struct db *db, struct err *e) MUST_CHECK; /* IMMEDIATE on a writer */
bool db_commit(struct db *db, struct err *e) MUST_CHECK;
void db_rollback(struct db *db); /* nothing to do outside a transaction */
bool db_broken(const struct db *db);
/* Move the log into the database file; truncate: and empty the log. */
bool db_checkpoint(struct db *db, bool truncate, struct err *e) MUST_CHECK;

struct stmt *db_query(struct db *db, struct err *e, const char *sql, const struct arg *args,
                      size_t n) MUST_CHECK;
bool db_run(struct db *db, struct err *e, const char *sql, const struct arg *args,
            size_t n) MUST_CHECK;
#define DB_ARGS_(...) (const struct arg[]){__VA_ARGS__}, \
                      sizeof((const struct arg[]){__VA_ARGS__}) / sizeof(struct arg)
#define DB_QUERY(db, e, sql, ...) db_query(db, e, sql, DB_ARGS_(__VA_ARGS__))
#define DB_RUN(db, e, sql, ...) db_run(db, e, sql, DB_ARGS_(__VA_ARGS__))

/* Query and its first row: *out is NULL when there is none. False: it failed. */
bool db_one(struct db *db, struct err *e, struct stmt **out, const char *sql,
            const struct arg *args, size_t n) MUST_CHECK;
#define DB_ONE(db, e, out, sql, ...) db_one(db, e, out, sql, DB_ARGS_(__VA_ARGS__))
/* A query of one integer; 0 when it gives no row or NULL. */
bool db_int(struct db *db, struct err *e, int64_t *out, const char *sql, const struct arg *args,
            size_t n) MUST_CHECK;
#define DB_INT(db, e, out, sql, ...) db_int(db, e, out, sql, DB_ARGS_(__VA_ARGS__))

bool stmt_next(struct stmt *s, bool *row, struct err *e) MUST_CHECK;
void stmt_done(struct stmt *s); /* NULL is fine */

int col_count(struct stmt *s);
char col_type(struct stmt *s, int i); /* i, t, b, 'f', or 0 for NULL */
int64_t col_int(struct stmt *s, int i);
const char *col_text(struct stmt *s, int i);              /* "" for NULL; until the next step */
const void *col_bytes(struct stmt *s, int i, size_t *n);  /* text or blob; likewise */
void col_copy(struct stmt *s, int i, char *out, size_t size); /* text, cut to fit */
bool col_hash(struct stmt *s, int i, uint8_t out[32]);    /* false: not 32 bytes; out is zeroed */

#endif
