/* What the parts of ledger/ share: a store is a connection and the directory it lies in; bodies
 * are bytes kept by hash; the chain seals rows. Private to ledger/.
 *
 * Bodies up to BODY_INLINE bytes lie in the database, larger ones are object files, written and
 * synced before the row that names them. A body that was pruned is told apart from one that is
 * missing.
 */
#ifndef ENGRAM_STORE_H
#define ENGRAM_STORE_H

#include "db.h"
#include "ledger.h"

enum { BODY_INLINE = 64 * 1024, SNAPSHOT_EVERY = 16 /* deltas between kept tensors */ };

struct store {
    struct db *db;
    char *dir;
};
/* For reading, beside a writer or alone. Releasing s is the caller's, whether or not it succeeds. */
bool store_open_reader(struct store *s, const char *dir, struct err *e) MUST_CHECK;

struct ledger {
    struct store s; /* DB_WRITER */
    int lock_fd;
};
struct ledger_reader {
    struct store s; /* DB_READER */
};

/* ---- bodies ---------------------------------------------------------------------------------- */

/* In the open transaction; hash is written. Bytes that are already kept are not written again. */
bool body_put(struct store *s, const void *bytes, size_t n, uint8_t hash[SHA256_BYTES],
              struct err *e) MUST_CHECK;
/* The same, always as an object file, for bytes whose hash is known. */
bool body_put_object(struct store *s, const uint8_t hash[SHA256_BYTES], const void *bytes, size_t n,
                     struct err *e) MUST_CHECK;
enum body_state { BODY_KEPT, BODY_PRUNED, BODY_MISSING };
bool body_state(struct store *s, const uint8_t hash[SHA256_BYTES], enum body_state *out,
                struct err *e) MUST_CHECK;
/* Appends to out, hash proven. ERR_NOT_FOUND: pruned; ERR_CORRUPT: missing or wrong. */
bool body_get(struct store *s, const uint8_t hash[SHA256_BYTES], struct buf *out,
              struct err *e) MUST_CHECK;
/* As text on the heap, or NULL in *out when the hash column is NULL or its body pruned. */
bool body_text(struct store *s, struct stmt *row, int col, char **out, struct err *e) MUST_CHECK;

/* ---- the chain ------------------------------------------------------------------------------- */

enum { CHAIN_FORMAT = 1 };

/* The end of the chain inside the open transaction; advances with each entry. */
struct chain {
    struct store *s;
    int64_t next;    /* the number of the entry to be written */
    int64_t time_us; /* one time for all entries of the transaction; never before the last one's */
    uint8_t last[SHA256_BYTES];
};
bool chain_open(struct chain *c, struct store *s, struct err *e) MUST_CHECK;
/* Seal the row that was written under entry c->next in the table called `kind`. */
bool chain_seal(struct chain *c, const char *kind, const char *subject, const char *model,
                const char *author, bool verified, struct err *e) MUST_CHECK;

/* The hash of a row of history, as the chain covers it. *rows: how many rows had that entry. */
bool chain_record(struct store *s, const char *kind, int64_t entry, uint8_t out[SHA256_BYTES],
                  int64_t *rows, struct err *e) MUST_CHECK;
/* Check entries from..to (inclusive) link by link. *problem stays empty when all is well; it names
 * the first bad entry otherwise. `last` is the hash before `from` (zero for 1) and then of `to`;
 * `time_us` likewise. with_records: also hash the rows they seal. */
struct chain_walk {
    int64_t from, to;
    bool with_records;
    int64_t time_us;
    uint8_t last[SHA256_BYTES];
    char problem[512];
};
bool chain_check(struct store *s, struct chain_walk *w, struct err *e) MUST_CHECK;

/* ---- small helpers --------------------------------------------------------------------------- */

int64_t now_us(void); /* UTC */
/* The entry of a model's row; ERR_NOT_FOUND names it. */
bool model_entry(struct store *s, const char *id, int64_t *entry, struct err *e) MUST_CHECK;

/* Idempotent answers (idempotency.c), all inside the caller's transaction. A key that is already
 * answered, or in use by another job, is ERR_CONFLICT. status 0: the job still runs. */
bool answer_put(struct store *s, const struct idempotency *key, int status, const uint8_t *result,
                const char *job, int64_t time_us, struct err *e) MUST_CHECK;
/* The job ends: its pending answer gets its status, or is forgotten when status is 0. */
bool answer_end(struct store *s, const char *job, int status, const uint8_t *result,
                struct err *e) MUST_CHECK;
/* A durable result ends its job (jobs.c). */
bool job_finish(struct store *s, const char *job, const uint8_t *result, int64_t time_us,
                struct err *e) MUST_CHECK;

/* A row of `run` (runs.c). The entry is c->next; sealed on return. */
struct run_insert {
    const struct run *run;
    int64_t model, revision; /* revision 0: none */
    const void *result;
    size_t result_len;
    uint8_t result_hash[SHA256_BYTES]; /* out */
    int64_t entry;                     /* out */
};
bool run_append(struct chain *c, struct run_insert *in, struct err *e) MUST_CHECK;

/* A row of `artefact` (artefacts.c), sealed on return; run 0: none. */
bool artefact_append(struct chain *c, const struct artefact *a, int64_t run, const char *author,
                     bool verified, char id[ID_TEXT], bool *known, struct err *e) MUST_CHECK;

/* ---- states ---------------------------------------------------------------------------------- */

struct manifest;
struct tensor_state;

/* The way from the base, or from the nearest snapshot whose objects are kept, to a state. */
struct lineage {
    int64_t start;  /* the revision it starts from */
    bool from_base; /* start is the base, else a snapshot */
    size_t n;
    int64_t *seq; /* the revisions after it whose deltas follow, in order */
};
bool lineage_init(struct lineage *l, struct store *s, int64_t state, bool from_base,
                  struct err *e) MUST_CHECK;
void lineage_release(struct lineage *l);
/* The changed tensors and their recorded hashes at the end of the way. */
bool lineage_tensors(struct store *s, const struct lineage *l, const struct manifest *m,
                     struct tensor_state *out, struct err *e) MUST_CHECK;
/* Overlay the tensors that one revision recorded. */
bool revision_tensors(struct store *s, int64_t seq, const struct manifest *m,
                      struct tensor_state *out, struct err *e) MUST_CHECK;
/* The delta bytes of a revision. */
bool revision_delta(struct store *s, int64_t seq, struct buf *out, struct err *e) MUST_CHECK;

/* One row of revision, with row numbers beside the public ids (revisions.c). */
struct revision_full {
    struct revision rev;
    int64_t entry, model_entry, parent_seq, state, depth;
    bool snapshot;
};
bool revision_by_id(struct store *s, const char *id, struct revision_full *out,
                    struct err *e) MUST_CHECK;
bool revision_by_seq(struct store *s, int64_t seq, struct revision_full *out,
                     struct err *e) MUST_CHECK;
bool revision_head(struct store *s, const char *model, const char *branch,
                   struct revision_full *out, struct err *e) MUST_CHECK;
bool revision_append(struct chain *c, struct revision_full *r, int64_t target, int64_t delta,
                     int64_t run, const struct manifest *m, const struct tensor_state *tensors,
                     struct err *e) MUST_CHECK;

#endif
