/* The events of one job: a ring of the newest, and their form on the wire (server-sent events).
 *
 *     id: 7
 *     event: progress
 *     data: {"done":3,"total":30,"unit":"layers"}
 *
 * Ids count from 1 per job. A reader keeps the id it saw last and asks for what follows; one that
 * fell behind the ring, or names an id never given, gets `reset` and its stream ends: it must read
 * the job itself. Nothing grows per reader.
 *
 * Two audiences read the same ring. AUDIENCE_JOB (GET /v1/jobs/{id}/events) sees everything, the
 * answer as `result`. AUDIENCE_STREAM (a streaming generate) sees what the work emitted, then the
 * answer as `done`; states and progress are left out. Both end with that or with `error`.
 * AUDIENCE_BARE (OpenAI's protocol) sees what the work emitted as lines of data alone, then
 * `data: [DONE]`, or an error object in that protocol's words.
 *
 * A ring owns copies of its texts. The answer itself is the job's body: one line, which the reader
 * sends from where it lies (EVENTS_BODY), so it is there once however many read. No lock here: the job table's lock guards it.
 */
#ifndef ENGRAM_EVENTS_H
#define ENGRAM_EVENTS_H

#include "core/base/mem.h"

enum event_kind { EVENT_STATE, EVENT_PROGRESS, EVENT_EMITTED, EVENT_RESULT, EVENT_ERROR };
enum audience { AUDIENCE_JOB, AUDIENCE_STREAM, AUDIENCE_BARE };

enum { EVENT_NAME = 24, EVENTS_SHORT = 64, EVENTS_LONG = 1024 };

struct event {
    enum event_kind kind;
    char name[EVENT_NAME];
    char *data; /* NULL for EVENT_RESULT and EVENT_ERROR: the job's body */
};

struct events {
    struct event *ring; /* [cap], made at the first event */
    size_t cap;
    int64_t first, next; /* ids kept: first .. next-1 */
};

void events_init(struct events *v, size_t cap);
void events_release(struct events *v);
void events_add(struct events *v, enum event_kind kind, const char *name, const char *data);

enum events_state { EVENTS_WROTE, EVENTS_WAIT, EVENTS_END, EVENTS_BODY };
/* Append what follows *after (at most ~8 KiB, at least one event) to out and move *after. WAIT:
 * nothing new; END: the last event, or `reset`, has been written; BODY: the last has been begun, and
 * ends with the body and EVENT_CLOSE. */
enum events_state events_write(const struct events *v, enum audience who, const struct buf *body,
                               int64_t *after, struct buf *out);
#define EVENT_CLOSE "\n\n"

/* What a stream begins with: how soon an EventSource may ask again, in milliseconds. */
#define EVENTS_RETRY "retry: 2000\n\n"
/* One event's text. */
void event_write(struct buf *out, int64_t id, const char *name, const char *data, size_t len);

#endif
