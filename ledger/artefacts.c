/* Artefacts: rows with a content of their own, found again by id or by name. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "store.h"

/* ---- names ----------------------------------------------------------------------------------- */

static bool id_letter(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z'); }

/* "set_…": the kind, an underline, and nothing but letters and digits of ids. */
static bool artefact_like_id(const char *kind, const char *name)
{
    size_t n = strlen(kind);
    if (strncmp(name, kind, n) != 0 || name[n] != '_' || !name[n + 1]) return false;
    for (name += n + 1; *name; name++)
        if (!id_letter(*name)) return false;
    return true;
}

bool ledger_artefact_name(const char *kind, const char *name, const char *field, struct err *e)
{
    size_t n = strlen(name), bad;
    if (n >= NAME_TEXT) return err_field(e, ERR_INVALID, field, "has %zu bytes; at most %d", n, NAME_TEXT - 1);
    if (!utf8_valid(name, n, &bad)) return err_field(e, ERR_INVALID, field, "is not UTF-8 at byte %zu", bad);
    return !artefact_like_id(kind, name) ||
           err_field(e, ERR_INVALID, field, "\"%s\" looks like an id; ids are ours to give", name);
}

/* ---- writing --------------------------------------------------------------------------------- */

/* One that is the same already, or none. */
static bool find_same(struct store *s, const struct artefact *a, int64_t model,
                      const uint8_t hash[SHA256_BYTES], char id[ID_TEXT], struct err *e)
{
    struct stmt *row;
    if (!DB_ONE(s->db, e, &row,
                "SELECT id FROM artefact WHERE content = ? AND kind = ? AND name = ? AND model IS ? "
                "ORDER BY entry DESC LIMIT 1",
                a_hash(hash), a_text(a->kind), a_text(a->name), a_ref(model)))
        return false;
    if (row) col_copy(row, 0, id, ID_TEXT);
    stmt_done(row);
    return true;
}

static bool newest_is(struct store *s, const struct artefact *a, int64_t model, const char *id,
                      bool *out, struct err *e)
{
    struct stmt *row;
    if (!DB_ONE(s->db, e, &row,
                "SELECT id FROM artefact WHERE kind = ? AND name = ? AND model IS ? ORDER BY entry DESC LIMIT 1",
                a_text(a->kind), a_text(a->name), a_ref(model)))
        return false;
    *out = row && strcmp(col_text(row, 0), id) == 0;
    stmt_done(row);
    return true;
}

bool artefact_append(struct chain *c, const struct artefact *a, int64_t run, const char *author,
                     bool verified, char id[ID_TEXT], bool *known, struct err *e)
{
    struct store *s = c->s;
    uint8_t hash[SHA256_BYTES];
    int64_t model = 0;
    assert(a->kind && a->name && a->summary && a->content && author);
    *known = false;
    if (!ledger_artefact_name(a->kind, a->name, "name", e) || (a->model && !model_entry(s, a->model, &model, e)) ||
        !body_put(s, a->content, a->len, hash, e))
        return false;
    id[0] = '\0';
    if (!run && !find_same(s, a, model, hash, id, e)) return false;
    /* Where another took the name since, this one must be appended anew to be what the name means. */
    if (id[0] && a->name[0] && !newest_is(s, a, model, id, known, e)) return false;
    *known = id[0] && (!a->name[0] || *known);
    if (*known) return true;
    if (a->id[0]) memcpy(id, a->id, ID_TEXT);
    else ledger_new_id(a->kind, id);
    return DB_RUN(s->db, e,
                  "INSERT INTO artefact (entry, id, kind, model, name, summary, size, content, run) "
                  "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                  a_int(c->next), a_text(id), a_text(a->kind), a_ref(model), a_text(a->name),
                  a_text(a->summary), a_int((int64_t)a->len), a_hash(hash), a_ref(run)) &&
           chain_seal(c, "artefact", id, a->model ? a->model : "", author, verified, e);
}

static bool add(struct store *s, const struct artefact *a, const char *author, bool verified,
                char id[ID_TEXT], bool *known, struct err *e)
{
    struct chain c;
    return chain_open(&c, s, e) && artefact_append(&c, a, 0, author, verified, id, known, e);
}

bool ledger_add_artefact(struct ledger *l, const struct artefact *a, const char *author, bool verified,
                         char id[ID_TEXT], bool *known, struct err *e)
{
    if (!db_begin(l->s.db, e)) return false;
    bool ok = add(&l->s, a, author, verified, id, known, e) && db_commit(l->s.db, e);
    db_rollback(l->s.db);
    return ok;
}

/* ---- reading --------------------------------------------------------------------------------- */

#define COLUMNS                                                                                    \
    "SELECT a.id, a.entry, a.kind, m.id, a.name, a.summary, a.size, a.content, r.id, c.author, "   \
    "c.verified, c.time_us FROM artefact a JOIN chain c ON c.seq = a.entry "                       \
    "LEFT JOIN model m ON m.entry = a.model LEFT JOIN run r ON r.entry = a.run "

void artefact_row_release(struct artefact_row *a)
{
    mem_drop(a->summary);
    a->summary = NULL;
}

static void take(struct stmt *row, struct artefact_row *out)
{
    uint8_t hash[SHA256_BYTES];
    memset(out, 0, sizeof *out);
    col_copy(row, 0, out->id, sizeof out->id);
    out->chain_seq = col_int(row, 1);
    col_copy(row, 2, out->kind, sizeof out->kind);
    col_copy(row, 3, out->model, sizeof out->model);
    col_copy(row, 4, out->name, sizeof out->name);
    out->summary = mem_text(col_text(row, 5));
    out->size = col_int(row, 6);
    if (col_hash(row, 7, hash)) digest_text(hash, out->hash);
    col_copy(row, 8, out->run, sizeof out->run);
    col_copy(row, 9, out->author, sizeof out->author);
    out->author_verified = col_int(row, 10) != 0;
    out->created_us = col_int(row, 11);
}

bool ledger_artefact(struct ledger_reader *r, const char *kind, const char *model, const char *name,
                     struct artefact_row *out, struct err *e)
{
    struct stmt *row;
    bool by_id = artefact_like_id(kind, name);
    bool ok = by_id ? DB_ONE(r->s.db, e, &row, COLUMNS "WHERE a.id = ?1 AND a.kind = ?2", a_text(name), a_text(kind))
                    : DB_ONE(r->s.db, e, &row,
                             COLUMNS "WHERE a.kind = ?2 AND a.name = ?1 AND a.name <> '' AND (a.model IS NULL OR m.id = ?3) "
                                     "ORDER BY a.entry DESC LIMIT 1",
                             a_text(name), a_text(kind), a_text(model));
    if (!ok) return false;
    if (!row) return err_set(e, ERR_NOT_FOUND, "no %s \"%.64s\"", kind, name);
    take(row, out);
    stmt_done(row);
    return true;
}

bool ledger_artefacts(struct ledger_reader *r, const char *kind, const char *model, int limit, int64_t before,
                      void (*each)(void *ctx, const struct artefact_row *row), void *ctx, struct err *e)
{
    bool row, ok;
    struct artefact_row one;
    struct stmt *q = DB_QUERY(r->s.db, e,
                              COLUMNS "WHERE a.kind = ?1 AND a.entry < ?2 AND (?3 IS NULL OR m.id = ?3 OR a.model IS NULL) "
                                      "ORDER BY a.entry DESC LIMIT ?4",
                              a_text(kind), a_int(before > 0 ? before : INT64_MAX), a_text(model), a_int(limit));
    if (!q) return false;
    while ((ok = stmt_next(q, &row, e)) && row) {
        take(q, &one);
        each(ctx, &one);
        artefact_row_release(&one);
    }
    stmt_done(q);
    return ok;
}

bool ledger_artefact_content(struct ledger_reader *r, const struct artefact_row *a, struct buf *out, struct err *e)
{
    uint8_t hash[SHA256_BYTES];
    if (!digest_parse(a->hash, hash)) return err_set(e, ERR_CORRUPT, "%s names no content", a->id);
    return body_get(&r->s, hash, out, e) || err_while(e, "reading %s", a->id);
}
