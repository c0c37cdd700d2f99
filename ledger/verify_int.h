/* The verifier's inside, shared by verify.c (everything that needs no weights) and verify_replay.c
 * (rebuilding every revision of given models from their bases). A phase does a bounded piece, sets *finished after its
 * last, and reports a disagreement with verify_say; it returns false only when it could not read.
 */
#ifndef ENGRAM_VERIFY_INT_H
#define ENGRAM_VERIFY_INT_H

#include "manifest.h"
#include "store.h"

struct verifier {
    struct store s; /* DB_READER */
    struct verify_base *bases; /* the models to replay */
    size_t n_bases;
    size_t phase;
    int64_t entries, revisions; /* the bounds of this check */
    int64_t done, total;
    struct chain_walk walk;
    int64_t body;        /* the last body looked at */
    int64_t manifest_of; /* the model entry whose manifest is loaded, or 0 */
    struct manifest manifest;
    struct tensor_state tensors;
    struct replay {
        size_t base;                 /* which of them; the rest is about this one */
        struct manifest manifest;    /* the model's own */
        struct tensor_state tensors; /* hashes of the rebuilt view */
        struct view *view;
        int64_t model_entry;
        int64_t state;      /* the revision whose state the view is */
        int64_t seq;        /* the newest revision checked */
        struct lineage way; /* what must be applied to get to `state`… */
        size_t applied;     /* …and how much of it was */
    } replay;
    struct verify_report report;
};

bool verify_say(struct verifier *v, const char *fmt, ...) PRINTF_LIKE(2, 3); /* always true */
void verify_forget_manifest(struct verifier *v);

bool verify_replay(struct verifier *v, bool *finished, struct err *e) MUST_CHECK;
void verify_replay_release(struct verifier *v);

#endif
