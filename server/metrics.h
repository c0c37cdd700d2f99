/* Numbers about the daemon, in Prometheus' text format.
 *
 * Counters are atomics, so any thread may count; what is a state (queues, heads, memory) is read
 * when the page is asked for. Labels are route templates, methods, statuses and models: never a caller,
 * a prompt or a path.
 *
 * engramd_http_request_seconds{route,method,status}: server time of a request, from its complete
 * head to its answer; time spent waiting for a job counts, so look at 304 or at synchronous routes
 * for the transport's own speed. engramd_commit_seconds: one ledger write, queueing excluded.
 */
#ifndef ENGRAM_METRICS_H
#define ENGRAM_METRICS_H

#include "call.h"

struct metrics;

struct metrics *metrics_new(const struct route *table, size_t rows);
void metrics_free(struct metrics *m);

/* route NULL: no row matched. */
void metrics_request(struct metrics *m, const struct route *route, int status, int64_t took_us);
void metrics_commit(struct metrics *m, bool ok, int64_t took_us);
void metrics_step(struct metrics *m, int64_t took_us); /* compute thread: one step of a work */

void metrics_write(const struct metrics *m, struct buf *out);
/* One state: help and type lines, then the value. */
void metrics_gauge(struct buf *out, const char *name, const char *help, double value);

#endif
