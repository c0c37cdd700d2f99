/* Members of "writes" that name a feature of a sparse autoencoder instead of a site: {"sae", "feature", "op", "weight"}.
 *
 * Lists live in the look's arena; the autoencoders are held until the tapping is released. Only members.c, writes.c and
 * the routes with writes use this. */
#ifndef ENGRAM_SAE_WRITE_H
#define ENGRAM_SAE_WRITE_H

#include "members.h"
#include "probes/feature_write.h"
#include "server/saes.h"

struct sae_member {
    struct loaded_sae *sae; /* retained */
    uint32_t feature, head;
    float *work;
};

/* The autoencoder of a member, and its site as the member's only one. */
bool sae_member(struct look *l, struct tapping *t, const struct json *v, const char *field, struct member *out, struct err *e) MUST_CHECK;
/* The head that its autoencoder reads, into the place. */
void sae_member_head(const struct member *m, struct trace_place *p);
/* w, whose op and weight are known, as the feature's. */
bool sae_member_write(struct look *l, const struct member *m, struct trace_write *w, struct err *e) MUST_CHECK;
void sae_members_release(struct tapping *t);
/* "sae" of an effect. */
void sae_member_put(const struct tapping *t, size_t member, jout *o);

#endif
