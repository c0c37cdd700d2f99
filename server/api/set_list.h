/* Rows of a stored set as a list in the look's arena, as if they stood in the request: {"set","split","limit"}. The
 * set's hash joins the key of the log in place of its name. HTTP threads; no state. */
#ifndef ENGRAM_SET_LIST_H
#define ENGRAM_SET_LIST_H

#include "look.h"

struct set_need {
    bool (*fits)(const struct json *row);
    const char *missing;   /* of one that does not: "no clean and corrupt" */
    size_t most;           /* rows */
};
/* The request's own set, which is echoed. *list NULL when it names none; split and limit are then refused. */
bool set_list_read(struct look *l, struct call *c, const struct set_need *need, const struct json **list, struct err *e) MUST_CHECK;
/* Another that `ref` names, which stands in the request as `field`. */
bool set_list_of(struct look *l, struct call *c, const struct json *ref, const char *field, const struct set_need *need,
                 const struct json **list, struct err *e) MUST_CHECK;

#endif
