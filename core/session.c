#include "session.h"

#include "block.h"
#include "plan.h"

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
    session_trim(s);
    mem_drop(s);
}

void session_trim(struct session *s)
{
    scratch_release(&s->attention);
    scratch_release(&s->matrix);
    scratch_release(&s->rows);
}

size_t session_bytes(const struct arch *a, size_t rows, size_t longest, int threads)
{
    size_t qkv = ((size_t)a->n_heads + 2 * (size_t)a->n_kv_heads) * a->d_head, pre = arch_branches(a) * (size_t)a->d_mlp;
    size_t widest = qkv > pre ? qkv : pre, narrow = (size_t)a->n_heads * a->d_head;
    if (a->d_vocab > widest) widest = a->d_vocab;
    if (a->d_model > narrow) narrow = a->d_model;
    size_t bytes = plan_sum(mem_floats_bytes(block_rows_floats(a, rows)), attention_bytes(a, longest, threads));
    return plan_sum(bytes, matrix_scratch_bytes(widest, narrow));
}

float *session_scratch(struct session *s, size_t floats, struct err *e)
{
    return scratch_grow(&s->rows, floats, e) ? s->rows.data : NULL;
}
