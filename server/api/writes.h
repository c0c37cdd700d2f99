/* The reads and writes of trace and generate: JSON to places of named inputs.
 *
 * Inputs are a growing list: those of the request first, then texts that a write of `generate`
 * takes values from. Everything lives in the look's arena.
 */
#ifndef ENGRAM_WRITES_H
#define ENGRAM_WRITES_H

#include "input.h"
#include "look.h"
#include "place.h"
#include "probes/trace.h"

enum {
    MOST_VALUES = 1 << 23, /* floats that one request may read (and have as JSON) and write */
    MOST_PLACES = 1 << 16, /* members of its lists times the inputs they speak of */
};

struct named_input {
    const char *id;
    struct input in;
    struct places top;  /* positions whose distribution is asked for */
};

struct tapping {
    struct named_input *input;
    size_t n_inputs, n_named; /* the first n_named can be named by reads and writes */
    struct trace_place *read;
    size_t n_reads;
    struct trace_write *write;
    size_t *write_of;         /* which member of "writes" each write came from */
    size_t n_writes;
    struct resolved *view;    /* views that sources name, counted */
    size_t n_views;
    size_t n_values;          /* floats read and written so far */
};

/* Room for all of a request's reads and writes, given its inputs. */
bool tapping_reads(struct tapping *t, struct look *l, const struct json *reads, struct err *e) MUST_CHECK;
/* texts: `from.input` is a text to run (generate) rather than an input's id. */
bool tapping_writes(struct tapping *t, struct look *l, struct call *c, const struct json *writes,
                    bool texts, struct err *e) MUST_CHECK;
void tapping_release(struct tapping *t);

#endif
