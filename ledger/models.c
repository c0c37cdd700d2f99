#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "manifest.h"
#include "store.h"

bool model_entry(struct store *s, const char *id, int64_t *entry, struct err *e)
{
    if (!DB_INT(s->db, e, entry, "SELECT entry FROM model WHERE id = ?", a_text(id ? id : "")))
        return false;
    return *entry != 0 ||
           err_set(e, ERR_NOT_FOUND, "the ledger has no model %s", id ? id : "(none)");
}

bool ledger_count_models(struct ledger_reader *r, int64_t *out, struct err *e)
{
    return db_int(r->s.db, e, out, "SELECT count(*) FROM model", NULL, 0);
}

#define ROW \
    "SELECT id, name, base_digest, source_sha256, pretrained_parent, " \
    "(SELECT id FROM revision WHERE model = m.entry AND kind = 'base') FROM model m "

static void read_row(struct stmt *row, struct model_row *out)
{
    col_copy(row, 0, out->id, sizeof out->id);
    col_copy(row, 1, out->name, sizeof out->name);
    col_copy(row, 2, out->base_digest, sizeof out->base_digest);
    col_copy(row, 3, out->source_sha256, sizeof out->source_sha256);
    col_copy(row, 4, out->pretrained_parent, sizeof out->pretrained_parent);
    col_copy(row, 5, out->base_revision, sizeof out->base_revision);
    stmt_done(row);
}

static bool find(struct store *s, const char *base_digest, struct model_row *out, struct err *e)
{
    struct stmt *row;
    if (!DB_ONE(s->db, e, &row, ROW "WHERE base_digest = ?", a_text(base_digest))) return false;
    if (!row) return err_set(e, ERR_NOT_FOUND, "the ledger does not know the base %s", base_digest);
    read_row(row, out);
    return true;
}

bool ledger_find_model(struct ledger_reader *r, const char *base_digest, struct model_row *out,
                       struct err *e)
{
    return find(&r->s, base_digest, out, e);
}

bool ledger_named_model(struct ledger_reader *r, const char *name, struct model_row *out, struct err *e)
{
    struct stmt *row;
    if (!DB_ONE(r->s.db, e, &row, ROW "WHERE name = ?1 OR id = ?1 ORDER BY entry DESC LIMIT 1", a_text(name)))
        return false;
    if (!row) return err_set(e, ERR_NOT_FOUND, "the ledger knows no model %s", name);
    read_row(row, out);
    return true;
}

/* ---- adding ---------------------------------------------------------------------------------- */

static bool append_model(struct chain *c, const char *id, const struct model *m,
                         const struct base_digests *d, const char *author, bool verified,
                         int64_t *entry, struct err *e)
{
    struct manifest manifest;
    struct buf json = {0};
    uint8_t hash[SHA256_BYTES];
    manifest_init(&manifest, m, d);
    manifest_write(&manifest, &json);
    manifest_release(&manifest);
    *entry = c->next;
    bool ok =
        buf_ok(&json, e) && body_put(c->s, json.data, json.len, hash, e) &&
        DB_RUN(c->s->db, e,
               "INSERT INTO model (entry, id, name, base_digest, source_sha256, pretrained_parent, "
               "manifest) VALUES (?, ?, ?, ?, ?, 'unknown', ?)",
               a_int(c->next), a_text(id), a_text(m->name), a_text(d->base), a_text(d->source),
               a_hash(hash)) &&
        chain_seal(c, "model", id, id, author, verified, e);
    buf_release(&json);
    return ok;
}

static bool append_base(struct chain *c, const char *model, int64_t entry,
                        const struct base_digests *d, const char *author, bool verified,
                        struct err *e)
{
    struct revision_full r = {.model_entry = entry};
    static char message[] = "the model as loaded";
    r.rev.kind = REV_BASE;
    r.rev.message = message;
    r.rev.author_verified = verified;
    (void)snprintf(r.rev.model, sizeof r.rev.model, "%s", model);
    (void)snprintf(r.rev.branch, sizeof r.rev.branch, "main");
    (void)snprintf(r.rev.digest, sizeof r.rev.digest, "%s", d->base);
    (void)snprintf(r.rev.author, sizeof r.rev.author, "%s", author);
    ledger_new_id("rev", r.rev.id);
    return revision_append(c, &r, 0, 0, 0, NULL, NULL, e);
}

static bool add(struct store *s, const struct model *m, const struct base_digests *d,
                const char *author, bool verified, struct err *e)
{
    struct chain c;
    char id[ID_TEXT];
    int64_t entry, known;
    ledger_new_id("model", id);
    if (!chain_open(&c, s, e) ||
        !DB_INT(s->db, e, &known, "SELECT count(*) FROM model WHERE base_digest = ?",
                a_text(d->base)))
        return false;
    if (known) return err_set(e, ERR_CONFLICT, "the ledger already has the base %s", d->base);
    return append_model(&c, id, m, d, author, verified, &entry, e) &&
           append_base(&c, id, entry, d, author, verified, e);
}

bool ledger_add_model(struct ledger *l, const struct model *m, const struct base_digests *d,
                      const char *author, bool verified, struct model_row *out, struct err *e)
{
    if (!db_begin(l->s.db, e)) return false;
    bool ok = add(&l->s, m, d, author, verified, e) && db_commit(l->s.db, e) && find(&l->s, d->base, out, e);
    db_rollback(l->s.db);
    return ok || err_while(e, "adding model %s", m->name);
}
