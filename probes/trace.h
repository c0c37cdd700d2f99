/* Trace: run prompts once, reading activations out and writing into the stream.
 *
 * Writes whose source is another run are resolved first: the source prompt is run without any
 * write, on its own view, and the values at the source site are captured; then all prompts run
 * together with reads and writes. A read at a written site sees the value after the write. Only the
 * positions whose logits are asked for, or that somebody reads or writes there, are unembedded.
 *
 * Positions and heads are absolute and ascending; everything is validated before trace_new
 * (indices inside the input, heads inside the hook), so a step fails only for lack of memory or
 * because a write touched nothing.
 *
 * Ownership: a trace copies nothing: ids, positions, heads and values are borrowed until
 * trace_free. Results belong to the trace. One thread.
 */
#ifndef ENGRAM_TRACE_H
#define ENGRAM_TRACE_H

#include "core/run.h"

struct trace_input {
    const uint32_t *ids;
    uint32_t n;
    const uint32_t *top_pos; /* positions whose next-token logits are wanted */
    size_t n_top;
};

struct trace_place { /* where: of one input */
    uint32_t input;
    struct site site;
    const uint32_t *pos;
    size_t n_pos;
    const uint32_t *head; /* NULL: all of the hook */
    size_t n_head;
};

enum trace_from { FROM_ZERO, FROM_VALUES, FROM_RUN };

struct trace_write {
    struct trace_place at;
    enum tap_op op;          /* TAP_SET, TAP_ADD, TAP_SCALE; TAP_MAP, then from is FROM_ZERO */
    float weight;
    enum trace_from from;
    const float *values;     /* FROM_VALUES: [n_pos or 1][heads][width] */
    size_t n_value_pos;
    struct trace_place source; /* FROM_RUN: its place; as many positions as at, or one */
    struct view *source_view;
    const struct tap_map *map; /* TAP_MAP */
};

/* A write as a tap of the run it goes into; src is NULL where the values come from a run. */
struct tap trace_write_tap(const struct trace_input *in, const struct trace_write *w);

/* Values read and written, logits, the runs, and the answer's text. */
void trace_plan(const struct arch *a, const struct trace_input *in, size_t n_in, const struct trace_place *read,
                size_t n_read, const struct trace_write *write, size_t n_write, int threads, struct plan *p);

struct trace;
struct trace *trace_new(struct view *v, const struct trace_input *in, size_t n_in,
                        const struct trace_place *read, size_t n_read,
                        const struct trace_write *write, size_t n_write, struct err *e) MUST_CHECK;
enum step trace_step(struct trace *t, struct session *s, struct err *e);
void trace_free(struct trace *t);
void trace_progress(const struct trace *t, size_t *done, size_t *total);

/* [n_top][V] */
const float *trace_logits(const struct trace *t, size_t input);
/* Values of a read in tap order (core/hook.h), and how many. */
const float *trace_values(const struct trace *t, size_t read, size_t *n);
void trace_written(const struct trace *t, size_t write, size_t *elements, float *max_change);

/* Values at a place: positions × heads × width (the pattern's width is the sequence). */
size_t trace_place_values(const struct arch *a, const struct trace_input *in, const struct trace_place *p);

#endif
