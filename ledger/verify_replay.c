/* Rebuilding every revision of the given models from their bases, one model after the other, delta
 * by delta, never from kept tensors, and comparing what comes out with what was recorded. One delta
 * a step. */
#include <inttypes.h>
#include <string.h>

#include "verify_int.h"

static const struct verify_base *base_of(const struct verifier *v) { return &v->bases[v->replay.base]; }

static bool begin(struct verifier *v, struct err *e)
{
    struct replay *p = &v->replay;
    const struct verify_base *b = base_of(v);
    if (!DB_INT(v->s.db, e, &p->model_entry, "SELECT entry FROM model WHERE base_digest = ?",
                a_text(b->digests->base)))
        return false;
    if (!p->model_entry)
        return verify_say(v, "the ledger does not know this model, whose base digest is %s",
                          b->digests->base);
    manifest_init(&p->manifest, b->model, b->digests);
    tensor_state_init(&p->tensors, p->manifest.n);
    p->view = view_base(b->model);
    return true;
}

void verify_replay_release(struct verifier *v)
{
    struct replay *p = &v->replay;
    lineage_release(&p->way);
    view_drop(p->view);
    tensor_state_release(&p->tensors);
    manifest_release(&p->manifest);
    *p = (struct replay){.base = p->base};
}

/* Apply the delta of a revision to the view and hash what it touched. */
static bool apply(struct verifier *v, int64_t seq, struct err *e)
{
    struct replay *p = &v->replay;
    struct buf bytes = {0};
    struct delta *d = NULL;
    struct view *next = NULL;
    bool ok = revision_delta(&v->s, seq, &bytes, e) &&
              (d = delta_read(bytes.data, bytes.len, base_of(v)->model, e)) != NULL &&
              (next = view_with_delta(p->view, d, e)) != NULL;
    if (ok) {
        view_drop(p->view);
        p->view = next;
        p->state = seq;
        for (size_t i = 0; i < d->n_parts; i++) {
            size_t t = d->parts[i].tensor;
            p->tensors.changed[t] = true;
            digest_tensor(next, t, p->tensors.hash[t]);
        }
    }
    delta_free(d);
    buf_release(&bytes);
    return ok || err_while(e, "replaying revision %" PRId64, seq);
}

static bool under_way(const struct replay *p, int64_t state)
{
    const struct lineage *w = &p->way;
    return p->applied < w->n && w->seq[w->n - 1] == state &&
           p->state == (p->applied ? w->seq[p->applied - 1] : w->start);
}

/* Find the way to a state; go on from the view at hand if it lies on it, else from the base. */
static bool aim(struct verifier *v, int64_t state, struct err *e)
{
    struct replay *p = &v->replay;
    lineage_release(&p->way);
    if (!lineage_init(&p->way, &v->s, state, true, e)) return false;
    for (p->applied = p->way.n; p->applied > 0; p->applied--)
        if (p->way.seq[p->applied - 1] == p->state) return true;
    view_drop(p->view);
    p->view = view_base(base_of(v)->model);
    tensor_state_clear(&p->tensors);
    p->state = p->way.start;
    return true;
}

static bool compare(struct verifier *v, const struct revision_full *r, struct err *e)
{
    struct replay *p = &v->replay;
    struct tensor_state recorded;
    char digest[DIGEST_TEXT];
    tensor_state_init(&recorded, p->manifest.n);
    bool ok = revision_tensors(&v->s, r->state, &p->manifest, &recorded, e);
    for (size_t i = 0; ok && i < recorded.n && !*v->report.problem; i++)
        if (recorded.changed[i] &&
            (!p->tensors.changed[i] ||
             memcmp(recorded.hash[i], p->tensors.hash[i], SHA256_BYTES) != 0))
            (void)verify_say(v,
                             "revision %" PRId64
                             " (%s): replayed from the base, tensor %s is not what was recorded",
                             r->rev.seq, r->rev.id, p->manifest.tensor[i].name);
    tensor_state_release(&recorded);
    manifest_digest(&p->manifest, &p->tensors, digest);
    if (ok && !*v->report.problem && strcmp(digest, r->rev.digest) != 0)
        (void)verify_say(v,
                         "revision %" PRId64
                         " (%s): replayed from the base its digest is %s, the row says %s",
                         r->rev.seq, r->rev.id, digest, r->rev.digest);
    return ok;
}

/* The usual next revision adds one delta to the view at hand. */
static bool follows(struct verifier *v, const struct revision_full *r, bool *out, struct err *e)
{
    struct revision_full parent;
    *out = false;
    if (!v->replay.state || r->state != r->rev.seq || !r->parent_seq) return true;
    if (!revision_by_seq(&v->s, r->parent_seq, &parent, e)) return false;
    *out = parent.state == v->replay.state;
    revision_release(&parent.rev);
    return true;
}

/* One delta towards the state of revision r; *reached when it is there and was compared. */
static bool approach(struct verifier *v, const struct revision_full *r, bool *reached,
                     struct err *e)
{
    struct replay *p = &v->replay;
    bool next;
    if (p->state != r->state && !under_way(p, r->state)) {
        if (!follows(v, r, &next, e)) return false;
        if (next ? !apply(v, r->state, e) : !aim(v, r->state, e)) return false;
    }
    if (p->state != r->state && !apply(v, p->way.seq[p->applied++], e)) return false;
    *reached = p->state == r->state;
    return !*reached || compare(v, r, e);
}

static bool next_revision(struct verifier *v, struct revision_full *r, bool *more, struct err *e)
{
    int64_t seq;
    if (!DB_INT(v->s.db, e, &seq,
                "SELECT min(seq) FROM revision WHERE model = ? AND seq > ? AND seq <= ?",
                a_int(v->replay.model_entry), a_int(v->replay.seq), a_int(v->revisions)))
        return false;
    *more = seq != 0;
    return !*more || revision_by_seq(&v->s, seq, r, e);
}

bool verify_replay(struct verifier *v, bool *finished, struct err *e)
{
    struct revision_full r;
    bool more, reached = false;
    *finished = v->replay.base == v->n_bases;
    if (*finished) return true;
    if (!v->replay.view && !begin(v, e)) return false;
    if (*v->report.problem) return true;
    if (!next_revision(v, &r, &more, e)) return false;
    if (!more) {
        verify_replay_release(v);
        v->replay.base++;
        return true;
    }
    bool ok = approach(v, &r, &reached, e);
    if (ok && reached) {
        v->replay.seq = r.rev.seq;
        v->done++;
    }
    revision_release(&r.rev);
    return ok;
}
