/* What a look would cost, told instead of done: "dry_run": true.
 *
 * The request has passed every check that needs no forward pass; the answer has "dry_run": true, the view
 * and "cost": cells, rows, flops, seconds (server/rate.h) and bytes (the plan of memory). Nothing is leased,
 * run or recorded. The work is brief, whatever the look itself is.
 *
 * HTTP thread; the answer is written on the compute thread.
 */
#ifndef ENGRAM_DRY_RUN_H
#define ENGRAM_DRY_RUN_H

#include "look.h"

bool dry_run_asked(const struct look *l);
/* From now on the look's work only tells this. */
void dry_run(struct look *l, const struct forecast *f, const struct plan *plan);

#endif
