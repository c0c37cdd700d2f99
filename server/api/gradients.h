/* Reads of gradients: the members of "reads" with a `grad_of`, gathered by input and metric, since one
 * pass back serves every site of these (probes/gradient.h).
 *
 * Members may say the same metric in the same words: it is read once, and warned about once. Everything
 * lives in the look's arena; views that a `ref` names are counted and released.
 */
#ifndef ENGRAM_GRADIENTS_H
#define ENGRAM_GRADIENTS_H

#include "look.h"
#include "place.h"
#include "probes/gradient.h"

enum { MOST_GRADIENTS = 64 }; /* pairs of input and metric */

struct asked_metric {
    const char *text;       /* as asked */
    const struct json *json;
    struct metric metric;
    const struct resolved *ref_view; /* or NULL: the view looked at */
    const struct json *ref_pos;
    size_t ref_input;       /* SIZE_MAX: the input itself */
};

struct gradient_reads {
    struct asked_metric metric[MOST_GRADIENTS];
    struct gradient_request request[MOST_GRADIENTS];
    size_t metric_of[MOST_GRADIENTS];
    size_t n_metrics, n;             /* n: requests */
    struct resolved view[MOST_GRADIENTS];
    size_t n_views;
};

/* Which request a member's place in one input belongs to; a new one where needed. */
bool gradient_group(struct gradient_reads *g, struct look *l, struct call *c, const struct named_input *input,
                    size_t n_named, size_t at, const struct json *grad_of, const char *field, size_t *group,
                    struct err *e) MUST_CHECK;
/* After all: place k of `place` is one of request group[k]; index[k] ← its number there. in: as many as
 * the inputs. */
bool gradient_pack(struct gradient_reads *g, struct look *l, const struct trace_input *in,
                   const struct trace_place *place, const size_t *group, size_t n, size_t *index,
                   struct err *e) MUST_CHECK;
void gradients_plan(const struct gradient_reads *g, int threads, struct plan *p);
void gradient_release(struct gradient_reads *g);

/* "grad_of" of a capture: the metric as understood, and its value. */
void gradient_echo(const struct gradient_reads *g, const struct look *l, const struct named_input *input,
                   size_t group, double value, jout *o);

#endif
