/* One HTTP request as handlers see it: route, path parameters, query, validated body, who asks.
 *
 * The transport has already checked framing, Host, token, role, method, declared length, strict
 * JSON and the schema of the route; a handler checks only meaning. Handlers run on HTTP threads
 * and may read the ledger through c->reader (this thread's read-only connection); they never
 * compute. A compute route's `prepare` makes every check that needs no forward pass and returns
 * the work (server/work.h) for the compute thread.
 *
 * Memory: everything handed out by the call lives in c->arena until the request ends; what a work
 * keeps it must copy.
 */
#ifndef ENGRAM_CALL_H
#define ENGRAM_CALL_H

#include "core/base/json.h"
#include "ledger/ledger.h"

struct daemon;
struct job;
struct route;
struct served;
struct work;

enum level { LEVEL_NONE, LEVEL_READER, LEVEL_PROBER, LEVEL_EDITOR, LEVEL_ADMIN };

struct principal {
    char name[NAME_TEXT]; /* "local" where no tokens are in use */
    enum level level;
    bool verified;        /* it came from a token */
};

struct call {
    struct daemon *daemon;
    const struct route *route;
    struct principal who;
    const char *param[2];        /* decoded path parameters, in order */
    const struct json *query;    /* object of strings and numbers, validated; never NULL */
    const struct json *body;     /* validated object, or NULL */
    struct buf *lines;           /* a body of JSON lines, unread, for the handler to take; or NULL */
    struct idempotency key;      /* key "" when absent */
    const char *if_match;        /* revision id without quotes, or NULL */
    const char *if_none_match;   /* raw ETag, or NULL */
    const char *accept;          /* or "" */
    const char *last_event_id;   /* or NULL */
    bool no_cache;               /* Cache-Control: no-cache */
    struct ledger_reader *reader;
    struct arena *arena;
    struct served *served;       /* found by call_served, held until the request ends; or NULL */
};

struct reply { /* of a synchronous handler: body, then *kept, then tail */
    int status;               /* 200 unless set */
    const char *content_type; /* application/json unless set */
    char etag[80];            /* with quotes; "" for none */
    struct buf body;          /* released by the transport */
    struct job *job;          /* or NULL: whose bytes are sent; its reference is given to the transport */
    const struct buf *kept;   /* those bytes, sent from where they lie; NULL: none */
    const char *tail;         /* constant; NULL: nothing */
};

/* How a route is served; exactly one function of a row is set. */
typedef bool (*sync_fn)(struct call *c, struct reply *r, struct err *e);
typedef struct work *(*prepare_fn)(struct call *c, struct err *e);

struct shape; /* generated validator table, server/validate.h */

/* How a route speaks where protocols differ: refusals, streams, and answers that take long.
 *
 *             a refusal                    an event of a stream         not done in time
 *     OWN     application/problem+json     id, event, data; ids count   202 and the job's address
 *     OPENAI  {"error": {…}}               data alone; [DONE] ends      no such thing: the caller waits */
enum dialect { DIALECT_OWN, DIALECT_OPENAI };

enum route_serves { SERVES_SYNC, SERVES_WORK, SERVES_EVENTS, SERVES_LATER /* 501 */ };

struct route { /* generated from schema/routes.json into gen/routes.c */
    const char *method;   /* "GET" (also serves HEAD), "POST", "DELETE" */
    const char *path;     /* template: "/v1/runs/{run}" */
    const char *summary;
    enum route_serves serves;
    enum dialect dialect;
    enum level level;     /* least role; LEVEL_NONE: open to all */
    bool writes;          /* If-Match and Idempotency-Key count */
    bool lines;           /* takes application/x-ndjson beside JSON */
    size_t body_limit;    /* bytes; 0: no body */
    const struct shape *query, *body; /* NULL: none */
    sync_fn sync;
    prepare_fn prepare;
};
extern const struct route routes[];
extern const size_t n_routes;

#endif
