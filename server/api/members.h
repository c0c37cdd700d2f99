/* Members of "reads" and "writes" before it matters which of the two they are: the sites and inputs a
 * member speaks of, its place in one of these, and what all places together may ask for.
 *
 * Everything lives in the look's arena. No state; HTTP threads. Only reads.c and writes.c include this.
 */
#ifndef ENGRAM_MEMBERS_H
#define ENGRAM_MEMBERS_H

#include "writes.h"

struct sae_member;

struct member { /* of "reads" or "writes" */
    size_t number;    /* in its list */
    const struct json *v;
    char field[64];
    struct sites sites;
    size_t from, to;  /* the inputs it speaks of: [from, to) */
    size_t text;      /* generate: the input its source is; SIZE_MAX while it is not known */
    const struct resolved *source_view;
    const struct sae_member *sae; /* it writes a feature (sae_write.h); or NULL */
};

/* All members of a list, and how many places they name: known before any is laid out, so that few bytes
 * cannot ask for much memory. list: "reads" or "writes". */
bool members_read(struct tapping *t, struct look *l, const struct json *members, const char *list,
                  struct member **out, size_t *places, struct err *e) MUST_CHECK;
/* pos and head of a member, for one of its sites and inputs. */
bool member_place(struct look *l, const struct tapping *t, const struct member *m, struct site site, size_t input,
                  struct trace_place *out, struct err *e) MUST_CHECK;

/* Heads, and values a head, at a place. */
size_t member_heads(const struct look *l, const struct trace_place *p);
size_t member_width(const struct look *l, const struct tapping *t, const struct trace_place *p);
/* Adds its values to what was asked for. Refused as soon as it is too much: the lists of places alone
 * could fill the memory. */
bool member_count(struct tapping *t, const struct look *l, const struct trace_place *p, const char *list,
                  struct err *e) MUST_CHECK;

#endif
