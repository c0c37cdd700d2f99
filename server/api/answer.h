/* Pieces that many answers share: revisions, runs, stored things, views, times, controls; and finishing a reply.
 *
 * An answer is a tree of jout nodes (json.h), printed once by answer_reply, which frees it whether
 * or not it succeeds. Optional columns of a row that are "" become absent members, never "".
 *
 * Any thread; no state.
 */
#ifndef ENGRAM_ANSWER_H
#define ENGRAM_ANSWER_H

#include "probes/stats.h"
#include "server/daemon.h"
#include "server/json.h"

/* The body of a reply, application/json. Takes root. */
bool answer_reply(struct reply *r, jout *root, struct err *e) MUST_CHECK;
/* Give the reply that ETag (with quotes); true when the client already has it: status 304, done. */
bool answer_unchanged(const struct call *c, struct reply *r, const char *etag);

/* "2026-03-01T12:00:00.000000Z" */
void time_text(int64_t utc_us, char out[32]);

/* Members of a revision, added to o. `model` is the served name. */
void answer_revision(jout *o, const struct revision *rev, const char *model);
/* Members of a run; request and result only where the row has them. */
void answer_run(jout *o, const struct run_row *run, const char *model);
/* Members of a model and where its main branch stands. */
bool answer_model(jout *o, struct served *s, struct err *e) MUST_CHECK;
/* The members of an object that we wrote ourselves; and of its text. */
bool answer_members(jout *o, const struct json *v);
bool answer_text(jout *o, const char *text, size_t len, struct err *e) MUST_CHECK;
/* Who stored it and when, and the run that made it. */
void answer_stored(jout *o, const struct artefact_row *row);
/* A number beside those of random sets, and "ci": [low, high], absent where low is NaN. */
void answer_control(jout *o, const struct control *c, int64_t n, int64_t seed);
void answer_interval(jout *o, double low, double high);
/* "view": {"model","name","revision","digest"} */
void answer_view(jout *o, const char *key, const struct resolved *v);

#endif
