/* A model being served: a base, its row in the ledger, the digests of its tensors, and the views
 * that are at hand.
 *
 * Each served model has branches and a history of its own; nothing of one is reachable through
 * another. At hand are the heads of its branches, the base, and the last few other revisions that
 * somebody asked for. A commit publishes by swapping a head; whoever holds the old view keeps
 * reading it. served_view resolves what a request calls a view: "base", a branch, or a revision id
 * (restored from the ledger through the small cache).
 *
 * Life: served_open reads and hashes (minutes for a large file); with its row known, served_restore
 * brings the heads up to the ledger; then models_add (server/models.h) makes it public. Taken out of
 * the registry it lives on for the jobs that hold it, and is freed by whoever drops it last.
 *
 * Ownership: counted. Threads: all functions are thread safe once the row is set; the fields below
 * are constant from then on.
 */
#ifndef ENGRAM_SERVED_H
#define ENGRAM_SERVED_H

#include <stdatomic.h>

#include "budget.h"
#include "ledger/ledger.h"
#include "saes.h"

struct served {
    char name[NAME_TEXT]; /* what requests call it */
    struct model *model;
    struct base_digests digests;
    uint8_t described[SHA256_BYTES]; /* hash of all that its file says besides the weights */
    struct model_row row;
    struct saes *saes;
    struct lease weights;     /* private, as all that follow */
    struct budget *budget;
    struct at_hand *views;
    _Atomic size_t references;
};

/* What a model may be called: 1 to NAME_TEXT - 1 bytes of UTF-8 without control characters, without
 * `/`, so that a name is one segment of a path, and without `@`, so that NAME@VIEW has one meaning. */
bool served_may_be_called(const char *name, struct err *e) MUST_CHECK;
/* What something loaded from path will be called: as asked, or after the path's last part where asked is NULL. */
bool served_choose_name(const char *asked, const char *path, char out[NAME_TEXT], struct err *e) MUST_CHECK;

/* Read the model at path and take its hashes, through the cache in `data`. Weights are taken from the
 * budget before they are read, and given back with the model. The row is not set yet. */
struct served *served_open(const char *path, const char *name, const char *data, struct budget *budget,
                           void (*progress)(void *ctx, size_t done, size_t total), void *ctx,
                           struct err *e) MUST_CHECK;
struct served *served_retain(struct served *s);
void served_drop(struct served *s);

/* Let go of revisions that are at hand only because somebody asked for them. */
void served_forget(struct served *s);

/* Make the heads those of the ledger. Cheap where they are already. */
bool served_restore(struct served *s, struct ledger_reader *reader, struct err *e) MUST_CHECK;

struct resolved { /* what "view" of an answer says */
    struct view *view;       /* counted; resolved_release drops it */
    char model[NAME_TEXT];   /* served name */
    char model_id[ID_TEXT];  /* the ledger's row */
    char name[NAME_TEXT];    /* "main", "base" or the revision id */
    char revision[ID_TEXT];
    int64_t seq;
    char digest[DIGEST_TEXT];
};
void resolved_release(struct resolved *r);

/* name: "base", a branch, or a revision id of this model. A revision that is not at hand is restored
 * here, which may take the time of a rebuild; without a reader only what is at hand is found. */
bool served_view(struct served *s, struct ledger_reader *reader, const char *name,
                 struct resolved *out, struct err *e) MUST_CHECK;
/* Revision and seq of a branch head, from memory; false when there is no such branch. */
bool served_head(struct served *s, const char *branch, char revision[ID_TEXT], int64_t *seq);
/* Make `view` the head of that branch, after its revision is durable. */
void served_publish(struct served *s, const struct revision *rev, struct view *view);

#endif
