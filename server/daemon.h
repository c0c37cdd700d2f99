/* The daemon's one context: model, ledger, published views, queues. Created by main, passed
 * everywhere, no globals.
 *
 * Published heads: daemon_head gives the current revision and view of a branch (counted: drop
 * the view). A commit publishes by swapping that pointer; whoever holds the old view keeps reading
 * it. daemon_view resolves what a request calls a view: "base", a branch, or a revision id
 * (restored from the ledger through a small cache).
 *
 * Threads: daemon_* are thread safe.
 */
#ifndef ENGRAM_DAEMON_H
#define ENGRAM_DAEMON_H

#include "call.h"
#include "work.h"

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

/* name: "base", a branch, or a revision id; model NULL: the only one. On the compute thread or an
 * HTTP thread; a revision that is not cached is restored here (may take the time of a rebuild). */
bool daemon_view(struct daemon *d, struct ledger_reader *reader, const char *model,
                 const char *name, struct resolved *out, struct err *e) MUST_CHECK;
/* Revision and seq of a published branch head, from memory; false when there is no such branch. */
bool daemon_head(struct daemon *d, const char *branch, char revision[ID_TEXT], int64_t *seq);
/* Make `view` the head of that branch, after its revision is durable. */
void daemon_publish(struct daemon *d, const struct revision *rev, struct view *view);

const char *daemon_data(struct daemon *d); /* the ledger's directory */
struct model *daemon_model(struct daemon *d);
const struct model_row *daemon_model_row(struct daemon *d);
const struct base_digests *daemon_digests(struct daemon *d);
/* engine, kernel and threads of every result made here */
void daemon_provenance(struct daemon *d, struct provenance *out);

#endif
