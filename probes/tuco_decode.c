#include "tuco_decode.h"

#include <string.h>

struct told { /* of one sequence */
    double *score;     /* [most tokens] */
    double *ptc, *ftc; /* [d] sums of the pass in hand */
    size_t n, most;
};

struct tuco_decode {
    struct view *view, *against;
    struct view_pair pair;
    struct decoder *decoder;
    struct told *of;
    size_t n;
};

static const struct arch *arch_of(const struct tuco_decode *t) { return &view_model(t->view)->arch; }

void tuco_decode_plan(const struct view *view, const struct decode_request *q, size_t n, int threads, struct plan *p)
{
    const struct arch *a = &view_model(view)->arch;
    decoder_plan(a, q, n, threads, p);
    decoder_plan_beside(a, q, n, true, p);
    for (size_t i = 0; i < n; i++)
        plan_add(p, NEED_CAPTURES, (2 * (size_t)a->d_model + decode_most(a, &q[i])) * sizeof(double));
}

static void tell(void *ctx, const struct pair_terms *terms)
{
    const struct tuco_decode *t = ctx;
    size_t d = arch_of(t)->d_model;
    for (size_t k = 0; k < terms->n; k++) {
        struct told *o = &t->of[terms->row[k].seq];
        const struct tuco_addends in = {{terms->attn[0] + k * d, terms->attn[1] + k * d},
                                        {terms->mlp[0] + k * d, terms->mlp[1] + k * d}};
        if (terms->layer == 0) memset(o->ptc, 0, 2 * d * sizeof *o->ptc);
        tuco_add(&in, d, o->ptc, o->ftc, NULL);
        if (terms->layer + 1 == arch_of(t)->n_layers && o->n < o->most)
            o->score[o->n++] = tuco_ratio(o->ptc, o->ftc, d, NULL, NULL);
    }
}

struct tuco_decode *tuco_decode_new(struct view *view, struct view *against, const struct decode_request *q, size_t n,
                                    struct err *e)
{
    struct tuco_decode *t = mem_new(sizeof *t);
    t->view = view_retain(view);
    t->against = view_retain(against);
    t->pair = (struct view_pair){.against = against, .alpha = 1.0f, .terms = tell, .ctx = t};
    t->n = n;
    t->of = mem_take(n, sizeof *t->of, e);
    bool ok = t->of != NULL;
    for (size_t i = 0; ok && i < n; i++) {
        struct told *o = &t->of[i];
        o->most = decode_most(arch_of(t), &q[i]);
        o->score = mem_take(o->most, sizeof *o->score, e);
        o->ptc = mem_take(2 * (size_t)arch_of(t)->d_model, sizeof *o->ptc, e);
        o->ftc = o->ptc ? o->ptc + arch_of(t)->d_model : NULL;
        ok = o->score && o->ptc;
    }
    t->decoder = ok ? decoder_new(view, q, n, NULL, e) : NULL;
    if (t->decoder) {
        decoder_beside(t->decoder, &t->pair);
        return t;
    }
    tuco_decode_free(t);
    return NULL;
}

void tuco_decode_free(struct tuco_decode *t)
{
    if (!t) return;
    decoder_free(t->decoder);
    for (size_t i = 0; t->of && i < t->n; i++) {
        mem_drop(t->of[i].score);
        mem_drop(t->of[i].ptc);
    }
    mem_drop(t->of);
    view_drop(t->view);
    view_drop(t->against);
    mem_drop(t);
}

enum step tuco_decode_step(struct tuco_decode *t, struct session *s, struct err *e) { return decoder_step(t->decoder, s, e); }
size_t tuco_decode_tokens(const struct tuco_decode *t) { return decoder_tokens(t->decoder); }
const struct decode_result *tuco_decode_result(const struct tuco_decode *t, size_t i) { return decoder_result(t->decoder, i); }
const double *tuco_decode_scores(const struct tuco_decode *t, size_t i) { return t->of[i].score; }
