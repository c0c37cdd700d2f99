/* POST /v1/models: serve one more model.
 *
 *   path and name are checked ─► read and hash the file, rebuild the heads of a known base (ahead, on
 *   the loader's thread) ─► one step on the compute thread: register a new base in the ledger, bring
 *   the heads up to date, add it to the registry
 *
 * That one step is on the thread that commits, so no commit can come between the heads that are read
 * and the model that is published with them (see models.h).
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "handlers.h"
#include "server/model_path.h"

struct load_work {
    struct work work;
    char *path;
    char name[NAME_TEXT];
    struct served *served;
    const struct telling *telling; /* while ahead */
};

static struct load_work *of(struct work *w) { return (struct load_work *)w; }

static void load_free(struct work *w)
{
    served_drop(of(w)->served);
    mem_drop(of(w)->path);
    mem_drop(w);
}

/* ---- ahead ------------------------------------------------------------------------------------- */

static void progress(void *ctx, size_t done, size_t total)
{
    struct load_work *l = ctx;
    work_progress(&l->work, done, total);
    l->telling->tell(l->telling->ctx);
}

/* What is wrong with a file that the request named is the request's fault, not ours. */
static bool blame_path(struct err *e)
{
    if (e->code == ERR_CORRUPT || e->code == ERR_UNSUPPORTED || e->code == ERR_IO || e->code == ERR_NOT_FOUND)
        e->code = ERR_INVALID;
    (void)snprintf(e->field, sizeof e->field, "path");
    return false;
}

/* A known base comes back with its branches, whose rebuilding may take long as well. */
static bool recall(struct load_work *l, struct ledger_reader *reader, struct err *e)
{
    if (ledger_find_model(reader, l->served->digests.base, &l->served->row, e)) return served_restore(l->served, reader, e);
    return e->code == ERR_NOT_FOUND;
}

static bool load_ahead(struct work *w, const struct telling *t, struct err *e)
{
    struct load_work *l = of(w);
    l->telling = t;
    l->served = served_open(l->path, l->name, daemon_data(w->daemon), daemon_budget(w->daemon), progress, l, e);
    if (!l->served) return blame_path(e);
    if (!models_may_add(daemon_models(w->daemon), l->name, l->served->digests.base, e)) return false;
    struct ledger_reader *reader = ledger_reader_open(daemon_data(w->daemon), e);
    bool ok = reader && recall(l, reader, e);
    ledger_reader_close(reader);
    return ok;
}

/* ---- the step ---------------------------------------------------------------------------------- */

static bool publish(struct load_work *l, struct ledger_reader *reader, struct err *e)
{
    struct models *models = daemon_models(l->work.daemon);
    struct served *s = l->served;
    return models_may_add(models, s->name, s->digests.base, e) &&
           (s->row.id[0] ||
            daemon_add_row(l->work.daemon, s, l->work.author.name, l->work.author.verified, e)) &&
           served_restore(s, reader, e) && models_add(models, s, e);
}

static enum step load_step(struct work *w, struct session *session, struct err *e)
{
    (void)session;
    struct ledger_reader *reader = ledger_reader_open(daemon_data(w->daemon), e);
    bool ok = reader && publish(of(w), reader, e);
    ledger_reader_close(reader);
    return ok ? STEP_DONE : STEP_FAIL;
}

static bool load_finish(struct work *w, struct outcome *o, struct err *e)
{
    jout *root = jout_object();
    bool ok = answer_model(root, of(w)->served, e) && jout_print(root, &o->body, e);
    jout_free(root);
    o->status = 201;
    o->record = RECORD_NOTHING;
    return ok;
}

/* Brief: its one step need not wait for the end of a long edit. */
static const struct work_ops ops = {
    .kind = "load", .unit = "parameters", .brief = true, .of_this_life = true,
    .ahead = load_ahead, .step = load_step, .finish = load_finish, .free = load_free,
};

/* ---- checks ------------------------------------------------------------------------------------ */

/* The same file twice is known before it is read; the same weights elsewhere only afterwards. */
static bool is_served_from(const struct served *s, const char *path)
{
    char real[PATH_MAX];
    return realpath(s->model->path, real) && strcmp(real, path) == 0;
}

static bool not_served_yet(struct call *c, const char *path, struct err *e)
{
    struct served *served[MODELS_MOST];
    size_t n = models_list(daemon_models(c->daemon), served);
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        if (ok && is_served_from(served[i], path))
            ok = err_field(e, ERR_CONFLICT, "path", "this model is served already, as \"%s\"", served[i]->name);
        served_drop(served[i]);
    }
    return ok;
}

struct work *api_model_load(struct call *c, struct err *e)
{
    struct load_work *l = mem_new(sizeof *l);
    const struct json *name = json_get(c->body, "name");
    l->work.ops = &ops;
    l->work.daemon = c->daemon;
    l->path = model_path(daemon_config(c->daemon), json_get(c->body, "path")->text, e);
    if (l->path && served_choose_name(name ? name->text : NULL, l->path, l->name, e) && not_served_yet(c, l->path, e) &&
        models_may_add(daemon_models(c->daemon), l->name, NULL, e))
        return &l->work;
    load_free(&l->work);
    return NULL;
}
