/* The reads and writes of trace and generate: JSON to places of named inputs. A member that names no
 * input speaks of all; one whose site is a pattern, of all sites that match.
 *
 * Inputs are a growing list: those of the request first, then texts that a write of `generate`
 * takes values from. Everything lives in the look's arena.
 */
#ifndef ENGRAM_WRITES_H
#define ENGRAM_WRITES_H

#include "gradients.h"
#include "look.h"
#include "place.h"
#include "probes/trace.h"

enum {
    MOST_VALUES = 1 << 23, /* floats that one request may read (and have as JSON) and write */
    MOST_BYTES_VALUES = 1 << 26, /* and read, where they are answered as bytes */
    MOST_PLACES = (1 << 16) - 2, /* members of its lists times the sites and inputs they speak of */
    MOST_PATTERNS = 64,    /* members of a list whose site is a pattern */
};

struct capture {
    bool gradient;
    size_t of;    /* number in `read`, or of the request in `gradients`… */
    size_t index; /* …and the place's number there */
};

struct steering;
struct sae_member;

struct tapping {
    struct named_input *input;
    size_t n_inputs, n_named; /* the first n_named can be named by reads and writes */
    struct trace_place *read;
    size_t n_reads;
    struct gradient_reads *gradients; /* NULL: none is asked for */
    struct capture *capture;  /* what is read, in the order asked */
    size_t n_captures;
    struct trace_write *write;
    size_t *write_of;         /* which member of "writes" each write came from */
    size_t n_writes;
    struct steering *steering; /* sources made before the run (steering.h) */
    size_t n_steering, next_steering;
    struct sae_member *sae;   /* [members of "writes"] features that are written (sae_write.h) */
    size_t n_saes;
    float *work;              /* room for them */
    size_t work_floats;
    struct resolved *view;    /* views that sources name, counted */
    size_t n_views;
    size_t n_values, most_values; /* floats read and written so far, and at most */
};

/* Room for all of a request's reads and writes, given its inputs. */
bool tapping_reads(struct tapping *t, struct look *l, struct call *c, const struct json *reads,
                   struct err *e) MUST_CHECK;
/* texts: `from.input` is a text to run (generate) rather than an input's id. */
bool tapping_writes(struct tapping *t, struct look *l, struct call *c, const struct json *writes,
                    bool texts, struct err *e) MUST_CHECK;
/* Where capture i is read. */
const struct trace_place *tapping_place(const struct tapping *t, size_t i);
void tapping_release(struct tapping *t);

/* "writes": what each member did, all its sites and inputs together. effect: one for each write. False
 * where a member touched nothing. */
struct effect {
    size_t elements;
    float max_change;
    bool goes_on; /* at generated positions */
};
bool tapping_effects(const struct tapping *t, const struct effect *effect, bool generates, jout *root,
                     struct err *e) MUST_CHECK;

#endif
