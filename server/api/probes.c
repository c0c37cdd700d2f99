/* POST /v1/probes: can a label be read from activations, and where? What is kept is stored with the run. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/text/strmap.h"
#include "groups.h"
#include "handlers.h"
#include "core/site.h"
#include "inputs.h"
#include "probe.h"
#include "server/clock.h"
#include "server/served.h"
#include "set_list.h"
#include "spans.h"

enum { MOST_ROWS = 16384, MOST_CELLS = 4096, MOST_KEPT = 1024 };

struct probes_work {
    struct look look;
    struct input *input;          /* [n] */
    struct readout_row *row;
    uint32_t *label, *group;
    size_t n, n_groups;
    const char *labels[READOUT_CLASSES]; /* as JSON text, in their order */
    uint32_t classes;
    struct readout_site *site;
    struct readout_spec spec;
    struct readout_split split;
    struct readout_sweep_request request;
    struct readout_sweep *sweep;
    const char *name;
    struct artefact made;
    struct buf content, summary;
};

static struct probes_work *of(struct work *w) { return (struct probes_work *)w; }

static void probes_work_free(struct work *w)
{
    struct probes_work *p = of(w);
    readout_sweep_free(p->sweep);
    readout_split_release(&p->split);
    for (size_t i = 0; i < p->n; i++) input_release(&p->input[i]);
    buf_release(&p->content);
    buf_release(&p->summary);
    look_release(&p->look);
    mem_drop(w);
}

static enum step probes_work_step(struct work *w, struct session *s, struct err *e)
{
    struct probes_work *p = of(w);
    size_t done, total;
    if (look_cached(&p->look)) return STEP_DONE;
    enum step step = readout_sweep_step(p->sweep, s, e);
    readout_sweep_progress(p->sweep, &done, &total);
    work_progress(w, done, total);
    return step;
}

/* ---- the answer -------------------------------------------------------------------------------- */

/* Is a cell a head, rather than all of its site? */
static bool of_head(const struct probes_work *p, const struct readout_site *s)
{
    return hook_info(s->site.hook)->axis != AXIS_PLAIN && json_get(p->look.request, "heads")->boolean;
}

static void put_place(const struct probes_work *p, size_t cell, jout *o)
{
    size_t site;
    uint32_t part;
    char name[64];
    readout_cell(&p->request, cell, &site, &part);
    site_text(p->site[site].site, name);
    jout_text(o, "site", name);
    if (of_head(p, &p->site[site])) jout_int(o, "head", part);
}

static void put_scores(const struct readout_scores *s, bool all, jout *o)
{
    jout_f64(o, "accuracy", s->accuracy);
    jout_f64(o, "accuracy_se", s->accuracy_se);
    jout_f64(o, "selectivity", s->selectivity);
    if (!all) return;
    jout_f64(o, "auroc", s->auroc);
    jout_f64(o, "auroc_se", s->auroc_se);
    jout_f64(o, "log_loss", s->log_loss);
    jout_f64(o, "log_loss_se", s->log_loss_se);
    jout_f64(o, "control", s->control);
    jout_f64(o, "control_se", s->control_se);
}

static void write_labels(const struct probes_work *p, struct buf *out)
{
    for (uint32_t c = 0; c < p->classes; c++) buf_printf(out, "%s%s", c ? "," : "\"labels\":[", p->labels[c]);
    buf_text(out, "],\"pos\":");
    json_write(json_get(p->look.request, "pos"), out);
}

/* What is stored, and what lists say of it. */
static bool make_probe(struct probes_work *p, struct err *e)
{
    const struct readout_kept *kept = readout_sweep_kept(p->sweep);
    const struct readout_scores *score = readout_sweep_scores(p->sweep);
    struct served *s = p->look.work.served;
    struct buf *c = &p->content;
    char hex[65];
    digest_hex(s->described, hex);
    jout *sum = jout_object(), *members = jout_put_array(sum, "members");
    struct buf labels = {0};
    buf_printf(c, "{\"kind\":\"%s\",", readout_word(p->spec.kind));
    write_labels(p, c);
    buf_printf(c, ",\"likely\":%s", readout_likely(&p->spec) ? "true" : "false");
    buf_printf(c, ",\"base\":\"%s\",\"described\":\"%s\",\"view\":\"%s\",\"members\":[", s->row.base_digest, hex, p->look.view.digest);
    for (size_t i = 0; i < p->request.n_kept; i++) {
        size_t site;
        uint32_t part;
        readout_cell(&p->request, kept[i].cell, &site, &part);
        buf_text(c, i ? "," : "");
        probe_write_member(c, p->site[site].site, of_head(p, &p->site[site]), part, kept[i].readout, kept[i].sigma);
        jout *o = jout_put_object(members, NULL);
        put_place(p, kept[i].cell, o);
        put_scores(&score[kept[i].cell], false, o);
    }
    buf_text(c, "]}");
    jout_text(sum, "kind", readout_word(p->spec.kind));
    jout_int(sum, "rows", (int64_t)p->n);
    jout_f64(sum, "majority", p->split.majority);
    jout_text(sum, "view_digest", p->look.view.digest);
    for (uint32_t k = 0; k < p->classes; k++) buf_printf(&labels, "%s%s", k ? "," : "[", p->labels[k]);
    buf_text(&labels, "]");
    bool ok = buf_ok(&labels, e) && buf_ok(c, e);
    if (ok) {
        struct buf pos = {0};
        jout_raw(sum, "labels", labels.data);
        json_write(json_get(p->look.request, "pos"), &pos);
        if (pos.data) jout_raw(sum, "pos", pos.data);
        buf_release(&pos);
        ok = jout_print(sum, &p->summary, e);
    }
    jout_free(sum);
    buf_release(&labels);
    if (!ok) return false;
    p->made = (struct artefact){.kind = "probe", .model = p->look.view.model_id, .name = p->name, .summary = p->summary.data,
                                .content = c->data, .len = c->len};
    ledger_new_id("probe", p->made.id);
    return true;
}

static void put_labels(const struct probes_work *p, jout *root)
{
    jout *list = jout_put_array(root, "labels");
    for (uint32_t c = 0; c < p->classes; c++) {
        size_t rows = 0;
        for (size_t i = 0; i < p->n; i++) rows += p->label[i] == c;
        jout *o = jout_put_object(list, NULL);
        jout_raw(o, "label", p->labels[c]);
        jout_int(o, "rows", (int64_t)rows);
    }
}

static uint32_t put_sites(const struct probes_work *p, jout *root)
{
    const struct readout_scores *score = readout_sweep_scores(p->sweep);
    jout *sites = jout_put_array(root, "sites");
    uint32_t unconverged = 0;
    for (size_t i = 0; i < readout_cells(&p->request); i++) {
        jout *o = jout_put_object(sites, NULL);
        put_place(p, i, o);
        put_scores(&score[i], true, o);
        jout_f64s(o, "folds", score[i].fold, p->split.folds);
        unconverged += score[i].unconverged;
    }
    put_place(p, readout_sweep_best(p->sweep), jout_put_object(root, "best"));
    return unconverged;
}

static void put_kept(const struct probes_work *p, jout *root)
{
    const struct readout_kept *kept = readout_sweep_kept(p->sweep);
    jout *list = jout_put_array(root, "kept");
    for (size_t i = 0; i < p->request.n_kept; i++) {
        jout *o = jout_put_object(list, NULL);
        put_place(p, kept[i].cell, o);
        jout_f64s(o, "sigma", kept[i].sigma, kept[i].readout->outputs);
        if (!isnan(kept[i].readout->gradient)) jout_f64(o, "gradient", kept[i].readout->gradient);
        if (kept[i].readout->n_features) jout_u32s(o, "features", kept[i].readout->feature, kept[i].readout->n_features);
    }
}

static bool probes_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct probes_work *p = of(w);
    if (look_cached(&p->look)) return look_answer_cached(&p->look, o, e);
    if (!make_probe(p, e)) return false;
    jout *root = look_open(&p->look);
    jout_text(root, "probe_id", p->made.id);
    jout_text(root, "name", p->name[0] ? p->name : NULL);
    jout_text(root, "kind", readout_word(p->spec.kind));
    jout_int(root, "rows", (int64_t)p->n);
    jout_int(root, "groups", (int64_t)p->n_groups);
    jout_int(root, "folds", p->split.folds);
    jout_f64(root, "majority", p->split.majority);
    put_labels(p, root);
    uint32_t unconverged = put_sites(p, root);
    put_kept(p, root);
    if (unconverged)
        look_warn(&p->look, "not-converged", "%u of the fits stopped above the gradient's norm asked for; a larger params.lambda helps",
                  unconverged);
    jout_int(jout_put_object(root, "checks"), "unconverged", unconverged);
    jout *cost = jout_put_object(root, "cost");
    jout_int(cost, "cells", (int64_t)readout_cells(&p->request));
    jout_int(cost, "fits", (int64_t)(readout_cells(&p->request) * 2 * p->split.folds + p->request.n_kept));
    jout_f64(cost, "seconds", (double)(monotonic_us() - w->started_us) / 1e6);
    if (!look_close(&p->look, root, o, e)) return false;
    o->run.artefact = &p->made;
    return true;
}

static const struct work_ops ops = {
    .kind = "probes", .unit = "rows and cells",
    .step = probes_work_step, .finish = probes_work_finish, .free = probes_work_free,
};

/* ---- rows ---------------------------------------------------------------------------------------- */

static const char *label_text(struct look *l, const struct json *v, struct err *e)
{
    struct buf b = {0};
    json_write(v, &b);
    const char *text = buf_ok(&b, e) ? arena_text(&l->arena, b.data, b.len, e) : NULL;
    buf_release(&b);
    return text;
}

/* Numbers by size, all else by their text. */
static int compare_labels(const char *a, const char *b)
{
    char *end_a, *end_b;
    long long x = strtoll(a, &end_a, 10), y = strtoll(b, &end_b, 10);
    if (!*end_a && !*end_b && x != y) return x < y ? -1 : 1;
    return strcmp(a, b);
}

static bool read_labels(struct probes_work *p, const struct json *list, struct err *e)
{
    const char **text = arena_take(&p->look.arena, p->n, sizeof *text, e);
    size_t i = 0;
    for (const struct json *v = text ? list->child : NULL; v; v = v->next, i++) {
        uint32_t at = 0;
        if (!json_get(v, "label")) return err_field(e, ERR_INVALID, "set", "row %zu has no label", i);
        if (!(text[i] = label_text(&p->look, json_get(v, "label"), e))) return false;
        while (at < p->classes && compare_labels(p->labels[at], text[i]) < 0) at++;
        if (at < p->classes && strcmp(p->labels[at], text[i]) == 0) continue;
        if (p->classes == READOUT_CLASSES)
            return err_field(e, ERR_INVALID, "data", "more than %d labels: a probe tells classes apart", READOUT_CLASSES);
        memmove(p->labels + at + 1, p->labels + at, (p->classes - at) * sizeof *p->labels);
        p->labels[at] = text[i];
        p->classes++;
    }
    if (!text) return false;
    if (p->classes < 2) return err_field(e, ERR_INVALID, "data", "all rows have the same label; two are needed at least");
    for (i = 0; i < p->n; i++)
        while (strcmp(p->labels[p->label[i]], text[i]) != 0) p->label[i]++;
    return true;
}

static bool read_row(struct probes_work *p, const struct json *v, const char *field, struct err *e)
{
    static const struct json all = {.type = JSON_STRING, .text = "all", .len = 3};
    char name[128];
    struct look *l = &p->look;
    const struct json *text = json_get(v, "text"), *pos = json_get(l->request, "pos");
    struct named_input in = {.of = v};
    struct places at;
    if (!input_resolve(look_model(l), text ? text : json_get(v, "prompt"), place_field(name, field, text ? "text" : "prompt"), &in.in, e))
        return false;
    p->input[p->n] = in.in;
    struct readout_row *row = &p->row[p->n++];
    if (!spans_check(json_get(v, "spans"), place_field(name, field, "spans"), e) ||
        !place_pos_in(json_is(pos, "mean") ? &all : pos, look_model(l), &in, "pos", &l->arena, &at, e))
        return false;
    *row = (struct readout_row){.ids = in.in.ids, .n = (uint32_t)in.in.n, .pos = at.at, .n_pos = at.n};
    return true;
}

static bool has_text(const struct json *row) { return json_get(row, "text") || json_get(row, "prompt"); }

static bool read_rows(struct probes_work *p, struct call *c, struct err *e)
{
    static const struct set_need need = {.fits = has_text, .missing = "no text or prompt", .most = MOST_ROWS};
    struct look *l = &p->look;
    const struct json *list;
    if (!set_list_read(l, c, &need, &list, e)) return false;
    bool set = list != NULL;
    if (!list) list = json_get(l->request, "data");
    size_t n = list->len;
    p->input = arena_take(&l->arena, n, sizeof *p->input, e);
    p->row = p->input ? arena_take(&l->arena, n, sizeof *p->row, e) : NULL;
    p->label = p->row ? arena_take(&l->arena, n, sizeof *p->label, e) : NULL;
    p->group = p->label ? arena_take(&l->arena, n, sizeof *p->group, e) : NULL;
    if (!p->group) return false;
    for (const struct json *v = list->child; v; v = v->next) {
        char field[64];
        (void)snprintf(field, sizeof field, "%s[%zu]", set ? "set" : "data", p->n);
        if (!read_row(p, v, field, e)) return false;
    }
    return read_labels(p, list, e) && groups_read(list->child, p->n, false, p->group, &p->n_groups, e);
}

/* ---- sites ---------------------------------------------------------------------------------------- */

static bool add_site(struct probes_work *p, struct site s, bool heads, const char *field, struct err *e)
{
    const struct arch *a = &look_model(&p->look)->arch;
    char name[64];
    for (size_t i = 0; i < p->request.n_sites; i++)
        if (p->site[i].site.hook == s.hook && p->site[i].site.layer == s.layer) return true;
    site_text(s, name);
    if (hook_absent(a, s.hook)) return err_field(e, ERR_INVALID, field, "%s has no %s: %s", a->family, name, hook_absent(a, s.hook));
    if (hook_info(s.hook)->axis == AXIS_SOURCE)
        return err_field(e, ERR_INVALID, field, "rows of %s are as long as their text: they have no width to read from", name);
    uint32_t n = hook_heads(a, s.hook), width = hook_width(a, s.hook);
    p->site[p->request.n_sites++] = heads ? (struct readout_site){s, n, width} : (struct readout_site){s, 1, n * width};
    return true;
}

static bool read_sites(struct probes_work *p, struct err *e)
{
    static const struct json all = {.type = JSON_STRING, .text = "blocks.*.hook_resid_post", .len = 24};
    struct look *l = &p->look;
    const struct arch *a = &look_model(l)->arch;
    const struct json *list = json_get(l->request, "sites");
    bool heads = json_get(l->request, "heads")->boolean;
    size_t k = 0;
    p->site = arena_take(&l->arena, site_count(a), sizeof *p->site, e);
    if (!p->site) return false;
    for (const struct json *v = list ? list->child : &all; v; v = v->next, k++) {
        struct sites some;
        char field[64];
        (void)snprintf(field, sizeof field, "sites[%zu]", k);
        if (!place_sites(v, a, false, field, &l->arena, &some, e)) return false;
        for (size_t i = 0; i < some.n; i++)
            if (!add_site(p, some.at[i], heads, field, e)) return false;
    }
    p->request.site = p->site;
    size_t cells = readout_cells(&p->request);
    return cells <= MOST_CELLS || err_field(e, ERR_TOO_LARGE, "sites", "%zu probes would be fitted, %d at most", cells, MOST_CELLS);
}

/* The number of the cell that is meant. */
static bool find_cell(struct probes_work *p, const struct json *v, const char *field, size_t *out, struct err *e)
{
    char name[128];
    struct site s;
    const struct json *head = json_get(v, "head");
    size_t cell = 0;
    if (!place_site(json_get(v, "site"), &look_model(&p->look)->arch, place_field(name, field, "site"), &s, e)) return false;
    for (size_t i = 0; i < p->request.n_sites; cell += p->site[i++].cells) {
        const struct readout_site *at = &p->site[i];
        if (at->site.hook != s.hook || at->site.layer != s.layer) continue;
        place_field(name, field, "head");
        if (of_head(p, at) != (head != NULL))
            return err_field(e, ERR_INVALID, name, head ? "that site is probed whole" : "that site is probed head by head: which head?");
        if (head && head->integer >= at->cells)
            return err_field(e, ERR_INVALID, name, "head %lld is outside 0..%u", (long long)head->integer, at->cells - 1);
        *out = cell + (head ? (size_t)head->integer : 0);
        return true;
    }
    return err_field(e, ERR_INVALID, name, "that site is not among those probed");
}

static bool read_keep(struct probes_work *p, struct err *e)
{
    const struct json *keep = json_get(p->look.request, "keep");
    size_t cells = readout_cells(&p->request), k = 0;
    if (keep->type == JSON_NUMBER) {
        p->request.n_kept = (size_t)keep->integer < cells ? (size_t)keep->integer : cells;
        return true;
    }
    size_t *kept = arena_take(&p->look.arena, keep->len, sizeof *kept, e);
    for (const struct json *v = kept ? keep->child : NULL; v; v = v->next, k++) {
        char field[64];
        (void)snprintf(field, sizeof field, "keep[%zu]", k);
        if (!find_cell(p, v, field, &kept[k], e)) return false;
    }
    p->request.kept = kept;
    p->request.n_kept = keep->len;
    return kept != NULL;
}

/* ---- the request --------------------------------------------------------------------------------- */

static double param(const struct json *params, const char *key, double otherwise)
{
    const struct json *v = json_get(params, key);
    return v ? v->number : otherwise;
}

static bool read_spec(struct probes_work *p, struct err *e)
{
    const struct json *q = p->look.request, *params = json_get(q, "params"), *kind = json_get(q, "kind");
    struct readout_spec *s = &p->spec;
    if (!readout_parse(kind->text, &s->kind)) return err_field(e, ERR_INVALID, "kind", "\"%s\" is no kind of probe", kind->text);
    s->lambda = param(params, "lambda", 0.01);
    s->k = (uint32_t)param(params, "k", 16);
    s->hidden = (uint32_t)param(params, "hidden", 32);
    s->epochs = (uint32_t)param(params, "epochs", 200);
    s->lr = param(params, "lr", 0.01);
    s->whiten = json_flag(params, "whiten", false);
    s->raw = !json_flag(params, "standardize", true);
    s->seed = (uint64_t)p->look.seed;
    if (s->kind == READOUT_MLP && !(s->lr > 0)) return err_field(e, ERR_INVALID, "params.lr", "it must be above 0");
    bool needs = s->kind == READOUT_LOGISTIC || s->kind == READOUT_RIDGE || s->kind == READOUT_SPARSE;
    return !needs || s->lambda > 0 ||
           err_field(e, ERR_INVALID, "params.lambda", "it must be above 0: rows that can be told apart have no best weights without it");
}

static bool prepare(struct probes_work *p, struct call *c, struct err *e)
{
    enum { CELL_BYTES = 2048, NUMBER_BYTES = 80 };
    struct look *l = &p->look;
    if (!look_begin(l, c, &ops, e)) return false;
    const struct json *q = l->request, *name = json_get(q, "name");
    l->seed = json_get(q, "seed")->integer;
    p->name = name ? name->text : "";
    if (name && !ledger_artefact_name("probe", name->text, "name", e)) return false;
    if (!read_spec(p, e) || !read_rows(p, c, e) || !read_sites(p, e) || !read_keep(p, e) || !look_find(l, c, e)) return false;
    if (look_cached(l)) return true;
    if (!readout_split(&p->split, p->label, p->classes, p->group, p->n, (uint32_t)json_get(q, "folds")->integer, (uint64_t)l->seed, e))
        return false;
    struct readout_sweep_request *r = &p->request;
    r->view = l->view.view;
    r->row = p->row;
    r->spec = &p->spec;
    r->split = &p->split;
    struct plan plan = {0};
    size_t widest = 0;
    for (size_t i = 0; i < r->n_sites; i++) widest = p->site[i].width > widest ? p->site[i].width : widest;
    size_t inner = p->spec.kind == READOUT_MLP ? p->spec.hidden : p->classes;
    readout_sweep_plan(r, daemon_threads(c->daemon), &plan);
    plan_add(&plan, NEED_ANSWER, plan_times(readout_cells(r), CELL_BYTES));
    plan_add(&plan, NEED_ANSWER, plan_times(r->n_kept, plan_times(plan_times(widest, inner + 3), NUMBER_BYTES)));
    p->sweep = look_lease(l, &plan, e) ? readout_sweep_new(r, e) : NULL;
    return p->sweep != NULL;
}

struct work *api_probes(struct call *c, struct err *e)
{
    struct probes_work *p = mem_new(sizeof *p);
    if (prepare(p, c, e)) return &p->look.work;
    probes_work_free(&p->look.work);
    return NULL;
}
