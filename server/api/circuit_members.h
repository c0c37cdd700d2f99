/* A circuit as requests say it: "circuit".
 *
 *     "id or name"                                    a stored region of heads
 *     {"unit","members"}, {"union": […]}, …           an expression over them (region_expr.h)
 *     {"heads": [{"layer","head"}, …], "mlps": […]}   heads, and layers of MLPs: with "mlps", even empty, MLPs are ablated
 *
 * Comes out as units (probes/circuit.h), in the look's arena, and joins the key of the log: a name may mean another
 * region tomorrow. Refused, naming the member: what is not there, what is named twice, a circuit of nothing, regions
 * that are not of heads. HTTP threads; no state.
 */
#ifndef ENGRAM_CIRCUIT_MEMBERS_H
#define ENGRAM_CIRCUIT_MEMBERS_H

#include "look.h"
#include "probes/circuit.h"

bool circuit_members_read(struct look *l, struct call *c, struct circuit_request *q, struct err *e) MUST_CHECK;

#endif
