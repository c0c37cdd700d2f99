#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "manifest.h"
#include "store.h"

/* ---- the way to a state ---------------------------------------------------------------------- */

static bool objects_kept(struct store *s, int64_t seq, bool *out, struct err *e)
{
    int64_t missing;
    if (!DB_INT(s->db, e, &missing,
                "SELECT count(*) FROM revision_tensor t WHERE t.revision = ? AND "
                "EXISTS (SELECT 1 FROM prune p WHERE p.hash = t.hash) AND "
                "NOT EXISTS (SELECT 1 FROM body b WHERE b.hash = t.hash)",
                a_int(seq)))
        return false;
    *out = missing == 0;
    return true;
}

struct link {
    int64_t parent_state, delta;
    bool snapshot;
};

static bool read_link(struct store *s, int64_t seq, struct link *out, struct err *e)
{
    struct stmt *row;
    if (!DB_ONE(s->db, e, &row,
                "SELECT p.state, r.delta, r.snapshot FROM revision r LEFT JOIN revision p ON p.seq "
                "= r.parent "
                "WHERE r.seq = ? AND r.state = r.seq",
                a_int(seq)))
        return false;
    if (!row) return err_set(e, ERR_CORRUPT, "revision %" PRId64 " is no state of its own", seq);
    *out = (struct link){col_int(row, 0), col_int(row, 1), col_int(row, 2) != 0};
    stmt_done(row);
    if (out->delta && (out->parent_state <= 0 || out->parent_state >= seq))
        return err_set(e, ERR_CORRUPT, "revision %" PRId64 " does not follow an older one", seq);
    return true;
}

static bool push(struct lineage *l, size_t *cap, int64_t seq, struct err *e)
{
    if (l->n == *cap) {
        size_t grown = *cap ? *cap * 2 : SNAPSHOT_EVERY;
        int64_t *more = mem_take(grown, sizeof *more, e);
        if (!more) return false;
        if (l->n) memcpy(more, l->seq, l->n * sizeof *more);
        mem_drop(l->seq);
        l->seq = more;
        *cap = grown;
    }
    l->seq[l->n++] = seq;
    return true;
}

static void turn_round(struct lineage *l)
{
    for (size_t i = 0; i < l->n / 2; i++) {
        int64_t t = l->seq[i];
        l->seq[i] = l->seq[l->n - 1 - i];
        l->seq[l->n - 1 - i] = t;
    }
}

bool lineage_init(struct lineage *l, struct store *s, int64_t state, bool from_base, struct err *e)
{
    size_t cap = 0;
    struct link at = {0};
    *l = (struct lineage){.from_base = true};
    for (;;) {
        bool kept = false, ok = read_link(s, state, &at, e);
        if (ok && at.snapshot && !from_base) ok = objects_kept(s, state, &kept, e);
        if (ok && (kept || !at.delta)) break;
        if (!ok || !push(l, &cap, state, e)) {
            lineage_release(l);
            return false;
        }
        state = at.parent_state;
    }
    l->start = state;
    l->from_base = !at.delta;
    turn_round(l);
    return true;
}

void lineage_release(struct lineage *l)
{
    mem_drop(l->seq);
    *l = (struct lineage){0};
}

/* ---- what lies on it ------------------------------------------------------------------------- */

bool revision_tensors(struct store *s, int64_t seq, const struct manifest *m,
                      struct tensor_state *out, struct err *e)
{
    bool row, ok;
    size_t i;
    struct stmt *q = DB_QUERY(
        s->db, e, "SELECT tensor, hash FROM revision_tensor WHERE revision = ?", a_int(seq));
    if (!q) return false;
    while ((ok = stmt_next(q, &row, e)) && row) {
        if (!manifest_find(m, col_text(q, 0), &i) || !col_hash(q, 1, out->hash[i])) {
            ok = err_set(e, ERR_CORRUPT, "revision %" PRId64 " changes %s, which the model has not",
                         seq, col_text(q, 0));
            break;
        }
        out->changed[i] = true;
    }
    stmt_done(q);
    return ok;
}

bool lineage_tensors(struct store *s, const struct lineage *l, const struct manifest *m,
                     struct tensor_state *out, struct err *e)
{
    tensor_state_clear(out);
    if (!l->from_base && !revision_tensors(s, l->start, m, out, e)) return false;
    for (size_t i = 0; i < l->n; i++)
        if (!revision_tensors(s, l->seq[i], m, out, e)) return false;
    return true;
}

bool revision_delta(struct store *s, int64_t seq, struct buf *out, struct err *e)
{
    struct stmt *row;
    uint8_t hash[SHA256_BYTES];
    if (!DB_ONE(s->db, e, &row,
                "SELECT d.content FROM revision r JOIN delta d ON d.entry = r.delta "
                "WHERE r.seq = ?",
                a_int(seq)))
        return false;
    bool ok = row && col_hash(row, 0, hash);
    stmt_done(row);
    if (!ok) return err_set(e, ERR_CORRUPT, "revision %" PRId64 " has no delta", seq);
    return body_get(s, hash, out, e) || err_while(e, "reading the delta of revision %" PRId64, seq);
}
