/* Senders and receivers of a path patch, as requests say them.
 *
 *     "senders"     "heads": every head, every MLP and the embedding
 *                   [{"layer","head"} | {"layer","mlp": true} | {"embed": true}, …]
 *     "receivers"   "logits", or [{"layer","head","input": "q" | "k" | "v"}, …], of k and v key/value heads
 *
 * Lists come out in the order of the pass, in the look's arena. Refused, naming the member: layers and heads that
 * are not there, a member that is neither or more than one of these, what is named twice. HTTP threads; no state.
 */
#ifndef ENGRAM_PATH_PLACE_H
#define ENGRAM_PATH_PLACE_H

#include "look.h"
#include "probes/path_patch.h"

bool path_senders_read(struct look *l, struct path_request *q, struct err *e) MUST_CHECK;
bool path_receivers_read(struct look *l, struct path_request *q, struct err *e) MUST_CHECK;

#endif
