#include <inttypes.h>
#include <string.h>

#include "manifest.h"
#include "store.h"

/* A view under reconstruction: *v is replaced by its successor. */
static bool advance(struct view **v, struct view *next)
{
    if (!next) return false;
    view_drop(*v);
    *v = next;
    return true;
}

static bool load_tensor(struct store *s, struct view **v, size_t tensor, const uint8_t *hash,
                        struct err *e)
{
    const struct tensor *t = &view_model(*v)->tensors[tensor];
    struct buf bytes = {0};
    float *data = mem_floats(t->n_elements, e);
    bool ok = data && body_get(s, hash, &bytes, e);
    if (ok && bytes.len != t->n_elements * sizeof(float))
        ok = err_set(e, ERR_CORRUPT, "%zu bytes instead of %zu floats", bytes.len, t->n_elements);
    if (ok) {
        memcpy(data, bytes.data, bytes.len);
        ok = advance(v, view_with_tensors(*v, &tensor, (const float *const[]){data}, 1, e));
    }
    buf_release(&bytes);
    mem_drop(data);
    return ok || err_while(e, "loading the kept bytes of %s", t->name);
}

static bool load_snapshot(struct store *s, struct view **v, int64_t seq, const struct manifest *m,
                          struct err *e)
{
    struct tensor_state kept;
    tensor_state_init(&kept, m->n);
    bool ok = revision_tensors(s, seq, m, &kept, e);
    for (size_t i = 0; ok && i < kept.n; i++)
        if (kept.changed[i]) ok = load_tensor(s, v, i, kept.hash[i], e);
    tensor_state_release(&kept);
    return ok || err_while(e, "loading revision %" PRId64, seq);
}

static bool apply_delta(struct store *s, struct view **v, int64_t seq, struct err *e)
{
    struct buf bytes = {0};
    struct delta *d = NULL;
    bool ok = revision_delta(s, seq, &bytes, e) &&
              (d = delta_read(bytes.data, bytes.len, view_model(*v), e)) != NULL &&
              advance(v, view_with_delta(*v, d, e));
    delta_free(d);
    buf_release(&bytes);
    return ok || err_while(e, "applying revision %" PRId64, seq);
}

/* Compare what was rebuilt with what was recorded, tensor by tensor and as a whole. */
static bool compare(const struct view *v, const struct manifest *m, const struct tensor_state *want,
                    const struct revision *rev, struct err *e)
{
    uint8_t hash[SHA256_BYTES];
    char digest[DIGEST_TEXT];
    for (size_t i = 0; i < m->n; i++) {
        bool same = view_changes(v, i) == want->changed[i];
        if (same && want->changed[i]) {
            digest_tensor(v, i, hash);
            same = memcmp(hash, want->hash[i], SHA256_BYTES) == 0;
        }
        if (!same)
            return err_set(e, ERR_CORRUPT,
                           "revision %" PRId64 " (%s): tensor %s is not what was recorded",
                           rev->seq, rev->id, m->tensor[i].name);
    }
    manifest_digest(m, want, digest);
    return strcmp(digest, rev->digest) == 0 ||
           err_set(e, ERR_CORRUPT,
                   "revision %" PRId64 " (%s): its view has the digest %s, the row says %s",
                   rev->seq, rev->id, digest, rev->digest);
}

static bool rebuild(struct store *s, struct view **v, const struct lineage *l,
                    const struct manifest *m, const struct revision *rev, struct err *e)
{
    struct tensor_state want;
    tensor_state_init(&want, m->n);
    bool ok =
        lineage_tensors(s, l, m, &want, e) && (l->from_base || load_snapshot(s, v, l->start, m, e));
    for (size_t i = 0; ok && i < l->n; i++) ok = apply_delta(s, v, l->seq[i], e);
    ok = ok && compare(*v, m, &want, rev, e);
    tensor_state_release(&want);
    return ok;
}

static bool same_base(struct store *s, const struct revision_full *r, const struct base_digests *d,
                      struct err *e)
{
    struct stmt *row;
    if (!DB_ONE(s->db, e, &row, "SELECT base_digest FROM model WHERE entry = ?",
                a_int(r->model_entry)))
        return false;
    bool same = row && strcmp(col_text(row, 0), d->base) == 0;
    stmt_done(row);
    return same || err_set(e, ERR_CONFLICT, "revision %s belongs to another model", r->rev.id);
}

bool ledger_touched(struct ledger_reader *r, const char *model, const struct model *m, size_t *all,
                    size_t *largest, struct err *e)
{
    bool row, ok;
    size_t i;
    struct stmt *q = DB_QUERY(r->s.db, e,
                              "SELECT DISTINCT t.tensor FROM revision_tensor t JOIN revision v ON v.seq = t.revision "
                              "JOIN model m ON m.entry = v.model WHERE m.id = ?", a_text(model));
    *all = *largest = 0;
    if (!q) return false;
    while ((ok = stmt_next(q, &row, e)) && row) {
        if (!model_find(m, col_text(q, 0), &i)) continue; /* restoring will say so */
        size_t bytes = mem_floats_bytes(m->tensors[i].n_elements);
        *all += bytes;
        if (bytes > *largest) *largest = bytes;
    }
    stmt_done(q);
    return ok;
}

struct view *ledger_restore(struct ledger_reader *r, struct model *m, const struct base_digests *d,
                            const char *revision, struct err *e)
{
    struct revision_full full;
    struct lineage way;
    if (!revision_by_id(&r->s, revision, &full, e)) return NULL;
    bool ok = same_base(&r->s, &full, d, e) && lineage_init(&way, &r->s, full.state, false, e);
    struct view *v = NULL;
    if (ok) {
        struct manifest manifest;
        v = view_base(m);
        manifest_init(&manifest, m, d);
        ok = rebuild(&r->s, &v, &way, &manifest, &full.rev, e);
        manifest_release(&manifest);
        lineage_release(&way);
    }
    revision_release(&full.rev);
    if (ok) return v;
    view_drop(v);
    (void)err_while(e, "restoring %s", revision);
    return NULL;
}
