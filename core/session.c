#include "session.h"

struct session *session_new(int threads, struct err *e)
{
    struct session *s = mem_new(sizeof *s);
    s->par = par_new(threads, e);
    if (s->par) return s;
    session_free(s);
    return NULL;
}

void session_free(struct session *s)
{
    if (!s) return;
    par_free(s->par);
    mem_drop(s->attention.data);
    mem_drop(s->matrix.data);
    mem_drop(s->scratch);
    mem_drop(s);
}

float *session_scratch(struct session *s, size_t floats, struct err *e)
{
    if (floats > s->scratch_floats) {
        mem_drop(s->scratch);
        s->scratch_floats = 0;
        s->scratch = mem_floats(floats, e);
        if (s->scratch) s->scratch_floats = floats;
    }
    return s->scratch;
}
