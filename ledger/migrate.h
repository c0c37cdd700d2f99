/* Migrations: numbered, forward-only SQL files, embedded in the binary as they are (the n-th of the
 * table is number n). Each is applied in one transaction and recorded with its SHA-256, so an
 * applied file is immutable: a changed hash, a gap or a number from the future stops start-up with
 * a sentence. Before an existing database is changed a copy lies beside it
 * (ledger.db.before-NNNN).
 *
 * Identity: SQLite's application_id is LEDGER_APPLICATION_ID, user_version counts migrations.
 * migrate_check only reads: what a reader or the verifier may demand.
 */
#ifndef ENGRAM_MIGRATE_H
#define ENGRAM_MIGRATE_H

#include "db.h"

enum { LEDGER_APPLICATION_ID = 0x656e6772 /* "engr" */ };

struct migration {
    const char *name; /* "0001_ledger.sql" */
    const char *text, *end;
};
extern const struct migration migrations[];
extern const size_t n_migrations;

/* path: of the database file, for the copy; NULL: no copy. */
bool migrate(struct db *db, const struct migration *list, size_t n, const char *path,
             struct err *e) MUST_CHECK;
/* That the database is a ledger at exactly this version with these very migrations. */
bool migrate_check(struct db *db, const struct migration *list, size_t n, struct err *e) MUST_CHECK;
/* Compare the schema, triggers and all, with that of a fresh ledger; the first difference is a
 * sentence in problem, which stays "" when there is none. */
bool migrate_schema(struct db *db, const struct migration *list, size_t n, char problem[512],
                    struct err *e) MUST_CHECK;

#endif
