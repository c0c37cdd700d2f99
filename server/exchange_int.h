/* What the three files of an exchange share: building a reply, and the runner of compute routes.
 *
 * exchange.c has the life of an exchange, its synchronous and event routes; exchange_head.c the
 * checks before the body; exchange_work.c jobs. The rules of exchange.h hold: one HTTP thread at a
 * time, except exchange_ready.
 *
 * Header values are borrowed: they live in the arena or forever.
 *
 * Nothing outside those files includes this.
 */
#ifndef ENGRAM_EXCHANGE_INT_H
#define ENGRAM_EXCHANGE_INT_H

#include "exchange.h"

void exchange_add_header(struct exchange *x, const char *name, const char *value);
void exchange_reply_problem(struct exchange *x, const struct problem *p);
enum next exchange_reply_err(struct exchange *x, const struct err *e); /* always NEXT_REPLY */
bool exchange_subscribe(struct exchange *x); /* false and a reply: too many streams */
enum next exchange_run_work(struct exchange *x);

#endif
