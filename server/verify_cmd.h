/* `engramd verify`: check the whole ledger, and rebuild every revision of each --model and compare
 * digests. Progress on stderr when that is a terminal; on stdout one JSON line:
 *
 *     {"ok":true,"seq":12,"rows":40,"head":"sha256:…","checked":{"chain":40,"objects":9,"digests":12},
 *      "pruned":0,"replayed":["a"]}                  and "problem":"…" when not ok
 *
 * "replayed" are the names of the models that were rebuilt, as --model gives them; where there are
 * none a "hint" says so, for then only what is written was checked, not what it makes of the weights.
 *
 * Exit status: 0 everything agrees, 1 a disagreement (named), 2 it could not be read.
 *
 * Threads: main, no daemon running in this process; reads a ledger in use without disturbing it.
 */
#ifndef ENGRAM_VERIFY_CMD_H
#define ENGRAM_VERIFY_CMD_H

#include "config.h"

int verify_main(const struct config *c);

#endif
