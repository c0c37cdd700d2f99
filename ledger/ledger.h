/* The ledger: an append-only, hash-chained history of models, weight changes and looks.
 *
 * Commit invariant: no answer reports an effect whose row is not durable, and no row exists whose
 * effect is not reproducible from the base. One call of ledger_commit writes delta, edit, revision,
 * run and the idempotency answer in ONE synced transaction; large bytes are content-addressed
 * files, synced and renamed before the row that names them.
 *
 * Chain: every model, revision, edit, run, artefact and prune is one entry of `chain`, whose hash covers
 * the previous hash, the entry's own columns and the HASH of its body. Bodies and objects lie
 * apart, so an old body can be pruned by an appended row and the chain still verifies.
 *
 * Threads: struct ledger is the only read-write connection and belongs to one thread (the
 * writer), which also checkpoints. struct ledger_reader is read-only, one per thread. Both
 * borrow nothing from each other. The directory is locked while a struct ledger is open.
 *
 * Failure classes: ERR_NO_SPACE: nothing happened, reading goes on. ERR_UNKNOWN_OUTCOME: a sync
 * failed; every later write answers ERR_READ_ONLY until the ledger is opened afresh.
 * ERR_CONFLICT: the branch head moved.
 *
 * Ids are opaque: "rev_…", "edit_…", "delta_…", "run_…", "job_…", "model_…", "set_…". Text returned in
 * rows is owned by the row; release it with the row's _release.
 */
#ifndef ENGRAM_LEDGER_H
#define ENGRAM_LEDGER_H

#include "digest.h"

enum { ID_TEXT = 32, NAME_TEXT = 128 };

struct ledger;
struct ledger_reader;

struct ledger *ledger_open(const char *dir, struct err *e) MUST_CHECK; /* creates, locks, migrates */
void ledger_close(struct ledger *l);                                   /* checkpoints, unlocks */
bool ledger_checkpoint(struct ledger *l, struct err *e); /* passive; cheap when there is nothing */
struct ledger_reader *ledger_reader_open(const char *dir, struct err *e) MUST_CHECK;
void ledger_reader_close(struct ledger_reader *r);

/* ---- models ---------------------------------------------------------------------------------- */

struct model_row {
    char id[ID_TEXT];
    char name[NAME_TEXT];
    char base_digest[DIGEST_TEXT];
    char source_sha256[DIGEST_TEXT];
    char pretrained_parent[DIGEST_TEXT]; /* or "unknown" */
    char base_revision[ID_TEXT];
};
/* The row of that base; ERR_NOT_FOUND when the ledger does not know it. */
bool ledger_find_model(struct ledger_reader *r, const char *base_digest, struct model_row *out,
                       struct err *e) MUST_CHECK;
/* By the name under which it was first served, or by id; the newest of namesakes. */
bool ledger_named_model(struct ledger_reader *r, const char *name, struct model_row *out,
                        struct err *e) MUST_CHECK;
/* How many models the ledger knows. */
bool ledger_count_models(struct ledger_reader *r, int64_t *out, struct err *e) MUST_CHECK;
/* Register a base; writes its model entry and its first revision (kind base, branch main). The
 * manifest (names, shapes, types, tensor hashes) is stored as the entry's body. */
bool ledger_add_model(struct ledger *l, const struct model *m, const struct base_digests *d,
                      const char *author, bool verified, struct model_row *out,
                      struct err *e) MUST_CHECK;

/* ---- revisions ------------------------------------------------------------------------------- */

enum revision_kind { REV_BASE, REV_EDIT, REV_ROLLBACK, REV_REVERT, REV_COMBINE, REV_IMPORT,
                     REV_PRUNE, REV_KIND_COUNT };
const char *revision_kind_word(enum revision_kind k);

struct revision {
    char id[ID_TEXT];
    int64_t seq; /* global, +1 per revision */
    char model[ID_TEXT];
    char branch[NAME_TEXT];
    char parent[ID_TEXT]; /* "" for base */
    enum revision_kind kind;
    char to[ID_TEXT];     /* rollback: the revision whose state this is, else "" */
    char edit[ID_TEXT], delta[ID_TEXT]; /* "" where none */
    char digest[DIGEST_TEXT];
    char author[NAME_TEXT];
    bool author_verified; /* it came from a token */
    int64_t created_us;   /* UTC, microseconds */
    char *message;        /* never NULL */
    char *summary;        /* JSON text or NULL */
};
void revision_release(struct revision *r);

/* A branch's head, or a revision by id. ERR_NOT_FOUND. `model` is the model row's id. */
bool ledger_head(struct ledger_reader *r, const char *model, const char *branch,
                 struct revision *out, struct err *e) MUST_CHECK;
bool ledger_revision(struct ledger_reader *r, const char *id, struct revision *out,
                     struct err *e) MUST_CHECK;
/* Newest first; before_seq 0: from the head; branch NULL: all. Calls `each` for at most `limit`. */
bool ledger_revisions(struct ledger_reader *r, const char *model, const char *branch, int limit,
                      int64_t before_seq, void (*each)(void *ctx, const struct revision *rev),
                      void *ctx, struct err *e) MUST_CHECK;
bool ledger_branches(struct ledger_reader *r, const char *model,
                     void (*each)(void *ctx, const char *branch, const struct revision *head),
                     void *ctx, struct err *e) MUST_CHECK;

/* The view of a revision, rebuilt from the nearest stored objects plus later deltas, each changed
 * tensor's hash and the view's digest compared with the row: a mismatch is ERR_CORRUPT naming it. */
struct view *ledger_restore(struct ledger_reader *r, struct model *m, const struct base_digests *d,
                            const char *revision, struct err *e) MUST_CHECK;

/* Float32 bytes of all tensors that any revision of that model (the row's id) changed, and of the largest
 * of them: what a restored view holds at most. */
bool ledger_touched(struct ledger_reader *r, const char *model, const struct model *m, size_t *all,
                    size_t *largest, struct err *e) MUST_CHECK;

/* ---- writing --------------------------------------------------------------------------------- */

struct idempotency { /* scope "" or key "": none */
    char scope[NAME_TEXT]; /* token and route */
    char key[256];
    uint8_t request[SHA256_BYTES];
};

/* What produced a result; the same for edits and looks. */
struct provenance {
    const char *author;
    bool author_verified;
    const char *engine;  /* version and build */
    const char *kernel;  /* BLAS core and ISA */
    int threads;
    int64_t seed;        /* -1: none */
    int64_t duration_us;
};

struct commit {
    enum revision_kind kind;
    const char *model, *branch;
    const char *expected_head;  /* revision id; another head is ERR_CONFLICT */
    const char *to;             /* rollback */
    const char *message;
    const char *digest;         /* of the view after */
    const struct view *after;   /* not read: the ledger rebuilds it from `before` and the delta */
    const struct view *before;  /* the head's view; edits: the delta applied to it must give `digest` */
    const struct base_digests *base;
    const char *method;         /* edit: "locft"… or NULL */
    const void *delta_bytes;    /* canonical serialisation, or NULL */
    size_t delta_len;
    const char *request;        /* JSON: the resolved request; kept as a body */
    const char *summary;        /* JSON or NULL */
    const char *edit_id;        /* chosen by ledger_new_id, or NULL */
    const char *job_id;         /* the job this commit finishes, or NULL */
    struct provenance by;
    struct idempotency key;
    int status;                 /* HTTP status kept with the answer */
    /* Called inside the transaction with the new revision; appends the answer (JSON), which is
     * kept as the edit's body and as the idempotent answer. */
    void (*answer)(void *ctx, const struct revision *rev, struct buf *out);
    void *ctx;
};
bool ledger_commit(struct ledger *l, const struct commit *c, struct revision *out, struct buf *answer,
                   struct err *e) MUST_CHECK;

/* What is made once and named later: a set of rows, a region. Its content is bytes kept by their hash;
 * `kind` is the word before the underline of its ids. Names need not be unique: a name means the newest
 * of that kind and model, and may not look like an id of the kind. */
struct artefact {
    char id[ID_TEXT];     /* chosen by ledger_new_id, or "" */
    const char *kind;     /* "set", "region"… */
    const char *model;    /* row's id; NULL: of no model */
    const char *name;     /* "": none */
    const char *summary;  /* JSON: what lists say of it */
    const void *content;
    size_t len;
};
/* May it be the name of one? ERR_INVALID naming the field otherwise. */
bool ledger_artefact_name(const char *kind, const char *name, const char *field, struct err *e) MUST_CHECK;
/* The same content again, of that kind and model and under the name that means it, is the row there is:
 * *known, and id names it. */
bool ledger_add_artefact(struct ledger *l, const struct artefact *a, const char *author, bool verified,
                         char id[ID_TEXT], bool *known, struct err *e) MUST_CHECK;

/* An edit that was evaluated but not committed (dry run, gates missed, null edit), or any look. */
struct run {
    char id[ID_TEXT];
    const char *kind; /* "trace", "patch", "localize", "tuco", "edit"… */
    const char *model;
    const char *revision;
    const char *view_digest;
    uint8_t cache_key[SHA256_BYTES]; /* all zero: never answered from the log */
    const char *request, *result;    /* JSON */
    size_t result_len;
    struct provenance by;
    struct idempotency key;
    int status;
    const char *job_id; /* or NULL */
    const struct artefact *artefact; /* that it made, in the same transaction; or NULL. Its id stands in the result */
};
/* An artefact of the run is a new row whatever there is: it is named by its own run. */
bool ledger_add_run(struct ledger *l, const struct run *run, struct err *e) MUST_CHECK;

void ledger_new_id(const char *prefix, char out[ID_TEXT]); /* prefix "run" → "run_…", random */

/* ---- reading back ---------------------------------------------------------------------------- */

struct run_row {
    char id[ID_TEXT];
    int64_t chain_seq;
    char kind[32], model[ID_TEXT], revision[ID_TEXT], view_digest[DIGEST_TEXT], author[NAME_TEXT];
    bool author_verified;
    char engine[NAME_TEXT], kernel[NAME_TEXT];
    int threads;
    int64_t seed, duration_us, created_us;
    char result_hash[DIGEST_TEXT];
    char *request; /* JSON or NULL when pruned */
    char *result;  /* JSON, or NULL in lists and when pruned */
};
void run_row_release(struct run_row *r);
bool ledger_run(struct ledger_reader *r, const char *id, struct run_row *out, struct err *e) MUST_CHECK;
bool ledger_runs(struct ledger_reader *r, const char *model, const char *kind, const char *view,
                 int limit, int64_t before, void (*each)(void *ctx, const struct run_row *row),
                 void *ctx, struct err *e) MUST_CHECK;
/* The newest run with that key, whose result is still kept; false in *found otherwise. */
bool ledger_cached(struct ledger_reader *r, const uint8_t key[SHA256_BYTES], struct run_row *out,
                   bool *found, struct err *e) MUST_CHECK;
struct artefact_row {
    char id[ID_TEXT];
    int64_t chain_seq;
    char kind[32], model[ID_TEXT], run[ID_TEXT]; /* model and run: "" where none */
    char name[NAME_TEXT], author[NAME_TEXT];
    bool author_verified;
    int64_t created_us, size;
    char hash[DIGEST_TEXT]; /* of the content */
    char *summary;          /* JSON */
};
void artefact_row_release(struct artefact_row *a);
/* By id; or the newest of that name, of no model or of `model` (a row's id, or NULL). ERR_NOT_FOUND. */
bool ledger_artefact(struct ledger_reader *r, const char *kind, const char *model, const char *name,
                     struct artefact_row *out, struct err *e) MUST_CHECK;
/* Newest first, as runs are; model NULL: of all. */
bool ledger_artefacts(struct ledger_reader *r, const char *kind, const char *model, int limit, int64_t before,
                      void (*each)(void *ctx, const struct artefact_row *row), void *ctx, struct err *e) MUST_CHECK;
/* Its bytes, whose hash is compared. */
bool ledger_artefact_content(struct ledger_reader *r, const struct artefact_row *a, struct buf *out,
                             struct err *e) MUST_CHECK;
/* The answer of an edit as it was given (JSON). */
bool ledger_edit(struct ledger_reader *r, const char *id, struct buf *answer, struct err *e) MUST_CHECK;
/* A delta's bytes (safetensors) and a JSON description. */
bool ledger_delta(struct ledger_reader *r, const char *id, struct buf *bytes, struct buf *json,
                  struct err *e) MUST_CHECK;

/* A kept answer: 0 in *status when the key is new; 202, job_id and no answer while its job runs.
 * ERR_CONFLICT when the body differs. Answers of 500 and above are not kept. */
bool ledger_answered(struct ledger_reader *r, const struct idempotency *key, int *status,
                     struct buf *answer, char job_id[ID_TEXT], struct err *e) MUST_CHECK;

/* Take the body of a run's request or result away, on the record; verify then counts it as pruned. */
bool ledger_prune_body(struct ledger *l, const char *hash, const char *author, const char *reason,
                       struct err *e) MUST_CHECK;

/* ---- jobs ------------------------------------------------------------------------------------ */

/* Durable acceptance: after this a restart knows the job. */
bool ledger_job_accept(struct ledger *l, const char *id, const char *kind, const char *model,
                       const char *author, const struct idempotency *key, struct err *e) MUST_CHECK;
/* state: "done", "failed", "cancelled". result is the synchronous body or a problem (JSON).
 * The job's idempotency key keeps it under `status`, which is the answer's, unless that is a failure of ours
 * (5xx), a cancellation, or 0: such a request may be made again. A job that a commit or run has ended stays as
 * that ended it: done, with its answer. */
bool ledger_job_end(struct ledger *l, const char *id, const char *state, int status, const char *result,
                    struct err *e) MUST_CHECK;
/* At start: every accepted job without an end becomes failed (type interrupted). A commit or run that
 * names a job has ended it in its own transaction: done, with that answer. */
bool ledger_jobs_recover(struct ledger *l, struct err *e) MUST_CHECK;
struct job_row {
    char id[ID_TEXT], kind[32], model[ID_TEXT], state[16]; /* "queued" until it ends */
    int64_t created_us;
    char *result; /* JSON or NULL */
};
void job_row_release(struct job_row *j);
bool ledger_job(struct ledger_reader *r, const char *id, struct job_row *out, struct err *e) MUST_CHECK;
/* Newest first; model (a row's id) NULL: all. */
bool ledger_jobs(struct ledger_reader *r, const char *model, int limit,
                 void (*each)(void *ctx, const struct job_row *j), void *ctx, struct err *e) MUST_CHECK;

/* ---- verify ---------------------------------------------------------------------------------- */

struct verify_report {
    bool ok;
    int64_t seq;      /* newest revision checked */
    int64_t rows;     /* chain entries checked */
    char head[DIGEST_TEXT]; /* hash of the newest entry */
    int64_t chain, objects, digests; /* how many of each were checked */
    int64_t pruned;
    char problem[512]; /* the first disagreement, "" when ok */
};
/* Check everything the ledger holds; with models also rebuild every revision of theirs from the
 * base and compare digests. Step by step so that a long check can be cancelled and reported. */
struct verifier;
struct verify_base { /* borrowed until the verifier is closed */
    struct model *model;
    const struct base_digests *digests;
};
struct verifier *verifier_open(const char *dir, const struct verify_base *bases, size_t n,
                               struct err *e) MUST_CHECK;
/* *more is false after the last step. Errors are for I/O; a disagreement is report.ok == false. */
bool verifier_step(struct verifier *v, bool *more, struct err *e) MUST_CHECK;
void verifier_progress(const struct verifier *v, int64_t *done, int64_t *total);
void verifier_report(const struct verifier *v, struct verify_report *out);
void verifier_close(struct verifier *v);

#endif
