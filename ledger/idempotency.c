/* Answers kept for a week under the key a caller chose, so that a repeated request is done once.
 * A side table: rows come and go, nothing of the history depends on them. */
#include <stdio.h>
#include <string.h>

#include "store.h"

static const int64_t keep_us = (int64_t)7 * 24 * 3600 * 1000000;

static bool in_use(const struct idempotency *key)
{
    return key->scope[0] && key->key[0];
}

static bool conflict(struct err *e, const char *why)
{
    return err_field(e, ERR_CONFLICT, "Idempotency-Key", "%s", why);
}

/* What lies under the key now. */
struct kept {
    bool exists, pending;
    char job[ID_TEXT];
    uint8_t request[SHA256_BYTES], result[SHA256_BYTES];
    bool has_result;
    int status;
};

static bool look(struct store *s, const struct idempotency *key, struct kept *out, struct err *e)
{
    struct stmt *row;
    *out = (struct kept){0};
    if (!DB_ONE(s->db, e, &row,
                "SELECT request, status, result, job FROM answer WHERE scope = ? AND key = ? "
                "AND created_us > ?",
                a_text(key->scope), a_text(key->key), a_int(now_us() - keep_us)))
        return false;
    if (!row) return true;
    out->exists = true;
    (void)col_hash(row, 0, out->request);
    out->pending = !col_type(row, 1);
    out->status = (int)col_int(row, 1);
    out->has_result = col_hash(row, 2, out->result);
    col_copy(row, 3, out->job, sizeof out->job);
    stmt_done(row);
    return true;
}

static bool same_request(const struct kept *k, const struct idempotency *key, struct err *e)
{
    return memcmp(k->request, key->request, SHA256_BYTES) == 0 ||
           err_field(e, ERR_CONFLICT, "Idempotency-Key", "the key was used for another request");
}

bool answer_put(struct store *s, const struct idempotency *key, int status, const uint8_t *result,
                const char *job, int64_t time_us, struct err *e)
{
    struct kept was;
    if (!in_use(key)) return true;
    if (!look(s, key, &was, e) || (was.exists && !same_request(&was, key, e))) return false;
    if (was.exists && !was.pending)
        return conflict(e, "the request with this Idempotency-Key was answered");
    if (was.exists && (!job || strcmp(was.job, job) != 0))
        return conflict(e, "the request with this Idempotency-Key is still at work");
    if (status >= 500) /* not kept: the same request may succeed later */
        return DB_RUN(s->db, e, "DELETE FROM answer WHERE scope = ? AND key = ?",
                      a_text(key->scope), a_text(key->key));
    return DB_RUN(s->db, e, "DELETE FROM answer WHERE created_us <= ?", a_int(time_us - keep_us)) &&
           DB_RUN(s->db, e,
                  "INSERT INTO answer (scope, key, request, status, result, job, created_us) "
                  "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (scope, key) DO UPDATE SET "
                  "status = excluded.status, result = excluded.result",
                  a_text(key->scope), a_text(key->key), a_hash(key->request), a_ref(status),
                  a_hash(result), a_text(job && *job ? job : NULL), a_int(time_us));
}

bool answer_end(struct store *s, const char *job, int status, const uint8_t *result, struct err *e)
{
    if (status == 0)
        return DB_RUN(s->db, e, "DELETE FROM answer WHERE job = ? AND status IS NULL", a_text(job));
    return DB_RUN(s->db, e,
                  "UPDATE answer SET status = ?, result = ? WHERE job = ? AND status IS NULL",
                  a_int(status), a_hash(result), a_text(job));
}

bool ledger_answered(struct ledger_reader *r, const struct idempotency *key, int *status,
                     struct buf *answer, char job_id[ID_TEXT], struct err *e)
{
    struct kept was;
    *status = 0;
    job_id[0] = '\0';
    if (!in_use(key)) return true;
    if (!look(&r->s, key, &was, e)) return false;
    if (!was.exists) return true;
    if (!same_request(&was, key, e)) return false;
    (void)snprintf(job_id, ID_TEXT, "%s", was.job);
    *status = was.pending ? 202 : was.status;
    return !was.has_result || body_get(&r->s, was.result, answer, e) ||
           err_while(e, "reading the answer kept under %s", key->key);
}
