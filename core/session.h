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
    struct scratch attention, matrix; /* of those kernels */
    struct scratch rows;              /* of the widest layer parts */
};

struct session *session_new(int threads, struct err *e) MUST_CHECK;
void session_free(struct session *s);
/* Give scratch back to the machine; the next step takes what it needs. */
void session_trim(struct session *s);
/* What a pass of so many rows leaves in it, its longest sequence ending at position `longest`. */
size_t session_bytes(const struct arch *a, size_t rows, size_t longest, int threads);
/* At least `floats` floats, contents undefined; valid until the next call. */
float *session_scratch(struct session *s, size_t floats, struct err *e) MUST_CHECK;

#endif
