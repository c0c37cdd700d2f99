#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "store.h"

/* ---- writing --------------------------------------------------------------------------------- */

static bool is_zero(const uint8_t *h)
{
    static const uint8_t zero[SHA256_BYTES];
    return memcmp(h, zero, SHA256_BYTES) == 0;
}

static struct arg text_or_null(const char *t)
{
    return a_text(t && *t ? t : NULL);
}

static bool put_bodies(struct store *s, struct run_insert *in, uint8_t request[SHA256_BYTES],
                       struct err *e)
{
    const struct run *r = in->run;
    return (!r->request || body_put(s, r->request, strlen(r->request), request, e)) &&
           (!in->result || body_put(s, in->result, in->result_len, in->result_hash, e));
}

bool run_append(struct chain *c, struct run_insert *in, struct err *e)
{
    const struct run *r = in->run;
    const struct provenance *by = &r->by;
    uint8_t request[SHA256_BYTES];
    assert(r->id[0] && r->kind && r->view_digest && by->author && by->engine && by->kernel);
    in->entry = c->next;
    return put_bodies(c->s, in, request, e) &&
           DB_RUN(c->s->db, e,
                  "INSERT INTO run (entry, id, kind, model, revision, view_digest, cache_key, "
                  "status, request, "
                  "result, engine, kernel, threads, seed, duration_us, job) "
                  "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                  a_int(in->entry), a_text(r->id), a_text(r->kind), a_int(in->model),
                  a_ref(in->revision), a_text(r->view_digest),
                  is_zero(r->cache_key) ? a_null() : a_hash(r->cache_key), a_int(r->status),
                  r->request ? a_hash(request) : a_null(),
                  in->result ? a_hash(in->result_hash) : a_null(), a_text(by->engine),
                  a_text(by->kernel), a_int(by->threads), a_int(by->seed), a_int(by->duration_us),
                  text_or_null(r->job_id)) &&
           chain_seal(c, "run", r->id, r->model, by->author, by->author_verified, e);
}

static bool revision_seq(struct store *s, const char *id, int64_t *seq, struct err *e)
{
    *seq = 0;
    if (!id || !*id) return true;
    if (!DB_INT(s->db, e, seq, "SELECT seq FROM revision WHERE id = ?", a_text(id))) return false;
    return *seq != 0 || err_set(e, ERR_NOT_FOUND, "no revision %s", id);
}

static bool append_artefact(struct chain *c, const struct run *run, int64_t entry, struct err *e)
{
    char id[ID_TEXT];
    bool known;
    const struct artefact *a = run->artefact;
    assert(!a || a->id[0]);
    return !a || artefact_append(c, a, entry, run->by.author, run->by.author_verified, id, &known, e);
}

static bool add(struct store *s, const struct run *run, struct err *e)
{
    struct chain c;
    struct run_insert in = {.run = run, .result = run->result, .result_len = run->result_len};
    if (!chain_open(&c, s, e) || !model_entry(s, run->model, &in.model, e) ||
        !revision_seq(s, run->revision, &in.revision, e) || !run_append(&c, &in, e) ||
        !append_artefact(&c, run, in.entry, e))
        return false;
    const uint8_t *result = run->result ? in.result_hash : NULL;
    return answer_put(s, &run->key, run->status, result, run->job_id, c.time_us, e) &&
           job_finish(s, run->job_id, result, c.time_us, e);
}

bool ledger_add_run(struct ledger *l, const struct run *run, struct err *e)
{
    if (!db_begin(l->s.db, e)) return false;
    bool ok = add(&l->s, run, e) && db_commit(l->s.db, e);
    db_rollback(l->s.db);
    return ok;
}

/* ---- reading --------------------------------------------------------------------------------- */

#define COLUMNS                                                                                    \
    "SELECT x.id, x.entry, x.kind, m.id, r.id, x.view_digest, c.author, c.verified, x.engine, "    \
    "x.kernel, "                                                                                   \
    "x.threads, x.seed, x.duration_us, c.time_us, x.request, x.result "                            \
    "FROM run x JOIN chain c ON c.seq = x.entry JOIN model m ON m.entry = x.model "                \
    "LEFT JOIN revision r ON r.seq = x.revision "

void run_row_release(struct run_row *r)
{
    mem_drop(r->request);
    mem_drop(r->result);
    r->request = r->result = NULL;
}

static void take_columns(struct stmt *row, struct run_row *out)
{
    uint8_t hash[SHA256_BYTES];
    memset(out, 0, sizeof *out);
    col_copy(row, 0, out->id, sizeof out->id);
    out->chain_seq = col_int(row, 1);
    col_copy(row, 2, out->kind, sizeof out->kind);
    col_copy(row, 3, out->model, sizeof out->model);
    col_copy(row, 4, out->revision, sizeof out->revision);
    col_copy(row, 5, out->view_digest, sizeof out->view_digest);
    col_copy(row, 6, out->author, sizeof out->author);
    out->author_verified = col_int(row, 7) != 0;
    col_copy(row, 8, out->engine, sizeof out->engine);
    col_copy(row, 9, out->kernel, sizeof out->kernel);
    out->threads = (int)col_int(row, 10);
    out->seed = col_int(row, 11);
    out->duration_us = col_int(row, 12);
    out->created_us = col_int(row, 13);
    if (col_hash(row, 15, hash)) digest_text(hash, out->result_hash);
}

static bool take(struct store *s, struct stmt *row, bool with_result, struct run_row *out,
                 struct err *e)
{
    take_columns(row, out);
    if (body_text(s, row, 14, &out->request, e) &&
        (!with_result || body_text(s, row, 15, &out->result, e)))
        return true;
    run_row_release(out);
    return err_while(e, "reading run %s", out->id);
}

bool ledger_run(struct ledger_reader *r, const char *id, struct run_row *out, struct err *e)
{
    struct stmt *row;
    if (!DB_ONE(r->s.db, e, &row, COLUMNS "WHERE x.id = ?", a_text(id))) return false;
    if (!row) return err_set(e, ERR_NOT_FOUND, "no run %s", id);
    bool ok = take(&r->s, row, true, out, e);
    stmt_done(row);
    return ok;
}

static bool list(struct store *s, struct stmt *q,
                 void (*each)(void *ctx, const struct run_row *row), void *ctx, struct err *e)
{
    bool row, ok;
    struct run_row run;
    if (!q) return false;
    while ((ok = stmt_next(q, &row, e)) && row && (ok = take(s, q, false, &run, e))) {
        each(ctx, &run);
        run_row_release(&run);
    }
    stmt_done(q);
    return ok;
}

bool ledger_runs(struct ledger_reader *r, const char *model, const char *kind, const char *view,
                 int limit, int64_t before, void (*each)(void *ctx, const struct run_row *row),
                 void *ctx, struct err *e)
{
    int64_t entry, end = before > 0 ? before : INT64_MAX;
    if (!model_entry(&r->s, model, &entry, e)) return false;
    if (kind)
        return list(
            &r->s,
            DB_QUERY(r->s.db, e,
                     COLUMNS
                     "WHERE x.model = ?1 AND x.kind = ?5 AND x.entry < ?2 AND (?3 IS NULL OR "
                     "r.id = ?3 OR x.view_digest = ?3) ORDER BY x.entry DESC LIMIT ?4",
                     a_int(entry), a_int(end), a_text(view), a_int(limit), a_text(kind)),
            each, ctx, e);
    return list(&r->s,
                DB_QUERY(r->s.db, e,
                         COLUMNS
                         "WHERE x.model = ?1 AND x.entry < ?2 AND (?3 IS NULL OR r.id = ?3 OR "
                         "x.view_digest = ?3) ORDER BY x.entry DESC LIMIT ?4",
                         a_int(entry), a_int(end), a_text(view), a_int(limit)),
                each, ctx, e);
}

bool ledger_cached(struct ledger_reader *r, const uint8_t key[SHA256_BYTES], struct run_row *out,
                   bool *found, struct err *e)
{
    struct stmt *row;
    *found = false;
    if (is_zero(key)) return true;
    if (!DB_ONE(r->s.db, e, &row,
                COLUMNS
                "WHERE x.cache_key = ? AND EXISTS (SELECT 1 FROM body b WHERE b.hash = x.result) "
                "ORDER BY x.entry DESC LIMIT 1",
                a_hash(key)))
        return false;
    if (!row) return true;
    bool ok = take(&r->s, row, true, out, e);
    stmt_done(row);
    *found = ok && out->result; /* pruned between the two reads: ask afresh */
    if (ok && !out->result) run_row_release(out);
    return ok;
}

bool ledger_edit(struct ledger_reader *r, const char *id, struct buf *answer, struct err *e)
{
    struct stmt *row;
    uint8_t hash[SHA256_BYTES];
    if (!DB_ONE(r->s.db, e, &row, "SELECT result FROM run WHERE id = ? AND kind = 'edit'",
                a_text(id)))
        return false;
    if (!row) return err_set(e, ERR_NOT_FOUND, "no edit %s", id);
    bool has = col_hash(row, 0, hash);
    stmt_done(row);
    if (!has) return err_set(e, ERR_NOT_FOUND, "edit %s has no answer", id);
    return body_get(&r->s, hash, answer, e) || err_while(e, "reading edit %s", id);
}

/* ---- deltas ---------------------------------------------------------------------------------- */

static void describe(struct stmt *row, const uint8_t hash[SHA256_BYTES], struct buf *json)
{
    char text[DIGEST_TEXT];
    digest_text(hash, text);
    buf_printf(json, "{\"delta\":\"%s\",\"model\":\"%s\",\"base_digest\":\"%s\",\"method\":\"%s\",",
               col_text(row, 0), col_text(row, 1), col_text(row, 2), col_text(row, 3));
    buf_printf(json, "\"parts\":%s,\"bytes\":%lld,\"sha256\":\"%s\",", col_text(row, 4),
               (long long)col_int(row, 5), text);
    buf_printf(json, "\"revision\":\"%s\",\"seq\":%lld,\"edit\":\"%s\"}", col_text(row, 7),
               (long long)col_int(row, 8), col_text(row, 9));
}

bool ledger_delta(struct ledger_reader *r, const char *id, struct buf *bytes, struct buf *json,
                  struct err *e)
{
    struct stmt *row;
    uint8_t hash[SHA256_BYTES];
    if (!DB_ONE(r->s.db, e, &row,
                "SELECT d.id, m.id, m.base_digest, d.method, d.parts, d.size, d.content, v.id, "
                "v.seq, x.id "
                "FROM delta d JOIN model m ON m.entry = d.model LEFT JOIN revision v ON v.delta = "
                "d.entry "
                "LEFT JOIN run x ON x.entry = v.run WHERE d.id = ?",
                a_text(id)))
        return false;
    if (!row) return err_set(e, ERR_NOT_FOUND, "no delta %s", id);
    bool ok = col_hash(row, 6, hash) || err_set(e, ERR_CORRUPT, "delta %s names no content", id);
    if (ok && json) describe(row, hash, json);
    stmt_done(row);
    return ok && (!json || buf_ok(json, e)) &&
           (!bytes || body_get(&r->s, hash, bytes, e) || err_while(e, "reading delta %s", id));
}
