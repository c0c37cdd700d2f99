/* What the methods of POST /v1/attribution share: attribution.c has the table of them. HTTP threads. */
#ifndef ENGRAM_ATTRIBUTION_INT_H
#define ENGRAM_ATTRIBUTION_INT_H

#include "handlers.h"
#include "pairs.h"

struct attribution_field { /* of other methods; lists end with name NULL */
    const char *name, *why;
};
/* False, naming the field, where the request has one of them. */
bool attribution_refuses(const struct json *q, const struct attribution_field *f, struct err *e) MUST_CHECK;
/* Has each metric a gradient (norm_logit_diff has its difference's)? */
bool attribution_gradients(const struct pairs *p, const struct json *q, struct err *e) MUST_CHECK;

struct work *attribution_eap(struct call *c, struct err *e);
struct work *attribution_ig(struct call *c, struct err *e);

#endif
