/* The loader: one thread for what a work does ahead of its steps (work_ops.ahead), such as reading
 * and hashing a model file for minutes. Meanwhile the compute thread goes on with other jobs; when
 * the work is ready it is handed to the worker, whose thread alone makes it effective.
 *
 *      queued ──► running (ahead, here) ──► running (steps, on the compute thread) ──► …
 *
 * Jobs are taken one after the other. Between two of them the cancel flag is looked at, and whether
 * the daemon is stopping; a file that is being read is read to its end.
 *
 * Ownership: as with the worker, a submitted job carries a reference, which goes on to the worker or
 * is given back when the job ends here. Threads: all functions from any thread.
 */
#ifndef ENGRAM_LOADER_H
#define ENGRAM_LOADER_H

#include "job.h"

struct daemon;
struct loader;

struct loader *loader_start(struct daemon *d, struct err *e) MUST_CHECK;
void loader_stop(struct loader *l); /* no job is with it any more; before worker_stop */

void loader_submit(struct loader *l, struct job *j);

#endif
