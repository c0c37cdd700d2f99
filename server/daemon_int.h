/* The inside of struct daemon, for the files of server/ that build and serve it. Handlers see only
 * daemon.h.
 *
 * Order of life: ledger, models (main, before any thread); jobs, writer, worker, loader; then the HTTP
 * threads, which go first at the end. Every pointer is constant after daemon_open; what it points
 * to guards itself.
 *
 * Threads: as daemon.h says.
 */
#ifndef ENGRAM_DAEMON_INT_H
#define ENGRAM_DAEMON_INT_H

#include <stdatomic.h>

#include "auth.h"
#include "budget.h"
#include "config.h"
#include "daemon.h"
#include "guard.h"
#include "job.h"
#include "log.h"
#include "loop.h"
#include "metrics.h"
#include "worker.h"
#include "writer.h"

struct daemon {
    const struct config *config;
    struct log *log;
    struct loop *loop;
    struct metrics *metrics;
    struct auth *auth;
    struct host_names hosts;

    struct budget *budget; /* outlives models and jobs */
    struct models *models;
    struct ledger *ledger; /* the writer's once it runs */
    char engine[NAME_TEXT], kernel[NAME_TEXT];
    int threads;
    struct rate rate;
    int64_t started_us; /* wall */

    struct jobs *jobs;
    struct writer *writer;
    struct worker *worker;
    struct loader *loader;
    atomic_bool draining;
    atomic_int subscribers; /* event streams open */
};

/* Everything but the network. `d->config`, `d->log` and `d->loop` are set by the caller. */
bool daemon_open(struct daemon *d, struct err *e) MUST_CHECK;
void daemon_close(struct daemon *d); /* HTTP threads have ended */

#endif
