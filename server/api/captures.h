/* What a trace read, in its answer: as JSON, or described there and packed as bytes beside it.
 *
 * In bytes a capture is called "{input}/{site}", ".grad" behind it where it is a gradient, and ".2",
 * ".3" … where the name has gone to an earlier one; letters of an input's id that a file's name should
 * not have are "_". The description says which is which, and travels along: as the metadata "answer" of
 * safetensors, as the member "answer.json" of an npz.
 *
 * Worker thread.
 */
#ifndef ENGRAM_CAPTURES_H
#define ENGRAM_CAPTURES_H

#include "core/model.h"
#include "server/media.h"
#include "writes.h"

struct captured {
    const float *values;
    size_t n;
    double metric;    /* the value of a gradient's metric */
    uint32_t n_dims;
    uint64_t shape[3];
    char name[192];
};

/* The id's letters that are safe in any file's name; no leading dot. */
void captures_safe_id(const char *id, char out[80]);
/* Fill shape and name of all; values are there. */
bool captures_name(const struct tapping *t, const struct arch *a, struct captured *c, struct err *e) MUST_CHECK;
/* A warning where values are not finite. */
void captures_warn(const struct tapping *t, struct look *l, const struct captured *c);
/* "captures" into root; with their values, or with their names. */
void captures_write(const struct tapping *t, const struct look *l, const struct captured *c, bool values, jout *root);
/* The bytes of all; `answer`: the JSON they belong to. */
bool captures_pack(enum media m, const struct captured *c, size_t n, const struct buf *answer, struct buf *out,
                   struct err *e) MUST_CHECK;

#endif
