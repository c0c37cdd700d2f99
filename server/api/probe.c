#include "probe.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/site.h"
#include "members.h"
#include "server/served.h"

/* ---- writing --------------------------------------------------------------------------------------- */

static void put_numbers(struct buf *out, const char *key, const double *v, size_t n)
{
    buf_printf(out, ",\"%s\":[", key);
    for (size_t i = 0; i < n; i++) {
        char number[32];
        f64_text(v[i], number);
        buf_printf(out, "%s%s", i ? "," : "", number);
    }
    buf_text(out, "]");
}

void probe_write_member(struct buf *out, struct site site, bool by_head, uint32_t head, const struct readout *r, const double *sigma)
{
    char name[64];
    site_text(site, name);
    buf_printf(out, "{\"site\":\"%s\"", name);
    if (by_head) buf_printf(out, ",\"head\":%u", head);
    put_numbers(out, "sigma", sigma, r->outputs);
    put_numbers(out, "mean", r->mean, r->d);
    put_numbers(out, "scale", r->scale, r->d);
    put_numbers(out, "w", r->w, r->outputs * (r->hidden ? r->hidden : r->d));
    put_numbers(out, "b", r->b, r->outputs);
    if (r->hidden) {
        put_numbers(out, "w1", r->w1, r->hidden * r->d);
        put_numbers(out, "b1", r->b1, r->hidden);
    }
    for (uint32_t i = 0; i < r->n_features; i++) buf_printf(out, "%s%u", i ? "," : ",\"features\":[", r->feature[i]);
    buf_text(out, r->n_features ? "]}" : "}");
}

/* ---- reading --------------------------------------------------------------------------------------- */

static bool numbers(const struct json *o, const char *key, double *out, size_t n, struct err *e)
{
    const struct json *list = json_get(o, key);
    if (!list || list->len != n) return err_set(e, ERR_CORRUPT, "a stored probe has %zu numbers as %s, %zu expected", list ? list->len : 0, key, n);
    for (const struct json *v = list->child; v; v = v->next) *out++ = v->type == JSON_NUMBER ? v->number : (double)NAN;
    return true;
}

static bool read_member(struct probe *p, const struct json *v, const struct arch *a, enum readout_kind kind, struct arena *arena,
                        struct err *e)
{
    struct probe_member *m = &p->at[p->n];
    const struct json *head = json_get(v, "head"), *b1 = json_get(v, "b1"), *mean = json_get(v, "mean"), *features = json_get(v, "features");
    struct readout_spec spec = {.kind = kind, .hidden = b1 ? (uint32_t)b1->len : 0, .k = features ? (uint32_t)features->len : 0};
    if (!mean || !site_parse(a, json_get(v, "site")->text, &m->site, e)) return mean != NULL && err_while(e, "reading %s", p->row.id);
    m->by_head = head != NULL;
    m->head = head ? (uint32_t)head->integer : 0;
    m->readout = readout_new(&spec, mean->len, p->classes, e);
    if (!m->readout) return false;
    p->n++;
    struct readout *r = m->readout;
    m->sigma = arena_take(arena, r->outputs, sizeof *m->sigma, e);
    size_t k = 0;
    for (const struct json *f = features ? features->child : NULL; f; f = f->next) r->feature[k++] = (uint32_t)f->integer;
    return m->sigma && numbers(v, "sigma", m->sigma, r->outputs, e) && numbers(v, "mean", r->mean, r->d, e) &&
           numbers(v, "scale", r->scale, r->d, e) && numbers(v, "w", r->w, r->outputs * (r->hidden ? r->hidden : r->d), e) &&
           numbers(v, "b", r->b, r->outputs, e) &&
           (!r->hidden || (numbers(v, "w1", r->w1, r->hidden * r->d, e) && numbers(v, "b1", r->b1, r->hidden, e)));
}

static bool same_model(const struct probe *p, const struct served *s, const char *field, struct err *e)
{
    char hex[65];
    digest_hex(s->described, hex);
    if (!json_is(json_get(p->content, "base"), s->row.base_digest))
        return err_field(e, ERR_CONFLICT, field, "%s was fitted on another model, %s", p->row.id, json_get(p->content, "base")->text);
    return json_is(json_get(p->content, "described"), hex) ||
           err_field(e, ERR_CONFLICT, field, "%s was fitted on a model file that says something else besides its weights: "
                     "another tokenizer, template or constant", p->row.id);
}

bool probe_open(struct probe *p, struct ledger_reader *r, const struct served *s, const char *name, const char *field, struct arena *a,
                struct err *e)
{
    struct buf text = {0};
    enum readout_kind kind;
    *p = (struct probe){0};
    if (!ledger_artefact(r, "probe", s->row.id, name, &p->row, e)) {
        (void)snprintf(e->field, sizeof e->field, "%s", field);
        return false;
    }
    bool ok = ledger_artefact_content(r, &p->row, &text, e) && (p->content = json_parse(text.data, text.len, a, e)) != NULL;
    buf_release(&text);
    const struct json *list = json_get(p->content, "members");
    p->labels = json_get(p->content, "labels");
    if (ok && (!list || !p->labels || !readout_parse(json_get(p->content, "kind")->text, &kind)))
        ok = err_set(e, ERR_CORRUPT, "%s is no probe that this program knows", p->row.id);
    ok = ok && same_model(p, s, field, e);
    if (ok) p->classes = (uint32_t)p->labels->len;
    p->at = ok ? arena_take(a, list->len, sizeof *p->at, e) : NULL;
    ok = p->at != NULL;
    for (const struct json *v = ok ? list->child : NULL; ok && v; v = v->next) ok = read_member(p, v, &s->model->arch, kind, a, e);
    if (!ok) probe_release(p);
    return ok;
}

void probe_release(struct probe *p)
{
    for (size_t i = 0; i < p->n; i++) readout_free(p->at[i].readout);
    p->n = 0;
    artefact_row_release(&p->row);
}

const struct probe_member *probe_at(const struct probe *p, struct site site, bool by_head, uint32_t head)
{
    for (size_t i = 0; i < p->n; i++) {
        const struct probe_member *m = &p->at[i];
        if (m->site.hook == site.hook && m->site.layer == site.layer && m->by_head == by_head && (!by_head || m->head == head)) return m;
    }
    return NULL;
}

/* ---- as a direction ---------------------------------------------------------------------------------- */

static bool choose_class(const struct probe *p, const struct json *label, const char *field, uint32_t *out, struct err *e)
{
    if (!label && p->classes == 2) {
        *out = 1;
        return true;
    }
    if (!label) return err_field(e, ERR_INVALID, field, "the probe tells %u labels apart: which one's direction?", p->classes);
    *out = 0;
    for (const struct json *v = p->labels->child; v; v = v->next, ++*out) {
        bool same = v->type == label->type && (v->type == JSON_STRING ? strcmp(v->text, label->text) == 0
                                               : v->type == JSON_BOOL ? v->boolean == label->boolean
                                                                      : v->number == label->number);
        if (same) return true;
    }
    return err_field(e, ERR_INVALID, field, "the probe has no such label");
}

/* out: one head's share, or all of the site; u: room for the readout's width. */
static bool put_direction(const struct probe_member *m, uint32_t class, bool sigma, size_t from, size_t n, double *u, float *out)
{
    const struct readout *r = m->readout;
    if (!readout_direction(r, class, u)) return false;
    double length = sigma ? m->sigma[r->outputs == 1 ? 0 : class] : 1;
    for (size_t i = 0; i < n; i++) out[i] = (float)(length * u[from + i]);
    return true;
}

struct aim {
    uint32_t class;
    bool sigma;
    const char *field;
};

static bool fill(const struct probe *p, const struct trace_place *at, const struct arch *a, const struct aim *aim, double *u, float *out,
                 size_t *found, struct err *e)
{
    size_t width = hook_width(a, at->site.hook), heads = at->head ? at->n_head : hook_heads(a, at->site.hook);
    const struct probe_member *whole = probe_at(p, at->site, false, 0);
    for (size_t i = 0; i < heads; i++) {
        uint32_t head = at->head ? at->head[i] : (uint32_t)i;
        const struct probe_member *m = probe_at(p, at->site, true, head);
        size_t from = m ? 0 : head * width;
        if (!m) m = whole;
        if (!m) continue;
        if (m->readout->d < from + width) return err_set(e, ERR_CORRUPT, "%s has too few weights", p->row.id);
        if (!put_direction(m, aim->class, aim->sigma, from, width, u, out + i * width))
            return err_field(e, ERR_INVALID, aim->field, "a probe of kind %s has no direction here", readout_word(m->readout->kind));
        ++*found;
    }
    return true;
}

bool probe_source(struct look *l, struct tapping *t, struct call *c, const struct json *from, const char *field, bool pattern,
                  struct trace_write *w, struct err *e)
{
    char name[128], label[128], site[64];
    struct probe p;
    const struct json *scale = json_get(from, "scale");
    const struct arch *a = &look_model(l)->arch;
    if (w->op != TAP_ADD) return err_field(e, ERR_INVALID, field, "a probe's direction is added, with \"op\": \"add\"");
    if (hook_info(w->at.site.hook)->axis == AXIS_SOURCE)
        return err_field(e, ERR_INVALID, field, "rows of %s are as long as their text and have no direction", hook_info(w->at.site.hook)->spelling);
    if (!probe_open(&p, c->reader, l->work.served, json_get(from, "probe")->text, place_field(name, field, "probe"), &l->arena, e))
        return false;
    look_uses(l, &p.row);
    size_t n = member_heads(l, &w->at) * member_width(l, t, &w->at), widest = 1, found = 0;
    for (size_t i = 0; i < p.n; i++)
        if (p.at[i].readout->d > widest) widest = p.at[i].readout->d;
    float *out = arena_take(&l->arena, n, sizeof *out, e);
    double *u = arena_take(&l->arena, widest, sizeof *u, e);
    struct aim aim = {.sigma = !scale || json_is(scale, "sigma"), .field = name};
    bool ok = out && u && choose_class(&p, json_get(from, "label"), place_field(label, field, "label"), &aim.class, e) &&
              fill(&p, &w->at, a, &aim, u, out, &found, e);
    if (ok && !found && !pattern) {
        site_text(w->at.site, site);
        ok = err_field(e, ERR_INVALID, name, "%s has no readout at %s, or not of a head that is written", p.row.id, site);
    }
    probe_release(&p);
    w->from = FROM_VALUES;
    w->values = out;
    w->n_value_pos = 1;
    return ok;
}
