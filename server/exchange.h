/* One request and its answer, from the raw head to the last byte, without the HTTP library.
 *
 *      new ─ header* ─ head ─┬─ body* ─ run ─┬─ REPLY ──────────────► sent ─ free
 *                            │               ├─ WAIT ─ again ─┬─ REPLY
 *                            └─ refused ─────┤                └─ WAIT (to record acceptance)
 *                                            └─ STREAM (events until the job ends)
 *
 * head makes every check that needs no body, in this order: framing, Host, path, method, token,
 * role, origin, length, media type. run validates, calls the handler, or admits the job a compute
 * handler prepared. While an exchange WAITs or STREAMs its connection sleeps; exchange_ready tells
 * the main thread when to wake it.
 *
 * A client that leaves while it waits takes its work along: its id was told to nobody. Not where
 * somebody may come back for it (with an Idempotency-Key, or to see what a change came to), nor where
 * others get the same answer. Who shuts down the sending side has left.
 *
 * Commit invariant at this end: a job that changes the ledger is accepted durably before it runs,
 * and no 202 leaves before the job it names is durable (a look whose acceptance cannot be written
 * is named all the same: it lives in memory).
 *
 * Ownership: an exchange belongs to one connection, so to one HTTP thread at a time. It owns its
 * arena, body and reply, and holds a reference to its job. exchange_ready may be called by the
 * main thread while the connection sleeps.
 */
#ifndef ENGRAM_EXCHANGE_H
#define ENGRAM_EXCHANGE_H

#include "daemon_int.h"
#include "router.h"

enum header {
#define HEADER(name, text, once) HEADER_##name,
#include "header.def"
#undef HEADER
    HEADER_COUNT
};

enum {
    MAX_SUBSCRIBERS = 64,
    MAX_WAITERS = 128,
    WAIT_DEFAULT_S = 30,
    WAIT_MOST_S = 600,
    IGNORED_BODY = 64 * 1024, /* a body nobody asked for is read and dropped up to this */
    EXTRA_HEADERS = 8,
};

enum next { NEXT_REPLY, NEXT_WAIT, NEXT_STREAM };

struct exchange {
    struct daemon *daemon;
    struct arena arena;
    struct lease lease;               /* of a large body's parts in it */
    char id[ID_TEXT];
    int64_t started_us;
    const char *target, *method;      /* raw */
    struct guard guard;
    const char *header[HEADER_COUNT]; /* NULL: absent */
    bool header_twice;
    uint64_t declared;                /* bytes of body */
    struct buf body;
    struct call call;                 /* call.route NULL until matched */
    enum dialect dialect;             /* of the route, or of the path before it is matched */
    bool refused;                     /* the reply is a refusal made before the body */

    struct reply reply;
    struct { const char *name, *value; } extra[EXTRA_HEADERS];
    size_t n_extra;
    bool close;                       /* close the connection after the reply */
    size_t answer_bytes;              /* of the reply's body, counted (budget.h) until the end */

    struct job *job;
    bool replay;                      /* the job was another request's, with the same key… */
    bool joined;                      /* …or one that finds out the same */
    int64_t wait_until_us;
    bool accepting;                   /* waiting for the job's acceptance to be durable */
    atomic_bool released;             /* stop waiting: the client left, too many wait, or the daemon stops */
    atomic_bool left;                 /* …the first of these */

    enum audience audience;           /* STREAM */
    int64_t after;                    /* id of the last event sent */
};

struct exchange *exchange_new(struct daemon *d, const char *target);
void exchange_free(struct exchange *x);

void exchange_header(struct exchange *x, const char *name, size_t name_len, const char *value,
                     size_t value_len);
bool exchange_head(struct exchange *x, const char *method) MUST_CHECK; /* false: reply is ready */
void exchange_body(struct exchange *x, const char *bytes, size_t n);
enum next exchange_run(struct exchange *x, struct ledger_reader *reader);
enum next exchange_again(struct exchange *x);
bool exchange_ready(struct exchange *x, int64_t now_us);
/* Is the job of use to nobody but who waits here? Then it goes when they leave. */
bool exchange_alone(const struct exchange *x);

/* The finished reply's bytes, in parts; they lie where they are until exchange_free. */
enum { REPLY_PARTS = 3 };
struct reply_part { const char *bytes; size_t len; };
size_t exchange_parts(const struct exchange *x, struct reply_part out[REPLY_PARTS]); /* their sum */
/* Count and log. Once, when the reply has been queued. */
void exchange_sent(struct exchange *x);
/* A refusal from outside: too many wait, the daemon stops. */
void exchange_refuse(struct exchange *x, enum problem_kind kind, const char *sentence);

/* Seconds a Prefer header asks to wait; WAIT_DEFAULT_S without one. */
int prefer_wait_s(const char *prefer);

#endif
