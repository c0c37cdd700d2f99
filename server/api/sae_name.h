/* Where a request names a sparse autoencoder of its model. No state; HTTP threads. */
#ifndef ENGRAM_SAE_NAME_H
#define ENGRAM_SAE_NAME_H

#include "look.h"
#include "server/saes.h"

/* Found, retained, and its digests in the look's key; NULL and an error that blames the field. */
struct loaded_sae *sae_named(struct look *l, const struct json *name, const char *field, struct err *e) MUST_CHECK;
/* Its members in an answer. */
void sae_put(jout *o, const struct loaded_sae *s);

#endif
