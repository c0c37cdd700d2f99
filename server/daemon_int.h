/* The inside of struct daemon, for the files of server/ that build and serve it. Handlers see only
 * daemon.h.
 *
 * Order of life: model, base digests, ledger, heads (main, before any thread); jobs, writer,
 * worker; then the HTTP threads, which go first at the end. Everything is constant after
 * daemon_open except: the heads and the cache of restored views (heads_lock), and the atomics.
 *
 * A head is the published state of a branch: its newest revision and that revision's view. The
 * cache keeps the last few other revisions somebody asked for; a view in use survives leaving it,
 * since views are counted.
 *
 * Threads: as daemon.h says.
 */
#ifndef ENGRAM_DAEMON_INT_H
#define ENGRAM_DAEMON_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "auth.h"
#include "config.h"
#include "daemon.h"
#include "guard.h"
#include "job.h"
#include "log.h"
#include "loop.h"
#include "metrics.h"
#include "worker.h"
#include "writer.h"

enum { CACHED_VIEWS = 4 };

struct head {
    char branch[NAME_TEXT];
    char revision[ID_TEXT];
    int64_t seq;
    char digest[DIGEST_TEXT];
    struct view *view;
};

struct cached_view {
    char revision[ID_TEXT]; /* "" where empty */
    int64_t seq;
    char digest[DIGEST_TEXT];
    struct view *view;
    uint64_t used;
};

struct daemon {
    const struct config *config;
    struct log *log;
    struct loop *loop;
    struct metrics *metrics;
    struct auth *auth;
    struct host_names hosts;

    struct model *model;
    struct base_digests digests;
    struct model_row row;
    struct ledger *ledger; /* the writer's once it runs */
    char engine[NAME_TEXT], kernel[NAME_TEXT];
    int threads;
    int64_t started_us; /* wall */

    pthread_mutex_t heads_lock;
    struct head *heads;
    size_t n_heads;
    struct cached_view cache[CACHED_VIEWS];
    uint64_t uses;

    struct jobs *jobs;
    struct writer *writer;
    struct worker *worker;
    atomic_bool draining;
    atomic_int subscribers; /* event streams open */
};

/* Everything but the network. `d->config`, `d->log` and `d->loop` are set by the caller. */
bool daemon_open(struct daemon *d, struct err *e) MUST_CHECK;
void daemon_close(struct daemon *d); /* HTTP threads have ended */

#endif
