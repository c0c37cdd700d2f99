#include "pair.h"

#include <string.h>

static size_t padded(size_t floats) { return (floats + 15) & ~(size_t)15; }

struct room { /* within a pass's memory */
    float *x;          /* [R][d], or of the asked rows where these are few */
    float *attn[2], *mlp[2];
    float *rows;       /* of the asked rows' blocks */
};

static size_t lay_out(const struct arch *a, size_t rows, size_t asked, bool few, float *memory, struct room *out)
{
    size_t each = padded(asked * a->d_model), used = padded((few ? asked : rows) * a->d_model);
    out->x = memory;
    for (int i = 0; memory && i < 2; i++) {
        out->attn[i] = memory + used + (size_t)(2 * i) * each;
        out->mlp[i] = memory + used + (size_t)(2 * i + 1) * each;
    }
    used += 4 * each;
    out->rows = memory ? memory + used : NULL;
    return used + (few ? block_rows_floats(a, asked) : 0) + 1;
}

size_t pair_floats(const struct arch *a, size_t rows, size_t asked, bool few)
{
    struct room none;
    return lay_out(a, rows, asked, few, NULL, &none);
}

bool pair_shares_all(const struct view *view, const struct view *against)
{
    for (uint32_t l = 0; l < view_model(view)->arch.n_layers; l++)
        if (!view_same_layer(view, against, l)) return false;
    return true;
}

static size_t width_of(const struct pair_pass *p) { return view_model(p->view->view)->arch.d_model; }

/* Of rows [R][width], those asked for. */
static void gather(const struct pair_pass *p, const float *from, size_t width, float *to)
{
    for (size_t k = 0; k < p->n_rows; k++)
        memcpy(to + k * width, from + p->row[k].row * width, width * sizeof *to);
}

static const float *attention_added(const struct block *b)
{
    return view_model(b->view)->arch.parallel ? b->rows.attn : b->rows.out;
}

/* The block from its keys on, or the whole. What it adds at the asked rows goes to attn and mlp. */
static bool forward_telling(const struct pair_pass *p, struct block *b, float *attn, float *mlp, struct err *e)
{
    if (!block_attention(b, e) || !block_project(b, e)) return false;
    gather(p, attention_added(b), width_of(p), attn);
    if (!block_mlp(b, e)) return false;
    gather(p, b->rows.out, width_of(p), mlp);
    return true;
}

static bool tells(const struct pair_pass *p) { return p->pair->terms && p->n_rows; }

static void tell(const struct pair_pass *p, const struct room *m, bool shared)
{
    int other = shared ? 0 : 1;
    p->pair->terms(p->pair->ctx, &(struct pair_terms){.layer = p->view->layer, .row = p->row, .n = p->n_rows,
                                                      .attn = {m->attn[0], m->attn[other]}, .mlp = {m->mlp[0], m->mlp[other]}});
}

/* ---- both blocks on all rows ---------------------------------------------------------------------- */

static bool forward_all(const struct pair_pass *p, struct block *against, const struct room *m, struct err *e)
{
    size_t floats = p->view->n_rows * width_of(p);
    float a = p->pair->alpha, *x = p->view->x;
    memcpy(m->x, x, floats * sizeof *x);
    against->x = m->x;
    if (!forward_telling(p, against, m->attn[1], m->mlp[1], e) ||
        !forward_telling(p, p->view, m->attn[0], m->mlp[0], e))
        return false;
    for (size_t i = 0; !p->pair->terms && i < floats; i++) x[i] = (1.0f - a) * m->x[i] + a * x[i];
    return true;
}

/* ---- asked rows apart ------------------------------------------------------------------------------- */

/* Each asked row as a span of its own behind the keys that the pass has just kept. */
static void spans_apart(const struct pair_pass *p, const struct block *whole)
{
    const struct span *s = whole->span;
    for (size_t k = 0; k < p->n_rows; k++) {
        while (p->row[k].row >= s->first_row + s->n_rows) s++;
        p->apart[k] = (struct span){.seq = s->seq, .first_row = (uint32_t)k, .n_rows = 1, .past = s->keep,
                                    .past_len = s->past_len + p->row[k].row - s->first_row};
    }
}

/* whole->rows.qkv is made; x: the stream that entered, of the asked rows. */
static bool asked_rows(const struct pair_pass *p, const struct block *whole, float *x, float *memory, float *attn,
                       float *mlp, struct err *e)
{
    const struct arch *a = &view_model(whole->view)->arch;
    struct block b = {.session = whole->session, .view = whole->view, .layer = whole->layer, .span = p->apart,
                      .n_spans = p->n_rows, .n_rows = (uint32_t)p->n_rows, .x = x};
    block_rows_place(a, p->n_rows, memory, &b.rows);
    spans_apart(p, whole);
    gather(p, whole->rows.qkv, block_qkv_width(a), b.rows.qkv);
    if (!block_attend(&b, e) || !block_project(&b, e)) return false;
    memcpy(attn, attention_added(&b), p->n_rows * a->d_model * sizeof *attn);
    if (!block_mlp(&b, e)) return false;
    memcpy(mlp, b.rows.out, p->n_rows * a->d_model * sizeof *mlp);
    return true;
}

static bool forward_few(const struct pair_pass *p, struct block *against, const struct room *m, struct err *e)
{
    size_t d = width_of(p);
    against->x = p->view->x; /* keys and values leave it as it is */
    if (!block_keys(against, e)) return false;
    if (!p->n_rows) return block_forward(p->view, e);
    gather(p, p->view->x, d, m->x);
    if (!asked_rows(p, against, m->x, m->rows, m->attn[1], m->mlp[1], e)) return false;
    gather(p, p->view->x, d, m->x);
    return block_forward(p->view, e) && asked_rows(p, p->view, m->x, m->rows, m->attn[0], m->mlp[0], e);
}

bool pair_forward(const struct pair_pass *p, struct err *e)
{
    struct room m;
    (void)lay_out(&view_model(p->view->view)->arch, p->view->n_rows, p->n_rows, p->few, p->memory, &m);
    bool shared = view_same_layer(p->view->view, p->pair->against, p->view->layer), ok;
    struct block against = *p->view;
    against.view = p->pair->against;
    against.span = p->against;
    against.taps = NULL;
    if (shared) ok = forward_telling(p, p->view, m.attn[0], m.mlp[0], e);
    else if (p->few) ok = forward_few(p, &against, &m, e);
    else ok = forward_all(p, &against, &m, e);
    if (ok && tells(p)) tell(p, &m, shared);
    return ok;
}
