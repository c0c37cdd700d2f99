/* The daemon's one context: the models it serves, ledger, queues. Created by main, passed
 * everywhere, no globals.
 *
 * What a request looks at or changes is a served model (server/served.h), found through the
 * registry (server/models.h): call_served does that once per request.
 *
 * Threads: daemon_* are thread safe; call_served belongs to the thread of its call.
 */
#ifndef ENGRAM_DAEMON_H
#define ENGRAM_DAEMON_H

#include "call.h"
#include "budget.h"
#include "config.h"
#include "models.h"
#include "rate.h"
#include "work.h"

/* The model that `model` of a request (body or query) names, or the first one. Borrowed from the
 * call; a work that outlives it must retain it. A refusal says so where the ledger knows the name. */
struct served *call_served(struct call *c, const struct json *request, struct err *e) MUST_CHECK;
struct served *call_model(struct call *c, const char *name, struct err *e) MUST_CHECK; /* NULL: the first */

/* Memory for a work, or the refusal. Revisions that are at hand only for speed make room first,
 * then the answers of ended jobs. */
bool daemon_lease(struct daemon *d, const struct plan *p, struct lease *out, struct err *e) MUST_CHECK;
struct budget *daemon_budget(struct daemon *d);
int daemon_threads(struct daemon *d); /* of computing */
struct rate *daemon_rate(struct daemon *d);

const char *daemon_data(struct daemon *d);       /* the ledger's directory */
const struct config *daemon_config(struct daemon *d); /* what it was started with */
struct models *daemon_models(struct daemon *d);
/* A base the ledger does not know yet: register it there (through the writer; may wait for it). */
bool daemon_add_row(struct daemon *d, struct served *s, const char *author, bool verified,
                    struct err *e) MUST_CHECK;
/* engine, kernel and threads of every result made here */
void daemon_provenance(struct daemon *d, struct provenance *out);

#endif
