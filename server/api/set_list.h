/* "set", "split", "limit" of a request: rows of a stored set as a list in the look's arena, as if they stood in the
 * request. The set joins the key of the log (look_set). HTTP threads; no state. */
#ifndef ENGRAM_SET_LIST_H
#define ENGRAM_SET_LIST_H

#include "look.h"

struct set_need {
    const char *one_of[3]; /* members, one of which each row must have; NULL: no more */
    const char *missing;   /* "no clean and corrupt" */
    size_t most;           /* rows */
};
/* *list NULL when the request names no set; split and limit are then refused. */
bool set_list_read(struct look *l, struct call *c, const struct set_need *need, const struct json **list, struct err *e) MUST_CHECK;

#endif
