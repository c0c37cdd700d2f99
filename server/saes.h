/* The sparse autoencoders of a served model (core/sae.h), by name, in the order they were loaded.
 *
 * Each is read for one model, at one of its sites, and lives with it: it goes when the model is dropped, or when it is
 * taken out. Works that hold one finish on it. What identifies it is the SHA-256 of the file of weights and that of
 * cfg.json; both join the key of the log wherever a request names one, with the site.
 *
 * Ownership: counted; the list holds a reference to each, what it hands out is retained. The memory is taken from the
 * budget before it is read and given back by whoever drops the last reference. Threads: all functions are thread safe;
 * an autoencoder is constant once it is in the list.
 */
#ifndef ENGRAM_SAES_H
#define ENGRAM_SAES_H

#include <stdatomic.h>

#include "budget.h"
#include "core/sae.h"
#include "ledger/ledger.h"

enum { SAES_MOST = 64 }; /* of one model */

struct loaded_sae {
    char name[NAME_TEXT];
    struct site site;
    struct sae *sae;
    char digest[DIGEST_TEXT], cfg_digest[DIGEST_TEXT];
    struct lease memory; /* private, as what follows */
    _Atomic size_t references;
};

/* Read the folder for a model of that description. site NULL: that of its cfg.json. */
struct loaded_sae *loaded_sae_open(const char *folder, const char *name, const struct arch *a, const char *site,
                                   struct budget *budget, struct err *e) MUST_CHECK;
struct loaded_sae *loaded_sae_retain(struct loaded_sae *s);
void loaded_sae_drop(struct loaded_sae *s);

struct saes;
struct saes *saes_new(void);
void saes_free(struct saes *l);

/* Refused when the name is taken, or there are too many. */
bool saes_may_add(struct saes *l, const char *name, struct err *e) MUST_CHECK;
bool saes_add(struct saes *l, struct loaded_sae *s, struct err *e) MUST_CHECK;
bool saes_remove(struct saes *l, const char *name, struct err *e) MUST_CHECK;
/* NULL and an error that lists the names. */
struct loaded_sae *saes_find(struct saes *l, const char *name, struct err *e) MUST_CHECK;
/* All; returns how many. Drop each. */
size_t saes_list(struct saes *l, struct loaded_sae *out[SAES_MOST]);

#endif
