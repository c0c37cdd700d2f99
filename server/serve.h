/* `engramd serve`: start, run until told to stop, drain, end.
 *
 *     RUNNING ──signal──► DRAINING ──no live job──► RELEASING ──all answered──► loop ends
 *                            │ deadline or second signal: cancel everything
 *                            └────────► CANCELLING ──no live job──┘
 *
 * DRAINING: no new connections, no new work, /readyz says so; long jobs that wait end as
 * interrupted, what runs may finish within --drain-timeout. RELEASING: every sleeping request is
 * woken for its last answer, event streams end. Then the HTTP threads stop, the worker, the writer
 * (which checkpoints and closes the ledger), the loop.
 *
 * When ready, one line on stdout: `engramd: serving NAME on http://HOST:PORT`. All else goes to
 * the log on stderr.
 *
 * Threads: main.
 */
#ifndef ENGRAM_SERVE_H
#define ENGRAM_SERVE_H

#include "config.h"

int serve_main(const struct config *c); /* the process's exit status */

#endif
