/* What the ledger tests share: a tiny model, a ledger in a fresh directory, and one-line edits.
 *
 * An edit is fixed by its number: the same number gives the same delta, so two ledgers that made
 * the same edits must agree in every digest. Run from the repository root.
 */
#ifndef LEDGER_FIXTURE_H
#define LEDGER_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <ftw.h>
#include <unistd.h>

#include <cmocka.h>

#include "ledger/ledger.h"
#include "ledger/store.h"

#define TINY "tests/golden/tiny/gqa_tied"
/* Computed by tests/golden/make_tiny.py with hashlib, from PyTorch's state dict. */
#define TINY_DIGEST "sha256:aee4182c6d0c6c5f3b74b9887c3702eb78b22311d822f2abd4428ec9e1b37671"

struct fixture {
    char dir[64];
    struct model *m;
    struct base_digests d;
    struct ledger *l;
    struct ledger_reader *r;
    struct model_row row;
    struct view *view; /* of main's head */
    struct revision head;
};

#define must(call)                                                                                 \
    do {                                                                                           \
        if (!(call)) fail_msg("%s: %s: %s", #call, err_word(err.code), err.text);                  \
    } while (0)
#define must_fail(call, want)                                                                      \
    do {                                                                                           \
        err = (struct err){0};                                                                     \
        if (call) fail_msg("%s succeeded", #call);                                                 \
        if (err.code != (want))                                                                    \
            fail_msg("%s: %s instead of %s: %s", #call, err_word(err.code), err_word(want),        \
                     err.text);                                                                    \
    } while (0)

static inline int fx_remove_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
    (void)st, (void)flag, (void)f;
    return remove(path);
}

static inline void fx_reopen(struct fixture *x)
{
    struct err err;
    ledger_reader_close(x->r);
    ledger_close(x->l);
    must((x->l = ledger_open(x->dir, &err)) != NULL);
    must((x->r = ledger_reader_open(x->dir, &err)) != NULL);
}

static inline void fx_open_at(struct fixture *x, const char *path)
{
    struct err err;
    memset(x, 0, sizeof *x);
    (void)snprintf(x->dir, sizeof x->dir, "/tmp/engramd-test-XXXXXX");
    assert_non_null(mkdtemp(x->dir));
    must((x->m = model_open(path, "tiny", NULL, NULL, &err)) != NULL);
    must(base_digests_init(&x->d, x->m, NULL, &err));
    fx_reopen(x);
    must(ledger_add_model(x->l, x->m, &x->d, "tester", false, &x->row, &err));
    must(ledger_head(x->r, x->row.id, "main", &x->head, &err));
    x->view = view_base(x->m);
}
static inline void fx_open(struct fixture *x)
{
    fx_open_at(x, TINY);
}

static inline void fx_shut(struct fixture *x) /* leaves the directory */
{
    ledger_reader_close(x->r);
    ledger_close(x->l);
    x->r = NULL;
    x->l = NULL;
}

static inline void fx_close(struct fixture *x)
{
    fx_shut(x);
    revision_release(&x->head);
    view_drop(x->view);
    base_digests_release(&x->d);
    model_drop(x->m);
    (void)nftw(x->dir, fx_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Small numbers that depend on the seed alone. */
static inline float fx_number(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(*state >> 40) / (1 << 24) - 0.5) * 0.02f;
}

static inline struct delta *fx_delta(const struct model *m, size_t tensor, uint32_t rank,
                                     uint64_t seed)
{
    struct err err;
    struct delta *d;
    const struct tensor *t = &m->tensors[tensor];
    size_t n_a = rank ? (size_t)t->rows * rank : t->n_elements, n_b = (size_t)rank * t->cols;
    float *a = mem_new(n_a * sizeof *a), *b = mem_new((n_b + 1) * sizeof *b);
    uint64_t state = seed * 7919 + 17;
    for (size_t i = 0; i < n_a; i++) a[i] = fx_number(&state);
    for (size_t i = 0; i < n_b; i++) b[i] = fx_number(&state);
    d = rank ? delta_new_lowrank(m, tensor, rank, a, b, &err) : delta_new_dense(m, tensor, a, &err);
    must(d != NULL);
    mem_drop(a);
    mem_drop(b);
    return d;
}

static inline size_t fx_tensor(const struct model *m, uint64_t seed) /* some matrix */
{
    size_t i;
    static const enum role roles[] = {ROLE_DOWN, ROLE_UP, ROLE_Q, ROLE_O};
    assert_true(model_role(m, roles[seed % 4], (uint32_t)(seed / 4 % m->arch.n_layers), &i));
    return i;
}

static inline void fx_answer(void *ctx, const struct revision *rev, struct buf *out)
{
    (void)ctx;
    buf_printf(out, "{\"revision\":\"%s\",\"seq\":%lld,\"digest\":\"%s\"}", rev->id,
               (long long)rev->seq, rev->digest);
}

static inline struct provenance fx_by(void)
{
    return (struct provenance){.author = "tester",
                               .author_verified = true,
                               .engine = "engramd-test",
                               .kernel = "none",
                               .threads = 1,
                               .seed = 7,
                               .duration_us = 1234};
}

/* An edit ready to commit: the caller may change `c` before, and must fx_drop_edit after. */
struct edit {
    struct commit c;
    struct buf bytes;
    struct view *after;
    char digest[DIGEST_TEXT];
    char edit_id[ID_TEXT];
};

static inline void fx_prepare(struct fixture *x, struct edit *d, size_t tensor, uint32_t rank,
                              uint64_t seed)
{
    struct err err;
    struct delta *delta = fx_delta(x->m, tensor, rank, seed);
    memset(d, 0, sizeof *d);
    must(delta_write(delta, x->m, &d->bytes, &err));
    must((d->after = view_with_delta(x->view, delta, &err)) != NULL);
    delta_free(delta);
    digest_view(d->after, &x->d, d->digest);
    ledger_new_id("edit", d->edit_id);
    d->c = (struct commit){.kind = REV_EDIT,
                           .model = x->row.id,
                           .branch = "main",
                           .expected_head = x->head.id,
                           .message = "an edit",
                           .digest = d->digest,
                           .after = d->after,
                           .before = x->view,
                           .base = &x->d,
                           .method = "locft",
                           .delta_bytes = d->bytes.data,
                           .delta_len = d->bytes.len,
                           .request = "{\"facts\":[]}",
                           .summary = "{\"n\":1}",
                           .edit_id = d->edit_id,
                           .by = fx_by(),
                           .status = 201,
                           .answer = fx_answer};
}

static inline void fx_drop_edit(struct edit *d)
{
    buf_release(&d->bytes);
    view_drop(d->after);
}

/* Make the committed revision the fixture's head. */
static inline void fx_move(struct fixture *x, struct revision *rev, struct view *view)
{
    revision_release(&x->head);
    x->head = *rev;
    if (view) {
        view_drop(x->view);
        x->view = view_retain(view);
    }
}

static inline void fx_edit_with(struct fixture *x, size_t tensor, uint32_t rank, uint64_t seed)
{
    struct err err;
    struct edit d;
    struct revision rev;
    struct buf answer = {0};
    fx_prepare(x, &d, tensor, rank, seed);
    must(ledger_commit(x->l, &d.c, &rev, &answer, &err));
    fx_move(x, &rev, d.after);
    buf_release(&answer);
    fx_drop_edit(&d);
}
static inline void fx_edit(struct fixture *x, uint64_t seed)
{
    fx_edit_with(x, fx_tensor(x->m, seed), seed % 3 == 0 ? 0 : (uint32_t)(seed % 3), seed);
}

static inline void fx_rollback(struct fixture *x, const char *to)
{
    struct err err;
    struct revision rev, target;
    struct buf answer = {0};
    struct view *v;
    must(ledger_revision(x->r, to, &target, &err));
    must((v = ledger_restore(x->r, x->m, &x->d, to, &err)) != NULL);
    struct commit c = {.kind = REV_ROLLBACK,
                       .model = x->row.id,
                       .branch = "main",
                       .expected_head = x->head.id,
                       .to = to,
                       .message = "back",
                       .digest = target.digest,
                       .before = x->view,
                       .after = v,
                       .base = &x->d,
                       .request = "{\"to\":\"x\"}",
                       .by = fx_by(),
                       .status = 201,
                       .answer = fx_answer};
    must(ledger_commit(x->l, &c, &rev, &answer, &err));
    fx_move(x, &rev, v);
    view_drop(v);
    revision_release(&target);
    buf_release(&answer);
}

static inline void fx_look(struct fixture *x, const char *result, uint8_t cache, char id[ID_TEXT])
{
    struct err err;
    struct run run = {.kind = "trace",
                      .model = x->row.id,
                      .revision = x->head.id,
                      .view_digest = x->head.digest,
                      .request = "{\"inputs\":[\"private\"]}",
                      .result = result,
                      .result_len = strlen(result),
                      .by = fx_by(),
                      .status = 200};
    memset(run.cache_key, cache, sizeof run.cache_key);
    ledger_new_id("run", run.id);
    must(ledger_add_run(x->l, &run, &err));
    memcpy(id, run.id, ID_TEXT);
}

static inline struct verify_report fx_verify_with(struct fixture *x, const struct verify_base *bases, size_t n)
{
    struct err err;
    struct verify_report report;
    bool more = true;
    struct verifier *v = verifier_open(x->dir, bases, n, &err);
    must(v != NULL);
    while (more) must(verifier_step(v, &more, &err));
    verifier_report(v, &report);
    verifier_close(v);
    return report;
}

static inline struct verify_report fx_verify(struct fixture *x, bool replay)
{
    return fx_verify_with(x, &(struct verify_base){x->m, &x->d}, replay ? 1 : 0);
}

static inline void fx_sound(struct fixture *x)
{
    struct verify_report report = fx_verify(x, true);
    if (!report.ok) fail_msg("verify: %s", report.problem);
}

static inline void fx_digest_of(struct fixture *x, const char *revision, char out[DIGEST_TEXT])
{
    struct err err;
    struct view *v;
    must((v = ledger_restore(x->r, x->m, &x->d, revision, &err)) != NULL);
    digest_view(v, &x->d, out);
    view_drop(v);
}

static inline int64_t fx_last_seq(struct fixture *x)
{
    struct err err;
    struct revision rev;
    must(ledger_head(x->r, x->row.id, "main", &rev, &err));
    revision_release(&rev);
    return rev.seq;
}

static inline int64_t fx_scalar(struct fixture *x, const char *sql)
{
    struct err err;
    int64_t n;
    must(db_int(x->r->s.db, &err, &n, sql, NULL, 0));
    return n;
}

/* A commit that is not made, and leaves nothing. */
static inline void fx_refuse(struct fixture *x, struct edit *d, enum err_code code)
{
    struct err err;
    struct revision rev;
    struct buf answer = {0};
    int64_t before = fx_last_seq(x);
    must_fail(ledger_commit(x->l, &d->c, &rev, &answer, &err), code);
    assert_int_equal(answer.len, 0);
    assert_int_equal(fx_last_seq(x), before);
}

static inline void fx_count_job(void *ctx, const struct job_row *j)
{
    (void)j;
    ++*(int *)ctx;
}

#endif
