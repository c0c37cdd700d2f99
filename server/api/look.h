/* What every look (trace, patch, localize, tuco) has in common: a pinned view, its own copy of the
 * request, a row in the ledger, and the right to be answered from the log.
 *
 * A look is the first member of a concrete work. look_begin, on the HTTP thread, copies the
 * validated request, holds the model it names, resolves the view and looks for a run of the same resolved request on the
 * same view digest, of a model file that says the same besides, with the same engine, kernel and threads. When there is one (and the client did
 * not forbid it) the work has nothing to do: look_cached says so and its finish answers from the
 * log, with "cached": true and the view as named this time.
 *
 * look_open / look_close write the common members of the answer and fill the outcome.
 */
#ifndef ENGRAM_LOOK_H
#define ENGRAM_LOOK_H

#include "answer.h"
#include "server/daemon.h"
#include "server/json.h"

struct forecast { /* of a look before it runs; cells 0: it has none */
    size_t cells, cells_run, rows;
    double flops;
    size_t bytes;
};

/* What a request may become before anything is leased: more is refused. */
enum { LOOK_ARENA_BYTES = 512 << 20 };

struct look {
    struct work work;
    struct arena arena;         /* lives as long as the work */
    const struct json *request; /* its own copy */
    struct resolved view;
    const struct resolved *against; /* or NULL; borrowed */
    const struct served *other; /* the model of that view, where it is another; borrowed */
    struct buf text;            /* the request as stored */
    uint8_t key[SHA256_BYTES];
    char run[ID_TEXT];
    int64_t seed;               /* -1: none */
    char if_match[ID_TEXT];     /* writes: the head the client expects, "" for any */
    struct run_row cached;      /* id "" when there is none */
    struct { char id[ID_TEXT], hash[DIGEST_TEXT]; } set; /* whose rows it reads; "" for none */
    struct buf beside;          /* lines that join the key: what the request only names */
    jout *warnings;             /* array, taken by look_close; NULL for none */
    struct forecast forecast;   /* dry_run.h */
    const struct work_ops *real; /* of a dry run: the ops of the look itself */
};

/* Copy the request and resolve `view` (member of the request). The look must be
 * zeroed; on failure release it with look_release. ops->kind names the run. */
bool look_begin(struct look *l, struct call *c, const struct work_ops *ops, struct err *e) MUST_CHECK;
void look_release(struct look *l);
/* Another view the request names. */
bool look_view(struct look *l, struct call *c, const char *name, struct resolved *out,
               struct err *e) MUST_CHECK;
/* What that view really is joins the key of the log in place of its name "against", and is said
 * anew in a cached answer. */
void look_also(struct look *l, const struct resolved *against);
/* It reads the rows of a set: its hash joins the key in place of its name, and it is echoed as "set". */
void look_set(struct look *l, const struct artefact_row *set);
/* It uses something stored that a name means today: its hash joins the key. */
void look_uses(struct look *l, const struct artefact_row *row);
/* A line that joins the key of the log: hashes of what the request names and no digest of the view says. */
void look_beside(struct look *l, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Look in the log. Call after every view is resolved and the seed is known. */
bool look_find(struct look *l, struct call *c, struct err *e) MUST_CHECK;
static inline bool look_cached(const struct look *l) { return l->cached.id[0] != '\0'; }

/* Memory for what the work is about to do, held until it is released; before anything is allocated. */
bool look_lease(struct look *l, const struct plan *p, struct err *e) MUST_CHECK;

/* Is the head that a write has just pinned the one its If-Match names? It was when the request came,
 * but other writes may have been served before it. */
bool look_head_expected(const struct look *l, const struct resolved *head, struct err *e) MUST_CHECK;

/* Where no token says who it is, the request's own `author` stands (unverified). */
void look_author(struct look *l, const struct call *c);
const struct model *look_model(const struct look *l);
void look_warn(struct look *l, const char *word, const char *fmt, ...) PRINTF_LIKE(3, 4);

jout *look_open(struct look *l); /* {"run","view"} */
/* Who and what made the result of this work. */
void look_provenance(const struct look *l, struct provenance *by);
/* The outcome is a row of its own (kind ops->kind, id l->run) with o->body as its result. */
void look_record(const struct look *l, struct outcome *o);
/* Adds warnings, prints, and records. Takes root. */
bool look_close(struct look *l, jout *root, struct outcome *o, struct err *e) MUST_CHECK;
/* The whole of finish for a cached look. */
bool look_answer_cached(struct look *l, struct outcome *o, struct err *e) MUST_CHECK;
/* outcome.unrecorded of all looks. */
void look_unrecorded(struct work *w, struct buf *body);

#endif
