/* The writer: the one thread that owns the read-write ledger.
 *
 * Writes are handed over as functions and run one after another, in the order they were posted;
 * each is a transaction of its own. writer_call waits for the result (compute thread, main);
 * writer_post returns at once and calls `done` on the writer thread (HTTP threads, which must not
 * wait for a disk). When nothing was written for 30 s, or after many writes, it checkpoints.
 *
 * Health: OK; FULL (the last write found no space: nothing happened, the next may succeed);
 * STOPPED (a sync failed: the outcome is unknown, the ledger refuses every later write until the
 * daemon is restarted). Looking goes on in all three.
 *
 * Ownership: a struct write belongs to its poster until `done` is called. The queue holds at most
 * two writes a live job, so admission of jobs bounds it. Threads: all functions from any thread
 * but the writer's own.
 */
#ifndef ENGRAM_WRITER_H
#define ENGRAM_WRITER_H

#include "ledger/ledger.h"
#include "log.h"
#include "metrics.h"

struct writer;

enum writer_health { WRITER_OK, WRITER_FULL, WRITER_STOPPED };

typedef bool (*write_fn)(struct ledger *l, void *ctx, struct err *e);

struct write {
    write_fn run;
    void (*done)(void *ctx, bool ok, const struct err *e); /* may free the write */
    void *ctx;
    struct write *next; /* private */
};

struct writer *writer_start(struct ledger *l, struct metrics *m, struct log *log,
                            struct err *e) MUST_CHECK;
void writer_stop(struct writer *w); /* runs what is queued, then ends; the ledger stays open */

void writer_post(struct writer *w, struct write *item);
bool writer_call(struct writer *w, write_fn run, void *ctx, struct err *e) MUST_CHECK;

enum writer_health writer_health(struct writer *w);
const char *writer_health_word(enum writer_health h);
size_t writer_waiting(struct writer *w);

#endif
