/* The daemon's log: one JSON object a line on stderr.
 *
 *     {"time":"2026-01-31T12:00:00.123456Z","level":"info","event":"ready","message":"…"}
 *     {"time":…,"level":"info","event":"request","id":"req_…","by":"ann","method":"GET",
 *      "route":"/v1/runs/{run}","status":200,"ms":0.412,"bytes":1234}
 *
 * Never a prompt, a token or an answer: routes are templates, callers are token names. A line is
 * one write, so lines of several threads do not mix.
 *
 * Threads: any. The level is fixed at the start.
 */
#ifndef ENGRAM_LOG_H
#define ENGRAM_LOG_H

#include <stdint.h>

#include "core/base/err.h"

struct log;

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };

struct log *log_new(const char *level, struct err *e) MUST_CHECK; /* "info"… */
void log_free(struct log *l);

void log_say(struct log *l, enum log_level level, const char *event, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

struct log_request {
    const char *id, *by, *method, *route;
    int status;
    int64_t took_us;
    size_t bytes;
};
void log_request(struct log *l, enum log_level level, const struct log_request *r);

#endif
