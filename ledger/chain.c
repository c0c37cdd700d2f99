#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "sha.h"
#include "store.h"

/* What the chain covers of each kind's rows: every column but the entry itself, in this order, for
 * ever. A later format of a kind is another row of this table with its own number. */
static const struct record_kind {
    const char *kind;
    const char *rows[2]; /* queries by entry; the first must give exactly one row */
} kinds[] = {
    {"genesis", {"SELECT id, nonce FROM genesis WHERE entry = ?"}},
    {"model",
     {"SELECT id, name, base_digest, source_sha256, pretrained_parent, manifest FROM model "
      "WHERE entry = ?"}},
    {"delta", {"SELECT id, model, method, parts, size, content FROM delta WHERE entry = ?"}},
    {"run",
     {"SELECT id, kind, model, revision, view_digest, cache_key, status, request, result, "
      "engine, kernel, threads, seed, duration_us, job FROM run WHERE entry = ?"}},
    {"revision",
     {"SELECT seq, id, model, branch, parent, kind, target, state, depth, snapshot, delta, "
      "run, digest, message, summary FROM revision WHERE entry = ?",
      "SELECT t.tensor, t.hash FROM revision r JOIN revision_tensor t ON t.revision = r.seq "
      "WHERE r.entry = ? ORDER BY t.tensor"}},
    {"artefact", {"SELECT id, kind, model, name, summary, size, content, run FROM artefact WHERE entry = ?"}},
    {"prune", {"SELECT id, model, hash, reason FROM prune WHERE entry = ?"}},
};

/* ---- hashing --------------------------------------------------------------------------------- */

static void put_number(struct sha *sha, int64_t x)
{
    sha_u64(sha, sizeof x);
    sha_u64(sha, (uint64_t)x);
}
static void put_text(struct sha *sha, const char *t)
{
    sha_field(sha, t, strlen(t));
}

/* A value: its type's letter (n, i, t, b), then its field. */
static void put_column(struct sha *sha, struct stmt *row, int i)
{
    size_t n;
    char type = col_type(row, i);
    sha_put(sha, type ? &type : "n", 1);
    if (type == 'i')
        put_number(sha, col_int(row, i));
    else if (type) {
        const void *bytes = col_bytes(row, i, &n);
        sha_field(sha, bytes, n);
    }
}

static bool put_rows(struct store *s, struct sha *sha, const char *sql, int64_t entry,
                     int64_t *rows, struct err *e)
{
    bool row, ok;
    struct stmt *q = DB_QUERY(s->db, e, sql, a_int(entry));
    if (!q) return false;
    while ((ok = stmt_next(q, &row, e)) && row) {
        sha_put(sha, "r", 1);
        for (int i = 0; i < col_count(q); i++) put_column(sha, q, i);
        ++*rows;
    }
    stmt_done(q);
    return ok;
}

static const struct record_kind *find_kind(const char *kind)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].kind, kind) == 0) return &kinds[i];
    return NULL;
}

bool chain_record(struct store *s, const char *kind, int64_t entry, uint8_t out[SHA256_BYTES],
                  int64_t *rows, struct err *e)
{
    const struct record_kind *k = find_kind(kind);
    int64_t more = 0;
    *rows = 0;
    if (!k) return true; /* no such kind: no rows */
    struct sha *sha = sha_new();
    put_text(sha, "engramd.record.1");
    put_text(sha, kind);
    bool ok = put_rows(s, sha, k->rows[0], entry, rows, e) &&
              (!k->rows[1] || put_rows(s, sha, k->rows[1], entry, &more, e));
    sha_end(sha, out);
    return ok;
}

struct entry {
    int64_t format, seq, time_us;
    bool verified;
    const char *author, *kind, *subject, *model;
    const uint8_t *record, *prev;
};

static void hash_entry(const struct entry *x, uint8_t out[SHA256_BYTES])
{
    struct sha *sha = sha_new();
    put_text(sha, "engramd.chain.1");
    put_number(sha, x->format);
    put_number(sha, x->seq);
    put_number(sha, x->time_us);
    put_text(sha, x->author);
    put_number(sha, x->verified);
    put_text(sha, x->kind);
    put_text(sha, x->subject);
    put_text(sha, x->model);
    sha_field(sha, x->record, SHA256_BYTES);
    sha_field(sha, x->prev, SHA256_BYTES);
    sha_end(sha, out);
}

/* ---- appending ------------------------------------------------------------------------------- */

bool chain_open(struct chain *c, struct store *s, struct err *e)
{
    struct stmt *row;
    *c = (struct chain){.s = s, .next = 1, .time_us = now_us()};
    if (!db_one(s->db, e, &row, "SELECT seq, time_us, hash FROM chain ORDER BY seq DESC LIMIT 1",
                NULL, 0))
        return false;
    if (!row) return true;
    c->next = col_int(row, 0) + 1;
    if (c->time_us < col_int(row, 1)) c->time_us = col_int(row, 1); /* the clock was set back */
    bool ok = col_hash(row, 2, c->last) || err_set(e, ERR_CORRUPT, "the last entry has no hash");
    stmt_done(row);
    return ok;
}

bool chain_seal(struct chain *c, const char *kind, const char *subject, const char *model,
                const char *author, bool verified, struct err *e)
{
    uint8_t record[SHA256_BYTES], hash[SHA256_BYTES];
    int64_t rows;
    if (!chain_record(c->s, kind, c->next, record, &rows, e)) return false;
    assert(rows == 1 && "a row of history is written before it is sealed");
    struct entry x = {CHAIN_FORMAT, c->next, c->time_us, verified, author,
                      kind,         subject, model,      record,   c->last};
    hash_entry(&x, hash);
    if (!DB_RUN(c->s->db, e,
                "INSERT INTO chain (seq, format, time_us, author, verified, kind, subject, model, "
                "record, prev, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                a_int(x.seq), a_int(x.format), a_int(x.time_us), a_text(author), a_int(verified),
                a_text(kind), a_text(subject), a_text(model), a_hash(record), a_hash(c->last),
                a_hash(hash)))
        return false;
    memcpy(c->last, hash, SHA256_BYTES);
    c->next++;
    return true;
}

/* ---- checking -------------------------------------------------------------------------------- */

static bool PRINTF_LIKE(3, 4) say(struct chain_walk *w, int64_t seq, const char *fmt, ...)
{
    va_list ap;
    int n = snprintf(w->problem, sizeof w->problem, "chain entry %lld: ", (long long)seq);
    va_start(ap, fmt);
    (void)vsnprintf(w->problem + n, sizeof w->problem - (size_t)n, fmt, ap);
    va_end(ap);
    return true;
}

static bool check_record(struct store *s, struct chain_walk *w, const struct entry *x,
                         struct err *e)
{
    uint8_t record[SHA256_BYTES];
    int64_t rows;
    if (!chain_record(s, x->kind, x->seq, record, &rows, e)) return false;
    if (rows == 0) return say(w, x->seq, "the %s it seals is missing", x->kind);
    if (rows > 1) return say(w, x->seq, "%lld rows of %s claim it", (long long)rows, x->kind);
    if (memcmp(record, x->record, SHA256_BYTES) != 0)
        return say(w, x->seq, "%s %s is not what was sealed", x->kind, x->subject);
    return true;
}

/* One row of the walk. Returns false only on failure to read; a disagreement is w->problem. */
static bool check_entry(struct store *s, struct chain_walk *w, struct stmt *row, int64_t expected,
                        struct err *e)
{
    uint8_t record[SHA256_BYTES], prev[SHA256_BYTES], hash[SHA256_BYTES], is[SHA256_BYTES];
    struct entry x = {col_int(row, 1),  col_int(row, 0),
                      col_int(row, 2),  col_int(row, 4) != 0,
                      col_text(row, 3), col_text(row, 5),
                      col_text(row, 6), col_text(row, 7),
                      record,           prev};
    if (x.seq != expected) return say(w, expected, "it is missing");
    if (x.format != CHAIN_FORMAT)
        return say(w, x.seq, "format %lld is unknown here", (long long)x.format);
    if (!col_hash(row, 8, record) || !col_hash(row, 9, prev) || !col_hash(row, 10, hash))
        return say(w, x.seq, "a hash is not 32 bytes");
    if (memcmp(prev, w->last, SHA256_BYTES) != 0)
        return say(w, x.seq, "it does not follow from the entry before it");
    hash_entry(&x, is);
    if (memcmp(is, hash, SHA256_BYTES) != 0)
        return say(w, x.seq, "its hash is not that of its fields");
    if (x.time_us < w->time_us) return say(w, x.seq, "its time lies before the entry before it");
    memcpy(w->last, hash, SHA256_BYTES);
    w->time_us = x.time_us;
    return !w->with_records || check_record(s, w, &x, e);
}

bool chain_check(struct store *s, struct chain_walk *w, struct err *e)
{
    bool row, ok;
    int64_t expected = w->from;
    struct stmt *q =
        DB_QUERY(s->db, e,
                 "SELECT seq, format, time_us, author, verified, kind, subject, model, "
                 "record, prev, hash FROM chain WHERE seq BETWEEN ? AND ? ORDER BY seq",
                 a_int(w->from), a_int(w->to));
    if (!q) return false;
    while ((ok = stmt_next(q, &row, e)) && row && !*w->problem)
        if (!(ok = check_entry(s, w, q, expected++, e))) break;
    stmt_done(q);
    if (ok && !*w->problem && expected <= w->to) (void)say(w, expected, "it is missing");
    return ok;
}
