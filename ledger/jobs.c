/* Jobs: accepted durably, ended once. Their table is not history: it is what a restart needs to say
 * about work that a caller still asks for. */
#include <stdio.h>
#include <string.h>

#include "store.h"

static const char interrupted[] = "{\"type\":\"interrupted\",\"title\":\"Interrupted by a "
                                  "restart\",\"status\":503,\"detail\":\"the daemon "
                                  "stopped before this job ended; it changed nothing\"}";

/* ---- acceptance ------------------------------------------------------------------------------ */

static bool accept(struct store *s, const char *id, const char *kind, const char *model,
                   const char *author, const struct idempotency *key, struct err *e)
{
    int64_t entry = 0, time_us = now_us();
    if (model && *model && !model_entry(s, model, &entry, e)) return false;
    return DB_RUN(s->db, e,
                  "INSERT INTO job (id, kind, model, author, created_us, state) VALUES (?, ?, ?, "
                  "?, ?, 'queued')",
                  a_text(id), a_text(kind), a_ref(entry), a_text(author), a_int(time_us)) &&
           (!key || answer_put(s, key, 0, NULL, id, time_us, e));
}

bool ledger_job_accept(struct ledger *l, const char *id, const char *kind, const char *model,
                       const char *author, const struct idempotency *key, struct err *e)
{
    if (!db_begin(l->s.db, e)) return false;
    bool ok = accept(&l->s, id, kind, model, author, key, e) && db_commit(l->s.db, e);
    db_rollback(l->s.db);
    return ok || err_while(e, "accepting job %s", id);
}

/* ---- the end --------------------------------------------------------------------------------- */

static bool set_state(struct store *s, const char *id, const char *state, const uint8_t *result,
                      int64_t time_us, struct err *e)
{
    return DB_RUN(
        s->db, e,
        "UPDATE job SET state = ?, result = ?, ended_us = ? WHERE id = ? AND state = 'queued'",
        a_text(state), a_hash(result), a_int(time_us), a_text(id));
}

bool job_finish(struct store *s, const char *job, const uint8_t *result, int64_t time_us,
                struct err *e)
{
    return !job || !*job || set_state(s, job, "done", result, time_us, e);
}

/* What of an ended job is kept under its idempotency key: an answer, or a refusal that would come
 * again. A failure of ours and a cancellation are forgotten, so that the caller may try again. */
static int kept_status(const char *state, int status)
{
    return status < 500 && strcmp(state, "cancelled") != 0 ? status : 0;
}

static bool end(struct store *s, const char *id, const char *state, int status, const char *result,
                struct err *e)
{
    uint8_t hash[SHA256_BYTES];
    int64_t open;
    if (!DB_INT(s->db, e, &open, "SELECT count(*) FROM job WHERE id = ? AND state = 'queued'",
                a_text(id)))
        return false;
    if (!open) return true; /* a durable result has ended it already */
    if (result && !body_put(s, result, strlen(result), hash, e)) return false;
    const uint8_t *kept = result ? hash : NULL;
    return set_state(s, id, state, kept, now_us(), e) &&
           answer_end(s, id, kept_status(state, status), kept, e);
}

bool ledger_job_end(struct ledger *l, const char *id, const char *state, int status, const char *result,
                    struct err *e)
{
    if (!db_begin(l->s.db, e)) return false;
    bool ok = end(&l->s, id, state, status, result, e) && db_commit(l->s.db, e);
    db_rollback(l->s.db);
    return ok || err_while(e, "ending job %s", id);
}

/* ---- after a restart ------------------------------------------------------------------------- */

/* The next job without an end, and whether a durable run names it. */
static bool next_open(struct store *s, char id[ID_TEXT], bool *more, struct err *e)
{
    struct stmt *row;
    if (!db_one(s->db, e, &row, "SELECT id FROM job WHERE state = 'queued' ORDER BY number LIMIT 1",
                NULL, 0))
        return false;
    *more = row != NULL;
    if (row) col_copy(row, 0, id, ID_TEXT);
    stmt_done(row);
    return true;
}

static bool recover(struct store *s, struct err *e)
{
    char id[ID_TEXT];
    bool more;
    while (next_open(s, id, &more, e)) {
        if (!more) return true;
        if (!end(s, id, "failed", 0, interrupted, e)) return false;
    }
    return false;
}

/* A run or commit that names a job ends it in its own transaction, so every job that is still open
 * has done nothing. */
bool ledger_jobs_recover(struct ledger *l, struct err *e)
{
    if (!db_begin(l->s.db, e)) return false;
    bool ok = recover(&l->s, e) && db_commit(l->s.db, e);
    db_rollback(l->s.db);
    return ok || err_while(e, "recovering jobs");
}

/* ---- reading --------------------------------------------------------------------------------- */

#define COLUMNS                                                                                    \
    "SELECT j.id, j.kind, m.id, j.state, j.created_us, j.result FROM job j "                       \
    "LEFT JOIN model m ON m.entry = j.model "

void job_row_release(struct job_row *j)
{
    mem_drop(j->result);
    j->result = NULL;
}

static bool take(struct store *s, struct stmt *row, struct job_row *out, struct err *e)
{
    *out = (struct job_row){.created_us = col_int(row, 4)};
    col_copy(row, 0, out->id, sizeof out->id);
    col_copy(row, 1, out->kind, sizeof out->kind);
    col_copy(row, 2, out->model, sizeof out->model);
    col_copy(row, 3, out->state, sizeof out->state);
    return body_text(s, row, 5, &out->result, e) || err_while(e, "reading job %s", out->id);
}

bool ledger_job(struct ledger_reader *r, const char *id, struct job_row *out, struct err *e)
{
    struct stmt *row;
    if (!DB_ONE(r->s.db, e, &row, COLUMNS "WHERE j.id = ?", a_text(id))) return false;
    if (!row) return err_set(e, ERR_NOT_FOUND, "no job %s", id);
    bool ok = take(&r->s, row, out, e);
    stmt_done(row);
    return ok;
}

bool ledger_jobs(struct ledger_reader *r, const char *model, int limit,
                 void (*each)(void *ctx, const struct job_row *j), void *ctx, struct err *e)
{
    bool row, ok;
    struct job_row job;
    struct stmt *q = DB_QUERY(r->s.db, e, COLUMNS "WHERE ?1 IS NULL OR m.id = ?1 ORDER BY j.number DESC LIMIT ?2",
                             a_text(model), a_int(limit));
    if (!q) return false;
    while ((ok = stmt_next(q, &row, e)) && row && (ok = take(&r->s, q, &job, e))) {
        each(ctx, &job);
        job_row_release(&job);
    }
    stmt_done(q);
    return ok;
}
