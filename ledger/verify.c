/* Checking a whole ledger, a bounded piece at a time. The phases below run in order up to the bound
 * that was the end of the chain when the check began, so it may run beside a daemon that appends:
 * history under the bound does not change, except that bodies may be pruned, and a prune is on
 * record before its body goes. */
#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "manifest.h"
#include "migrate.h"
#include "verify_int.h"

enum { ENTRIES_PER_STEP = 512, REVISIONS_PER_STEP = 64 };
static const int64_t bytes_per_step = 16 << 20;

bool verify_say(struct verifier *v, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(v->report.problem, sizeof v->report.problem, fmt, ap);
    va_end(ap);
    return true;
}

/* ---- the file -------------------------------------------------------------------------------- */

static bool check_integrity(struct verifier *v, struct err *e)
{
    struct stmt *row;
    if (!db_one(v->s.db, e, &row, "PRAGMA integrity_check(1)", NULL, 0)) return false;
    if (row && strcmp(col_text(row, 0), "ok") != 0)
        (void)verify_say(v, "the database file is damaged: %s", col_text(row, 0));
    stmt_done(row);
    return true;
}

static bool find_bounds(struct verifier *v, struct err *e)
{
    int64_t bodies;
    struct store *s = &v->s;
    if (!db_int(s->db, e, &v->entries, "SELECT max(seq) FROM chain", NULL, 0) ||
        !DB_INT(s->db, e, &v->revisions, "SELECT max(seq) FROM revision WHERE entry <= ?",
                a_int(v->entries)) ||
        !db_int(s->db, e, &bodies, "SELECT count(*) FROM body", NULL, 0))
        return false;
    v->total = v->entries + v->revisions * (v->n_bases ? 2 : 1) + bodies;
    return true;
}

static bool check_file(struct verifier *v, bool *finished, struct err *e)
{
    *finished = true;
    return migrate_check(v->s.db, migrations, n_migrations, e) &&
           migrate_schema(v->s.db, migrations, n_migrations, v->report.problem, e) &&
           (*v->report.problem || check_integrity(v, e)) && find_bounds(v, e);
}

/* ---- the chain ------------------------------------------------------------------------------- */

static bool check_chain(struct verifier *v, bool *finished, struct err *e)
{
    struct chain_walk *w = &v->walk;
    if (v->entries == 0)
        return verify_say(v, "the chain is empty: not even its first entry is there");
    w->from = w->to + 1;
    w->to =
        w->from + ENTRIES_PER_STEP - 1 < v->entries ? w->from + ENTRIES_PER_STEP - 1 : v->entries;
    w->with_records = true;
    if (!chain_check(&v->s, w, e)) return false;
    if (*w->problem) return verify_say(v, "%s", w->problem);
    v->report.chain = v->report.rows = v->done = w->to;
    digest_text(w->last, v->report.head);
    *finished = w->to == v->entries;
    return true;
}

/* A row that no entry seals. (An entry whose row is missing was found by the walk.) */
static bool check_unsealed(struct verifier *v, bool *finished, struct err *e)
{
    static const struct {
        const char *kind, *sql;
    } tables[] = {
#define TABLE(t)                                                                                   \
    {#t, "SELECT x.entry FROM " #t " x LEFT JOIN chain c ON c.seq = x.entry AND c.kind = '" #t     \
         "' WHERE c.seq IS NULL AND x.entry <= ? ORDER BY x.entry LIMIT 1"}
        TABLE(genesis), TABLE(model), TABLE(delta), TABLE(run), TABLE(revision), TABLE(artefact), TABLE(prune),
#undef TABLE
    };
    struct stmt *row;
    for (size_t i = 0; i < sizeof tables / sizeof *tables && !*v->report.problem; i++) {
        if (!DB_ONE(v->s.db, e, &row, tables[i].sql, a_int(v->entries))) return false;
        if (row)
            (void)verify_say(v,
                             "a row of %s claims chain entry %" PRId64 ", which does not seal it",
                             tables[i].kind, col_int(row, 0));
        stmt_done(row);
    }
    *finished = true;
    return true;
}

static bool check_foreign_keys(struct verifier *v, bool *finished, struct err *e)
{
    struct stmt *row;
    *finished = true;
    if (!db_one(v->s.db, e, &row, "PRAGMA foreign_key_check", NULL, 0)) return false;
    if (row)
        (void)verify_say(v, "row %" PRId64 " of %s refers to a row of %s that is not there",
                         col_int(row, 1), col_text(row, 0), col_text(row, 2));
    stmt_done(row);
    return true;
}

/* ---- revisions ------------------------------------------------------------------------------- */

/* Rules a revision must obey, as queries that give a row where one is broken. ?1 is its seq. */
static const struct {
    const char *rule, *sql;
} rules[] = {
    {"it is missing", "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM revision WHERE seq = ?1)"},
    {"a base revision must be its model's first, on main, with the base's digest",
     "SELECT 1 FROM revision r JOIN model m ON m.entry = r.model WHERE r.seq = ?1 AND r.kind = "
     "'base' AND "
     "NOT (r.parent IS NULL AND r.target IS NULL AND r.delta IS NULL AND r.state = r.seq AND "
     "r.depth = 0 AND "
     "r.branch = 'main' AND r.digest = m.base_digest AND "
     "NOT EXISTS (SELECT 1 FROM revision o WHERE o.model = r.model AND o.seq < r.seq))"},
    {"its parent is not the head its branch had",
     "SELECT 1 FROM revision r WHERE r.seq = ?1 AND r.kind <> 'base' AND r.parent IS NOT "
     "(SELECT max(seq) FROM revision o WHERE o.model = r.model AND o.branch = r.branch AND o.seq < "
     "r.seq)"},
    {"a rollback must name an older revision of its model and have its state and digest",
     "SELECT 1 FROM revision r LEFT JOIN revision t ON t.seq = r.target WHERE r.seq = ?1 AND "
     "r.kind = 'rollback' AND NOT coalesce(t.seq < r.seq AND t.model = r.model AND t.digest = "
     "r.digest AND "
     "t.state = r.state AND t.depth = r.depth AND r.delta IS NULL, 0)"},
    {"an edit must add exactly one delta of its model to its parent's state",
     "SELECT 1 FROM revision r LEFT JOIN revision p ON p.seq = r.parent LEFT JOIN delta d ON "
     "d.entry = r.delta "
     "WHERE r.seq = ?1 AND r.kind NOT IN ('base', 'rollback') AND NOT coalesce(d.model = r.model "
     "AND "
     "r.target IS NULL AND r.state = r.seq AND r.depth = p.depth + 1 AND "
     "(SELECT count(*) FROM revision o WHERE o.delta = r.delta) = 1, 0)"},
    {"it has no run of its model", "SELECT 1 FROM revision r LEFT JOIN run x ON x.entry = r.run "
                                   "WHERE r.seq = ?1 AND r.kind <> 'base' AND "
                                   "NOT coalesce(x.model = r.model, 0)"},
};

static bool check_rules(struct verifier *v, int64_t seq, struct err *e)
{
    int64_t broken;
    for (size_t i = 0; i < sizeof rules / sizeof *rules && !*v->report.problem; i++) {
        if (!DB_INT(v->s.db, e, &broken, rules[i].sql, a_int(seq))) return false;
        if (broken) (void)verify_say(v, "revision %" PRId64 ": %s", seq, rules[i].rule);
    }
    return true;
}

/* The manifest of a model's row; kept until another model's is asked for. */
static bool need_manifest(struct verifier *v, int64_t entry, struct err *e)
{
    struct stmt *row;
    struct buf json = {0};
    uint8_t hash[SHA256_BYTES];
    if (v->manifest_of == entry) return true;
    verify_forget_manifest(v);
    if (!DB_ONE(v->s.db, e, &row, "SELECT manifest FROM model WHERE entry = ?", a_int(entry)))
        return false;
    bool ok = (row && col_hash(row, 0, hash)) ||
              err_set(e, ERR_CORRUPT, "model entry %" PRId64 " is missing", entry);
    stmt_done(row);
    ok = ok && body_get(&v->s, hash, &json, e) &&
         manifest_parse(&v->manifest, json.data, json.len, e);
    buf_release(&json);
    if (!ok) return err_while(e, "reading the manifest of chain entry %" PRId64, entry);
    v->manifest_of = entry;
    tensor_state_init(&v->tensors, v->manifest.n);
    return true;
}

void verify_forget_manifest(struct verifier *v)
{
    if (!v->manifest_of) return;
    manifest_release(&v->manifest);
    tensor_state_release(&v->tensors);
    v->manifest_of = 0;
}

/* The digest must follow from the manifest and the hashes of changed tensors, without weights. */
static bool check_digest(struct verifier *v, const struct revision_full *r, struct err *e)
{
    struct lineage way;
    char digest[DIGEST_TEXT];
    if (!need_manifest(v, r->model_entry, e) || !lineage_init(&way, &v->s, r->state, false, e))
        return false;
    bool ok = lineage_tensors(&v->s, &way, &v->manifest, &v->tensors, e);
    lineage_release(&way);
    if (!ok) return false;
    manifest_digest(&v->manifest, &v->tensors, digest);
    if (strcmp(digest, r->rev.digest) != 0)
        return verify_say(
            v, "revision %" PRId64 " (%s): its tensors give the digest %s, the row says %s",
            r->rev.seq, r->rev.id, digest, r->rev.digest);
    v->report.digests++;
    return true;
}

static bool check_revision(struct verifier *v, int64_t seq, struct err *e)
{
    struct revision_full r;
    if (!check_rules(v, seq, e)) return false;
    if (*v->report.problem) return true;
    if (!revision_by_seq(&v->s, seq, &r, e)) return false;
    bool ok = check_digest(v, &r, e);
    revision_release(&r.rev);
    return ok || err_while(e, "checking revision %" PRId64, seq);
}

static bool check_revisions(struct verifier *v, bool *finished, struct err *e)
{
    for (int i = 0; i < REVISIONS_PER_STEP && v->report.seq < v->revisions; i++) {
        if (!check_revision(v, v->report.seq + 1, e)) return false;
        if (*v->report.problem) return true;
        v->report.seq++;
        v->done++;
    }
    *finished = v->report.seq >= v->revisions;
    return true;
}

/* ---- bodies ---------------------------------------------------------------------------------- */

/* Every name of a body: what it is, the entry that names it, its hash. */
#define NAMES                                                                                      \
    "SELECT 'the manifest of ' || id AS what, entry, manifest AS hash FROM model UNION ALL "       \
    "SELECT 'the content of ' || id, entry, content FROM delta UNION ALL "                         \
    "SELECT 'the content of ' || id, entry, content FROM artefact UNION ALL "                      \
    "SELECT 'the request of ' || id, entry, request FROM run WHERE request IS NOT NULL UNION ALL " \
    "SELECT 'the result of ' || id, entry, result FROM run WHERE result IS NOT NULL UNION ALL "    \
    "SELECT 'tensor ' || t.tensor || ' of revision ' || r.seq, r.entry, t.hash FROM revision r "   \
    "JOIN revision_tensor t ON t.revision = r.seq WHERE r.snapshot = 1"

static bool check_names(struct verifier *v, bool *finished, struct err *e)
{
    struct stmt *row;
    *finished = true;
    if (!DB_ONE(
            v->s.db, e, &row,
            "SELECT what, entry FROM (" NAMES
            ") n WHERE entry <= ? AND NOT EXISTS (SELECT 1 FROM body b "
            "WHERE b.hash = n.hash) AND NOT EXISTS (SELECT 1 FROM prune p WHERE p.hash = n.hash) "
            "ORDER BY entry LIMIT 1",
            a_int(v->entries)))
        return false;
    if (row)
        (void)verify_say(v, "chain entry %" PRId64 ": %s is missing", col_int(row, 1),
                         col_text(row, 0));
    stmt_done(row);
    if (*v->report.problem) return true;
    if (!DB_ONE(
            v->s.db, e, &row,
            "SELECT x.entry, x.job FROM run x JOIN job j ON j.id = x.job WHERE x.entry <= ? AND "
            "j.state <> 'done' ORDER BY x.entry LIMIT 1",
            a_int(v->entries)))
        return false;
    if (row)
        (void)verify_say(v, "chain entry %" PRId64 ": its run ended job %s, which says otherwise",
                         col_int(row, 0), col_text(row, 1));
    stmt_done(row);
    return db_int(v->s.db, e, &v->report.pruned,
                  "SELECT count(DISTINCT hash) FROM prune p WHERE NOT EXISTS "
                  "(SELECT 1 FROM body b WHERE b.hash = p.hash)",
                  NULL, 0);
}

/* Say of a bad body who names it. */
static bool blame(struct verifier *v, const uint8_t hash[SHA256_BYTES], const char *why,
                  struct err *e)
{
    struct stmt *row;
    if (!DB_ONE(v->s.db, e, &row,
                "SELECT what, entry FROM (" NAMES ") WHERE hash = ? ORDER BY entry LIMIT 1",
                a_hash(hash)))
        return false;
    if (row)
        (void)verify_say(v, "chain entry %" PRId64 ": %s: %s", col_int(row, 1), col_text(row, 0),
                         why);
    else
        (void)verify_say(v, "%s", why);
    stmt_done(row);
    return true;
}

static bool check_body(struct verifier *v, const uint8_t hash[SHA256_BYTES], struct err *e)
{
    struct buf bytes = {0};
    struct err why;
    enum body_state state = BODY_KEPT;
    bool good = body_get(&v->s, hash, &bytes, &why);
    buf_release(&bytes);
    v->report.objects++;
    if (good) return true;
    if (!body_state(&v->s, hash, &state, e)) return false;
    if (state == BODY_PRUNED) return true; /* while we looked */
    if (why.code != ERR_CORRUPT) {
        *e = why;
        return false;
    }
    return blame(v, hash, why.text, e);
}

static bool next_body(struct verifier *v, uint8_t hash[SHA256_BYTES], int64_t *size, bool *more,
                      struct err *e)
{
    struct stmt *row;
    if (!DB_ONE(v->s.db, e, &row,
                "SELECT rowid, hash, size FROM body WHERE rowid > ? ORDER BY rowid LIMIT 1",
                a_int(v->body)))
        return false;
    *more = row != NULL;
    if (row) {
        v->body = col_int(row, 0);
        (void)col_hash(row, 1, hash);
        *size = col_int(row, 2);
    }
    stmt_done(row);
    return true;
}

static bool check_bodies(struct verifier *v, bool *finished, struct err *e)
{
    uint8_t hash[SHA256_BYTES];
    int64_t size, bytes = 0;
    bool more = true;
    while (bytes < bytes_per_step && !*v->report.problem) {
        if (!next_body(v, hash, &size, &more, e)) return false;
        if (!more) break;
        if (!check_body(v, hash, e)) return false;
        bytes += size + 4096;
        v->done++;
    }
    *finished = !more;
    return true;
}

/* ---- life ------------------------------------------------------------------------------------ */

static bool (*const phases[])(struct verifier *v, bool *finished, struct err *e) = {
    check_file,      check_chain, check_unsealed, check_foreign_keys,
    check_revisions, check_names, check_bodies,   verify_replay,
};
enum { PHASES = sizeof phases / sizeof *phases };

struct verifier *verifier_open(const char *dir, const struct verify_base *bases, size_t n,
                               struct err *e)
{
    struct verifier *v = mem_new(sizeof *v);
    v->bases = mem_new((n + 1) * sizeof *v->bases);
    for (size_t i = 0; i < n; i++)
        v->bases[v->n_bases++] = (struct verify_base){model_retain(bases[i].model), bases[i].digests};
    if (store_open_reader(&v->s, dir, e)) return v;
    verifier_close(v);
    return NULL;
}

static bool end(struct verifier *v)
{
    v->report.ok = !*v->report.problem;
    v->phase = PHASES;
    return true;
}

bool verifier_step(struct verifier *v, bool *more, struct err *e)
{
    bool finished = false;
    struct err why;
    *more = false;
    if (v->phase == PHASES) return true;
    if (!phases[v->phase](v, &finished, &why)) {
        /* What contradicts itself is a finding; what could not be read is an error. */
        if (why.code != ERR_CORRUPT && why.code != ERR_UNSUPPORTED && why.code != ERR_NOT_FOUND) {
            *e = why;
            return false;
        }
        (void)verify_say(v, "%s", why.text);
    }
    if (*v->report.problem) return end(v);
    if (finished) v->phase++;
    if (v->phase == PHASES) return end(v);
    *more = true;
    return true;
}

void verifier_progress(const struct verifier *v, int64_t *done, int64_t *total)
{
    *done = v->done;
    *total = v->total < v->done ? v->done : v->total;
}

void verifier_report(const struct verifier *v, struct verify_report *out)
{
    *out = v->report;
}

void verifier_close(struct verifier *v)
{
    if (!v) return;
    verify_forget_manifest(v);
    verify_replay_release(v);
    db_close(v->s.db);
    mem_drop(v->s.dir);
    for (size_t i = 0; i < v->n_bases; i++) model_drop(v->bases[i].model);
    mem_drop(v->bases);
    mem_drop(v);
}
