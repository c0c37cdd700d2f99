/* One commit, one synced transaction: delta, run, revision, idempotent answer, end of the job.
 *
 * The effect is proven before it is written: the delta is applied once more to the view the caller
 * started from, the rebuilt tensors are hashed, and the digest of parent plus delta must be the one
 * the caller is about to report. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "manifest.h"
#include "store.h"

struct committing {
    struct ledger *l;
    const struct commit *c;
    struct chain chain;
    struct revision_full head, next;
    int64_t target; /* rollback: its row */
    int64_t delta_entry, run_entry;
    struct manifest manifest;     /* edits only */
    struct tensor_state recorded; /* edits only: what the revision records */
};

/* ---- rollback -------------------------------------------------------------------------------- */

static bool plan_rollback(struct committing *k, struct err *e)
{
    struct revision_full to;
    if (!revision_by_id(&k->l->s, k->c->to ? k->c->to : "", &to, e)) return false;
    bool ok = true;
    if (to.model_entry != k->head.model_entry)
        ok = err_set(e, ERR_INVALID, "revision %s belongs to another model", to.rev.id);
    else if (strcmp(to.rev.digest, k->c->digest) != 0)
        ok = err_set(e, ERR_CORRUPT, "the view of %s has the digest %s, its row says %s", to.rev.id,
                     k->c->digest, to.rev.digest);
    k->target = to.rev.seq;
    k->next.state = to.state;
    k->next.depth = to.depth;
    (void)snprintf(k->next.rev.to, sizeof k->next.rev.to, "%s", to.rev.id);
    revision_release(&to.rev);
    return ok;
}

/* ---- edits ----------------------------------------------------------------------------------- */

/* The caller's view must be the head's, or the delta was proven on something else. */
static bool same_before(struct committing *k, size_t tensor, const struct tensor_state *all,
                        struct err *e)
{
    uint8_t hash[SHA256_BYTES];
    bool same = view_changes(k->c->before, tensor) == all->changed[tensor];
    if (same && all->changed[tensor]) {
        digest_tensor(k->c->before, tensor, hash);
        same = memcmp(hash, all->hash[tensor], SHA256_BYTES) == 0;
    }
    return same || err_set(e, ERR_INTERNAL, "the view before is not that of %s: tensor %s differs",
                           k->head.rev.id, k->manifest.tensor[tensor].name);
}

/* Hash what the delta touched in the rebuilt view, over the tensors the parent's state records. */
static bool collect(struct committing *k, const struct delta *d, const struct view *rebuilt,
                    struct tensor_state *all, struct err *e)
{
    struct lineage way;
    if (!lineage_init(&way, &k->l->s, k->head.state, false, e)) return false;
    bool ok = lineage_tensors(&k->l->s, &way, &k->manifest, all, e);
    lineage_release(&way);
    for (size_t i = 0; ok && i < d->n_parts; i++) {
        size_t t = d->parts[i].tensor;
        if (k->recorded.changed[t]) continue; /* a second part of the same tensor */
        if (!same_before(k, t, all, e)) return false;
        k->recorded.changed[t] = all->changed[t] = true;
        digest_tensor(rebuilt, t, all->hash[t]);
        memcpy(k->recorded.hash[t], all->hash[t], SHA256_BYTES);
    }
    return ok;
}

static bool same_digest(struct committing *k, const struct tensor_state *all, struct err *e)
{
    char digest[DIGEST_TEXT];
    manifest_digest(&k->manifest, all, digest);
    return strcmp(digest, k->c->digest) == 0 ||
           err_set(e, ERR_INTERNAL, "revision %s plus this delta has the digest %s, not %s",
                   k->head.rev.id, digest, k->c->digest);
}

/* Every changed tensor as an object, so that restoring starts here. */
static bool keep_snapshot(struct committing *k, const struct view *v,
                          const struct tensor_state *all, struct err *e)
{
    uint8_t hash[SHA256_BYTES];
    k->next.snapshot = true;
    for (size_t i = 0; i < all->n; i++) {
        const struct tensor *t = &view_model(v)->tensors[i];
        if (!all->changed[i]) continue;
        digest_tensor(v, i, hash);
        if (memcmp(hash, all->hash[i], SHA256_BYTES) != 0)
            return err_set(e, ERR_INTERNAL, "tensor %s is not what its revision recorded", t->name);
        /* What a delta has touched is float32 memory of the view's own. */
        if (!body_put_object(&k->l->s, hash, view_matrix(v, i).data, t->n_elements * sizeof(float), e))
            return err_while(e, "keeping %s", t->name);
        k->recorded.changed[i] = true;
        memcpy(k->recorded.hash[i], hash, SHA256_BYTES);
    }
    return true;
}

static void describe_parts(const struct delta *d, const struct model *m, struct buf *json)
{
    for (size_t i = 0; i < d->n_parts; i++) {
        const struct delta_part *p = &d->parts[i];
        const struct tensor *t = &m->tensors[p->tensor];
        buf_text(json, i ? ",{\"tensor\":" : "[{\"tensor\":");
        json_quote(json, t->name);
        buf_printf(json, ",\"kind\":\"%s\",\"rows\":%u,\"cols\":%u", delta_kind_word(p->kind),
                   t->rows, t->cols);
        if (p->kind == DELTA_LOWRANK) buf_printf(json, ",\"rank\":%u", p->rank);
        buf_printf(json, ",\"norm\":%.17g}", delta_norm(p, t->rows, t->cols));
    }
    buf_text(json, d->n_parts ? "]" : "[]");
}

static bool append_delta(struct committing *k, const struct delta *d, struct err *e)
{
    const struct commit *c = k->c;
    struct store *s = &k->l->s;
    uint8_t hash[SHA256_BYTES];
    struct buf parts = {0};
    ledger_new_id("delta", k->next.rev.delta);
    describe_parts(d, view_model(c->before), &parts);
    k->delta_entry = k->chain.next;
    bool ok = buf_ok(&parts, e) && body_put(s, c->delta_bytes, c->delta_len, hash, e) &&
              DB_RUN(s->db, e,
                     "INSERT INTO delta (entry, id, model, method, parts, size, content) VALUES "
                     "(?, ?, ?, ?, ?, ?, ?)",
                     a_int(k->delta_entry), a_text(k->next.rev.delta), a_int(k->head.model_entry),
                     a_text(c->method ? c->method : ""), a_text(parts.data),
                     a_int((int64_t)c->delta_len), a_hash(hash)) &&
              chain_seal(&k->chain, "delta", k->next.rev.delta, c->model, c->by.author,
                         c->by.author_verified, e);
    buf_release(&parts);
    return ok;
}

static bool record_effect(struct committing *k, const struct delta *d, struct err *e)
{
    /* Views are counted and immutable: borrowing a parent for one more child is no write. */
    struct view *before = (struct view *)(uintptr_t)k->c->before;
    struct view *rebuilt = view_with_delta(before, d, e);
    struct tensor_state all;
    if (!rebuilt) return false;
    tensor_state_init(&all, k->manifest.n);
    bool ok = collect(k, d, rebuilt, &all, e) && same_digest(k, &all, e) &&
              (k->next.depth % SNAPSHOT_EVERY != 0 || keep_snapshot(k, rebuilt, &all, e));
    tensor_state_release(&all);
    view_drop(rebuilt);
    return ok && append_delta(k, d, e);
}

static bool plan_edit(struct committing *k, struct err *e)
{
    const struct commit *c = k->c;
    if (!c->before || !c->base || !c->delta_bytes)
        return err_set(e, ERR_INTERNAL,
                       "a commit of this kind needs its delta and the view before");
    struct delta *d = delta_read(c->delta_bytes, c->delta_len, view_model(c->before), e);
    if (!d) return false;
    k->next.depth = k->head.depth + 1;
    manifest_init(&k->manifest, view_model(c->before), c->base);
    tensor_state_init(&k->recorded, k->manifest.n);
    bool ok = record_effect(k, d, e);
    delta_free(d);
    return ok;
}

/* ---- all together ---------------------------------------------------------------------------- */

static bool (*const plans[REV_KIND_COUNT])(struct committing *k, struct err *e) = {
    [REV_ROLLBACK] = plan_rollback,
    [REV_EDIT] = plan_edit,
    [REV_COMBINE] = plan_edit,
    [REV_IMPORT] = plan_edit,
};

static bool read_head(struct committing *k, struct err *e)
{
    const struct commit *c = k->c;
    if (!revision_head(&k->l->s, c->model, c->branch, &k->head, e)) return false;
    return strcmp(k->head.rev.id, c->expected_head) == 0 ||
           err_set(e, ERR_CONFLICT, "branch %s has moved: its head is %s, not %s", c->branch,
                   k->head.rev.id, c->expected_head);
}

static bool name_next(struct committing *k, struct err *e)
{
    const struct commit *c = k->c;
    struct revision *v = &k->next.rev;
    int64_t last;
    if (!db_int(k->l->s.db, e, &last, "SELECT max(seq) FROM revision", NULL, 0)) return false;
    ledger_new_id("rev", v->id);
    v->seq = last + 1;
    v->kind = c->kind;
    v->created_us = k->chain.time_us;
    v->author_verified = c->by.author_verified;
    v->message = mem_text(c->message ? c->message : "");
    v->summary = c->summary ? mem_text(c->summary) : NULL;
    (void)snprintf(v->model, sizeof v->model, "%s", c->model);
    (void)snprintf(v->branch, sizeof v->branch, "%s", c->branch);
    (void)snprintf(v->parent, sizeof v->parent, "%s", k->head.rev.id);
    (void)snprintf(v->digest, sizeof v->digest, "%s", c->digest);
    (void)snprintf(v->author, sizeof v->author, "%s", c->by.author);
    k->next.model_entry = k->head.model_entry;
    k->next.parent_seq = k->head.rev.seq;
    return true;
}

static bool append_run(struct committing *k, struct buf *answer, struct err *e)
{
    const struct commit *c = k->c;
    bool edit = c->kind != REV_ROLLBACK;
    struct run run = {.kind = revision_kind_word(c->kind),
                      .model = c->model,
                      .view_digest = k->head.rev.digest,
                      .request = c->request,
                      .by = c->by,
                      .status = c->status,
                      .job_id = c->job_id};
    struct run_insert in = {.run = &run, .model = k->head.model_entry, .revision = k->head.rev.seq};
    if (c->edit_id)
        (void)snprintf(run.id, sizeof run.id, "%s", c->edit_id);
    else
        ledger_new_id(edit ? "edit" : "run", run.id);
    if (edit) (void)snprintf(k->next.rev.edit, sizeof k->next.rev.edit, "%s", run.id);
    if (c->answer) c->answer(c->ctx, &k->next.rev, answer);
    if (!buf_ok(answer, e)) return false;
    in.result = c->answer ? (answer->data ? answer->data : "") : NULL;
    in.result_len = answer->len;
    if (!run_append(&k->chain, &in, e)) return false;
    k->run_entry = in.entry;
    const uint8_t *result = in.result ? in.result_hash : NULL;
    return answer_put(&k->l->s, &c->key, c->status, result, c->job_id, k->chain.time_us, e) &&
           job_finish(&k->l->s, c->job_id, result, k->chain.time_us, e);
}

static bool commit_all(struct committing *k, struct buf *answer, struct err *e)
{
    const struct commit *c = k->c;
    if (!plans[c->kind])
        return err_set(e, ERR_UNSUPPORTED, "no commits of kind %s", revision_kind_word(c->kind));
    return chain_open(&k->chain, &k->l->s, e) && read_head(k, e) && name_next(k, e) &&
           plans[c->kind](k, e) && append_run(k, answer, e) &&
           revision_append(&k->chain, &k->next, k->target, k->delta_entry, k->run_entry,
                           &k->manifest, k->recorded.n ? &k->recorded : NULL, e) &&
           db_commit(k->l->s.db, e);
}

bool ledger_commit(struct ledger *l, const struct commit *c, struct revision *out,
                   struct buf *answer, struct err *e)
{
    struct committing k = {.l = l, .c = c};
    assert(c->model && c->branch && c->expected_head && c->digest && c->by.author &&
           answer->len == 0);
    if (!db_begin(l->s.db, e)) return false;
    bool ok = commit_all(&k, answer, e);
    db_rollback(l->s.db);
    if (ok)
        *out = k.next.rev;
    else {
        revision_release(&k.next.rev);
        buf_release(answer); /* nothing happened, so there is nothing to say */
    }
    revision_release(&k.head.rev);
    manifest_release(&k.manifest);
    tensor_state_release(&k.recorded);
    return ok || err_while(e, "committing to branch %s", c->branch);
}
