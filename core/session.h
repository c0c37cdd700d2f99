/* A session: one compute thread's scratch memory and helper threads. Everything that runs a model
 * takes one. Belongs to one thread; passes that interleave (a long job and a brief one between its
 * steps) may share it, because nothing in it survives a step.
 */
#ifndef ENGRAM_SESSION_H
#define ENGRAM_SESSION_H

#include "core/kernel/attention.h"
#include "core/kernel/matrix.h"
#include "model.h"

struct session {
    struct par *par;
    struct attention_scratch attention;
    struct matrix_scratch matrix;
    float *scratch;        /* rows of the widest layer parts, grown on demand */
    size_t scratch_floats;
};

struct session *session_new(int threads, struct err *e) MUST_CHECK;
void session_free(struct session *s);
/* At least `floats` floats, contents undefined; valid until the next call. */
float *session_scratch(struct session *s, size_t floats, struct err *e) MUST_CHECK;

#endif
