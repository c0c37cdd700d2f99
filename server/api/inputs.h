/* "inputs", or "input" for one: texts that a look runs, each with an id (its number when absent) and the
 * positions asked for.
 *
 * Lists live in the look's arena; release the inputs that were resolved, n of them, also after a failure. No
 * state; HTTP threads. */
#ifndef ENGRAM_INPUTS_H
#define ENGRAM_INPUTS_H

#include "look.h"
#include "place.h"

struct inputs {
    struct named_input *at;
    size_t n;
};

/* pos, which stands in the request as `field`, is resolved against each of them. */
bool inputs_read(struct inputs *in, struct look *l, const struct json *pos, const char *field, struct err *e) MUST_CHECK;
void inputs_release(struct inputs *in);
/* "layers" of a request below the model's, ascending; NULL json: all. */
bool inputs_layers(struct look *l, const struct json *layers, struct places *out, struct err *e) MUST_CHECK;

#endif
