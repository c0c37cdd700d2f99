/* The registry: which models are served, under which names, in the order they were loaded.
 *
 * A request names its model; one that names none means the first, the one that was loaded before
 * the others. Names are unique, and so are bases: the ledger keeps one history per base, so the same
 * weights under two names would be two memories of one history.
 *
 * A model taken out is found by no later request; jobs that hold it finish on it. Loaded again while
 * such a job still runs, the base has two served models for a moment: models_is_current tells which
 * of them may commit.
 *
 * Ownership: the registry holds a reference to each model it lists; what it hands out is retained.
 * Threads: all functions are thread safe. models_add and models_is_current agree with commits only
 * when they and the commits are on one thread, the compute thread (at start: main, before it runs).
 */
#ifndef ENGRAM_MODELS_H
#define ENGRAM_MODELS_H

#include "served.h"

enum { MODELS_MOST = 64 };

struct models;

struct models *models_new(void);
void models_free(struct models *m);

/* Refused, naming the other, when the name or the base is served already, or too many are. may_add
 * asks beforehand; base_digest NULL while only the name is known. */
bool models_may_add(struct models *m, const char *name, const char *base_digest, struct err *e) MUST_CHECK;
bool models_add(struct models *m, struct served *s, struct err *e) MUST_CHECK;
/* first: what a request that names none means from now on; "" when no model is left. */
bool models_remove(struct models *m, const char *name, char first[NAME_TEXT], struct err *e) MUST_CHECK;

/* A served name or the ledger's id; NULL: the first. NULL and an error that lists the names. */
struct served *models_find(struct models *m, const char *name, struct err *e) MUST_CHECK;
/* The model of that row, or NULL. */
struct served *models_find_row(struct models *m, const char *model_id);
/* Is this the served model of its base, or is none? False: it was taken out and loaded anew. */
bool models_is_current(struct models *m, const struct served *s);
size_t models_count(struct models *m);
/* All, the first first; returns how many. Drop each. */
size_t models_list(struct models *m, struct served *out[MODELS_MOST]);

#endif
