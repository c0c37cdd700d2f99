/* GET /v1/probes and GET /v1/probes/{probe}: as JSON, or the arrays as bytes by Accept. */
#include <stdio.h>
#include <string.h>

#include "captures.h"
#include "handlers.h"
#include "page.h"
#include "probe.h"
#include "server/served.h"

static bool put_head(jout *o, const struct artefact_row *row, const char *model, struct err *e)
{
    jout_text(o, "probe", row->id);
    jout_text(o, "name", row->name[0] ? row->name : NULL);
    jout_text(o, "model", model);
    jout_text(o, "hash", row->hash);
    answer_stored(o, row);
    return answer_text(o, row->summary, strlen(row->summary), e);
}

bool api_probe_list(struct call *c, struct reply *r, struct err *e) { return page_stored(c, r, "probe", true, "probes", put_head, e); }

/* ---- one ------------------------------------------------------------------------------------------- */

static void add_array(struct captured *c, size_t *n, const char *place, const char *what, const double *v, float *to, uint64_t rows,
                      uint64_t cols)
{
    struct captured *out = &c[(*n)++];
    for (size_t i = 0; i < rows * cols; i++) to[i] = (float)v[i];
    *out = (struct captured){.values = to, .n = rows * cols, .n_dims = rows > 1 ? 2 : 1, .shape = {rows > 1 ? rows : cols, cols}};
    (void)snprintf(out->name, sizeof out->name, "%s/%s", place, what);
}

/* Six arrays a member, as float32, under "{site}" or "{site}.{head}". */
static bool pack(const struct call *c, const struct probe *p, const struct buf *answer, struct reply *r, struct err *e)
{
    enum media media = media_of(c->accept);
    size_t n = 0, floats = 0, at = 0;
    if (media == MEDIA_NPY) return err_field(e, ERR_INVALID, "Accept", "%s holds one array; ask for %s", media_name(media), media_name(MEDIA_NPZ));
    for (size_t i = 0; i < p->n; i++) {
        const struct readout *o = p->at[i].readout;
        floats += 2 * o->d + 2 * o->outputs + o->outputs * (o->hidden ? o->hidden : o->d) + o->hidden * (o->d + 1);
    }
    struct captured *all = mem_take(p->n * 7, sizeof *all, e);
    float *room = all ? mem_floats(floats + 1, e) : NULL;
    for (size_t i = 0; room && i < p->n; i++) {
        const struct probe_member *m = &p->at[i];
        const struct readout *o = m->readout;
        char site[64], place[96];
        site_text(m->site, site);
        if (m->by_head) (void)snprintf(place, sizeof place, "%s.%u", site, m->head);
        else (void)snprintf(place, sizeof place, "%s", site);
        const struct { const char *what; const double *v; uint64_t rows, cols; } arrays[] = {
            {"mean", o->mean, 1, o->d}, {"scale", o->scale, 1, o->d}, {"w", o->w, o->outputs, o->hidden ? o->hidden : o->d},
            {"b", o->b, 1, o->outputs}, {"sigma", m->sigma, 1, o->outputs}, {"w1", o->w1, o->hidden, o->d}, {"b1", o->b1, 1, o->hidden}};
        for (size_t k = 0; k < (o->hidden ? 7 : 5); k++) {
            add_array(all, &n, place, arrays[k].what, arrays[k].v, room + at, arrays[k].rows, arrays[k].cols);
            at += arrays[k].rows * arrays[k].cols;
        }
    }
    bool ok = room && captures_pack(media, all, n, answer, &r->body, e);
    r->content_type = media_name(media);
    mem_drop(room);
    mem_drop(all);
    return ok;
}

/* The head of the list, its members those of the content. */
static bool print(const struct probe *p, const char *model, bool weights, struct buf *out, struct err *e)
{
    jout *o = jout_object();
    struct artefact_row row = p->row;
    struct buf members = {0};
    bool ok = put_head(o, &row, model, e);
    if (weights) json_write(json_get(p->content, "members"), &members);
    if (ok && weights && buf_ok(&members, e)) jout_raw(o, "weights", members.data);
    buf_release(&members);
    ok = ok && jout_print(o, out, e);
    jout_free(o);
    return ok;
}

bool api_probe_get(struct call *c, struct reply *r, struct err *e)
{
    struct probe p;
    struct buf answer = {0};
    const struct served *s = call_served(c, c->query, e);
    if (!s || !probe_open(&p, c->reader, s, c->param[0], "", c->arena, e)) return false;
    bool json = media_of(c->accept) == MEDIA_JSON;
    bool ok = print(&p, s->name, json, json ? &r->body : &answer, e) && (json || pack(c, &p, &answer, r, e));
    buf_release(&answer);
    probe_release(&p);
    return ok;
}
