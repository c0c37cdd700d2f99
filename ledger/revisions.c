#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "manifest.h"
#include "store.h"

static const char *const kind_words[] = {
    [REV_BASE] = "base",     [REV_EDIT] = "edit",       [REV_ROLLBACK] = "rollback",
    [REV_REVERT] = "revert", [REV_COMBINE] = "combine", [REV_IMPORT] = "import",
    [REV_PRUNE] = "prune",
};
static_assert(sizeof kind_words / sizeof *kind_words == REV_KIND_COUNT, "one word per kind");

const char *revision_kind_word(enum revision_kind k)
{
    assert((unsigned)k < REV_KIND_COUNT);
    return kind_words[k];
}

void revision_release(struct revision *r)
{
    mem_drop(r->message);
    mem_drop(r->summary);
    r->message = r->summary = NULL;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* The columns of every query here, in the order `take` reads them. */
#define COLUMNS                                                                                    \
    "SELECT r.seq, r.id, m.id, r.branch, p.id, r.kind, t.id, CASE WHEN r.delta THEN x.id END, "    \
    "d.id, "                                                                                       \
    "r.digest, c.author, c.verified, c.time_us, r.message, r.summary, r.entry, r.model, "          \
    "r.parent, "                                                                                   \
    "r.state, r.depth, r.snapshot FROM revision r JOIN chain c ON c.seq = r.entry "                \
    "JOIN model m ON m.entry = r.model LEFT JOIN revision p ON p.seq = r.parent "                  \
    "LEFT JOIN revision t ON t.seq = r.target LEFT JOIN run x ON x.entry = r.run "                 \
    "LEFT JOIN delta d ON d.entry = r.delta "

static bool take_kind(const char *word, enum revision_kind *out)
{
    for (int k = 0; k < REV_KIND_COUNT; k++)
        if (strcmp(kind_words[k], word) == 0) {
            *out = (enum revision_kind)k;
            return true;
        }
    return false;
}

static bool take(struct stmt *row, struct revision_full *out, struct err *e)
{
    struct revision *r = &out->rev;
    memset(out, 0, sizeof *out);
    r->seq = col_int(row, 0);
    col_copy(row, 1, r->id, sizeof r->id);
    if (!take_kind(col_text(row, 5), &r->kind))
        return err_set(e, ERR_CORRUPT, "revision %s has the unknown kind %s", r->id,
                       col_text(row, 5));
    col_copy(row, 2, r->model, sizeof r->model);
    col_copy(row, 3, r->branch, sizeof r->branch);
    col_copy(row, 4, r->parent, sizeof r->parent);
    col_copy(row, 6, r->to, sizeof r->to);
    col_copy(row, 7, r->edit, sizeof r->edit);
    col_copy(row, 8, r->delta, sizeof r->delta);
    col_copy(row, 9, r->digest, sizeof r->digest);
    col_copy(row, 10, r->author, sizeof r->author);
    r->author_verified = col_int(row, 11) != 0;
    r->created_us = col_int(row, 12);
    r->message = mem_text(col_text(row, 13));
    r->summary = col_type(row, 14) ? mem_text(col_text(row, 14)) : NULL;
    out->entry = col_int(row, 15);
    out->model_entry = col_int(row, 16);
    out->parent_seq = col_int(row, 17);
    out->state = col_int(row, 18);
    out->depth = col_int(row, 19);
    out->snapshot = col_int(row, 20) != 0;
    return true;
}

/* The one row of a query, or ERR_NOT_FOUND. */
static bool take_one(struct stmt *row, struct revision_full *out, struct err *e, const char *what)
{
    if (!row) return err_set(e, ERR_NOT_FOUND, "no revision %s", what);
    bool ok = take(row, out, e);
    stmt_done(row);
    return ok;
}

bool revision_by_id(struct store *s, const char *id, struct revision_full *out, struct err *e)
{
    struct stmt *row;
    return DB_ONE(s->db, e, &row, COLUMNS "WHERE r.id = ?", a_text(id)) &&
           take_one(row, out, e, id);
}

bool revision_by_seq(struct store *s, int64_t seq, struct revision_full *out, struct err *e)
{
    struct stmt *row;
    char what[32];
    (void)snprintf(what, sizeof what, "%lld", (long long)seq);
    return DB_ONE(s->db, e, &row, COLUMNS "WHERE r.seq = ?", a_int(seq)) &&
           take_one(row, out, e, what);
}

bool revision_head(struct store *s, const char *model, const char *branch,
                   struct revision_full *out, struct err *e)
{
    struct stmt *row;
    return DB_ONE(s->db, e, &row,
                  COLUMNS "WHERE r.model = (SELECT entry FROM model WHERE id = ?) AND r.branch = ? "
                          "ORDER BY r.seq DESC LIMIT 1",
                  a_text(model), a_text(branch)) &&
           take_one(row, out, e, branch);
}

bool ledger_head(struct ledger_reader *r, const char *model, const char *branch,
                 struct revision *out, struct err *e)
{
    struct revision_full full;
    if (!revision_head(&r->s, model, branch, &full, e)) return false;
    *out = full.rev;
    return true;
}

bool ledger_revision(struct ledger_reader *r, const char *id, struct revision *out, struct err *e)
{
    struct revision_full full;
    if (!revision_by_id(&r->s, id, &full, e)) return false;
    *out = full.rev;
    return true;
}

/* ---- lists ----------------------------------------------------------------------------------- */

struct revision_sink {
    void (*each)(void *ctx, const struct revision *rev);
    void (*each_branch)(void *ctx, const char *branch, const struct revision *head);
    void *ctx;
};

static bool list(struct stmt *q, const struct revision_sink *sink, struct err *e)
{
    bool row, ok;
    struct revision_full full;
    if (!q) return false;
    while ((ok = stmt_next(q, &row, e)) && row && (ok = take(q, &full, e))) {
        if (sink->each)
            sink->each(sink->ctx, &full.rev);
        else
            sink->each_branch(sink->ctx, full.rev.branch, &full.rev);
        revision_release(&full.rev);
    }
    stmt_done(q);
    return ok;
}

bool ledger_revisions(struct ledger_reader *r, const char *model, const char *branch, int limit,
                      int64_t before_seq, void (*each)(void *ctx, const struct revision *rev),
                      void *ctx, struct err *e)
{
    struct revision_sink sink = {.each = each, .ctx = ctx};
    int64_t entry, before = before_seq > 0 ? before_seq : INT64_MAX;
    if (!model_entry(&r->s, model, &entry, e)) return false;
    if (branch)
        return list(DB_QUERY(r->s.db, e,
                             COLUMNS "WHERE r.model = ? AND r.branch = ? AND r.seq < ? "
                                     "ORDER BY r.seq DESC LIMIT ?",
                             a_int(entry), a_text(branch), a_int(before), a_int(limit)),
                    &sink, e);
    return list(DB_QUERY(r->s.db, e,
                         COLUMNS "WHERE r.model = ? AND r.seq < ? ORDER BY r.seq DESC LIMIT ?",
                         a_int(entry), a_int(before), a_int(limit)),
                &sink, e);
}

bool ledger_branches(struct ledger_reader *r, const char *model,
                     void (*each)(void *ctx, const char *branch, const struct revision *head),
                     void *ctx, struct err *e)
{
    struct revision_sink sink = {.each_branch = each, .ctx = ctx};
    int64_t entry;
    return model_entry(&r->s, model, &entry, e) &&
           list(DB_QUERY(r->s.db, e,
                         COLUMNS "WHERE r.seq IN (SELECT max(seq) FROM revision "
                                 "WHERE model = ? GROUP BY branch) ORDER BY r.branch",
                         a_int(entry)),
                &sink, e);
}

/* ---- appending ------------------------------------------------------------------------------- */

static bool append_tensors(struct store *s, int64_t seq, const struct manifest *m,
                           const struct tensor_state *tensors, struct err *e)
{
    for (size_t i = 0; tensors && i < tensors->n; i++)
        if (tensors->changed[i] &&
            !DB_RUN(s->db, e,
                    "INSERT INTO revision_tensor (revision, tensor, hash) VALUES (?, ?, ?)",
                    a_int(seq), a_text(m->tensor[i].name), a_hash(tensors->hash[i])))
            return false;
    return true;
}

bool revision_append(struct chain *c, struct revision_full *r, int64_t target, int64_t delta,
                     int64_t run, const struct manifest *m, const struct tensor_state *tensors,
                     struct err *e)
{
    struct revision *v = &r->rev;
    int64_t last;
    if (!db_int(c->s->db, e, &last, "SELECT max(seq) FROM revision", NULL, 0)) return false;
    v->seq = last + 1;
    v->created_us = c->time_us;
    r->entry = c->next;
    if (!r->state) r->state = v->seq;
    return DB_RUN(c->s->db, e,
                  "INSERT INTO revision (seq, entry, id, model, branch, parent, kind, target, "
                  "state, depth, "
                  "snapshot, delta, run, digest, message, summary) "
                  "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                  a_int(v->seq), a_int(r->entry), a_text(v->id), a_int(r->model_entry),
                  a_text(v->branch), a_ref(r->parent_seq), a_text(revision_kind_word(v->kind)),
                  a_ref(target), a_int(r->state), a_int(r->depth), a_int(r->snapshot), a_ref(delta),
                  a_ref(run), a_text(v->digest), a_text(v->message), a_text(v->summary)) &&
           append_tensors(c->s, v->seq, m, tensors, e) &&
           chain_seal(c, "revision", v->id, v->model, v->author, v->author_verified, e);
}
