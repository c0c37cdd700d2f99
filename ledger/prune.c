/* Taking a body away, on the record. Only what was asked and answered may go: a request or a result
 * of a run. What the weights are rebuilt from (manifests, deltas, kept tensors) and artefacts may not. */
#include <string.h>

#include "objects.h"
#include "store.h"

static bool needed(struct store *s, const uint8_t hash[SHA256_BYTES], int64_t *out, struct err *e)
{
    return DB_INT(s->db, e, out,
                  "SELECT (SELECT count(*) FROM delta WHERE content = ?1) + (SELECT count(*) FROM "
                  "model WHERE "
                  "manifest = ?1) + (SELECT count(*) FROM revision_tensor WHERE hash = ?1) + "
                  "(SELECT count(*) FROM artefact WHERE content = ?1)",
                  a_hash(hash));
}

/* The model of a run that said it. */
static bool whose(struct store *s, const uint8_t hash[SHA256_BYTES], int64_t *entry,
                  char id[ID_TEXT], struct err *e)
{
    struct stmt *row;
    if (!DB_ONE(s->db, e, &row,
                "SELECT m.entry, m.id FROM run x JOIN model m ON m.entry = x.model "
                "WHERE x.request = ?1 OR x.result = ?1 LIMIT 1",
                a_hash(hash)))
        return false;
    if (!row) return err_set(e, ERR_NOT_FOUND, "no run names that body");
    *entry = col_int(row, 0);
    col_copy(row, 1, id, ID_TEXT);
    stmt_done(row);
    return true;
}

static bool prune(struct store *s, const uint8_t hash[SHA256_BYTES], const char *author,
                  const char *reason, bool *was_file, struct err *e)
{
    struct chain c;
    struct stmt *row;
    char id[ID_TEXT], model[ID_TEXT];
    int64_t entry = 0, uses;
    if (!chain_open(&c, s, e) || !needed(s, hash, &uses, e)) return false;
    if (uses) return err_set(e, ERR_CONFLICT, "weights are rebuilt from that body, or it is an artefact");
    if (!whose(s, hash, &entry, model, e) ||
        !DB_ONE(s->db, e, &row, "SELECT bytes IS NULL FROM body WHERE hash = ?", a_hash(hash)))
        return false;
    if (!row) return err_set(e, ERR_NOT_FOUND, "that body is gone already");
    *was_file = col_int(row, 0) != 0;
    stmt_done(row);
    ledger_new_id("prune", id);
    return DB_RUN(s->db, e,
                  "INSERT INTO prune (entry, id, model, hash, reason) VALUES (?, ?, ?, ?, ?)",
                  a_int(c.next), a_text(id), a_int(entry), a_hash(hash), a_text(reason)) &&
           chain_seal(&c, "prune", id, model, author, false, e) &&
           DB_RUN(s->db, e, "DELETE FROM body WHERE hash = ?", a_hash(hash)) && db_commit(s->db, e);
}

bool ledger_prune_body(struct ledger *l, const char *hash_text, const char *author,
                       const char *reason, struct err *e)
{
    uint8_t hash[SHA256_BYTES];
    bool was_file = false;
    if (!digest_parse(hash_text, hash))
        return err_set(e, ERR_INVALID, "%s is no sha256: hash", hash_text);
    if (!db_begin(l->s.db, e)) return false;
    bool ok = prune(&l->s, hash, author, reason, &was_file, e);
    db_rollback(l->s.db);
    if (ok && was_file) object_remove(l->s.dir, hash);
    return ok || err_while(e, "pruning %s", hash_text);
}
