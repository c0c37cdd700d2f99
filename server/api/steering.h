/* Sources that are made before the run a write goes into: {"mean_of"} and {"difference"}.
 *
 *     "mean_of": [INPUT…], "pos"                               pos: the last when absent; several are averaged
 *     "difference": {"plus": [INPUT…], "minus": [INPUT…], "pos": "last" | "mean"}
 *
 * Each is one vector for all positions and inputs it is written at; a member with several sites has one of each.
 * Lists live in the look's arena. Only writes.c and the routes with writes use this. */
#ifndef ENGRAM_STEERING_H
#define ENGRAM_STEERING_H

#include "members.h"
#include "probes/steer.h"

struct steering {
    const struct json *from; /* whose source it is… */
    struct site site;        /* …at which site */
    struct steer_request q;
    struct trace_input *in;  /* what q borrows */
    struct trace_place *read;
    double *share;
    struct input *input;
    size_t n_inputs;
    struct steer *steer;     /* while it is made */
    double norm;
};

/* w's values, which are there once steering_step is through. view: the one that is looked at or the source's. */
bool steering_source(struct look *l, struct tapping *t, const struct json *from, const char *field,
                     struct trace_write *w, struct err *e) MUST_CHECK;
void steering_plan(const struct tapping *t, int threads, struct plan *p);
/* Make the next; STEP_DONE when all are made. */
enum step steering_step(struct tapping *t, struct session *s, struct err *e);
/* Of a member at a site; NULL when its source is another. */
const struct steering *steering_of(const struct tapping *t, const struct json *from, struct site site);
void steering_release(struct tapping *t);

#endif
