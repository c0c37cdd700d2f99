/* /v1/saes: load a sparse autoencoder for a model, list them, take one out.
 *
 *   path and name are checked ─► the folder is read and hashed (ahead, on the loader's thread) ─► one step adds it
 */
#include <stdio.h>
#include <string.h>

#include "answer.h"
#include "handlers.h"
#include "sae_name.h"
#include "server/model_path.h"

struct load_work {
    struct work work;
    char *path, *site; /* site NULL: cfg.json's */
    char name[NAME_TEXT];
    struct loaded_sae *sae;
};

static struct load_work *of(struct work *w) { return (struct load_work *)w; }

static void load_free(struct work *w)
{
    loaded_sae_drop(of(w)->sae);
    mem_drop(of(w)->path);
    mem_drop(of(w)->site);
    served_drop(w->served);
    mem_drop(w);
}

/* What is wrong with files that the request named is the request's fault, not ours. */
static bool load_ahead(struct work *w, const struct telling *t, struct err *e)
{
    struct load_work *l = of(w);
    (void)t;
    l->sae = loaded_sae_open(l->path, l->name, &w->served->model->arch, l->site, daemon_budget(w->daemon), e);
    if (l->sae) return true;
    if (e->code == ERR_CORRUPT || e->code == ERR_UNSUPPORTED || e->code == ERR_IO || e->code == ERR_NOT_FOUND) e->code = ERR_INVALID;
    if (e->code == ERR_INVALID && !e->field[0]) (void)snprintf(e->field, sizeof e->field, "path");
    return false;
}

static enum step load_step(struct work *w, struct session *session, struct err *e)
{
    (void)session;
    return saes_add(w->served->saes, of(w)->sae, e) ? STEP_DONE : STEP_FAIL;
}

void sae_put(jout *o, const struct loaded_sae *s)
{
    const struct sae_cfg *c = &s->sae->cfg;
    char site[64];
    site_text(s->site, site);
    jout_text(o, "name", s->name);
    jout_text(o, "architecture", sae_kind_word(c->kind));
    jout_text(o, "site", site);
    if (c->head == SAE_ALL_HEADS) jout_null(o, "head");
    else jout_int(o, "head", c->head);
    jout_int(o, "width", c->width);
    jout_int(o, "features", c->features);
    if (c->kind == SAE_TOPK) jout_int(o, "k", c->top);
    else jout_null(o, "k");
    jout_bool(o, "apply_b_dec_to_input", c->centred);
    jout_text(o, "normalize_activations", sae_norm_word(c->norm));
    jout_int(o, "bytes", (int64_t)sae_bytes(c));
    jout_text(o, "digest", s->digest);
    jout_text(o, "cfg_digest", s->cfg_digest);
}

static bool load_finish(struct work *w, struct outcome *o, struct err *e)
{
    jout *root = jout_object();
    jout_text(root, "model", w->served->name);
    sae_put(root, of(w)->sae);
    bool ok = jout_print(root, &o->body, e);
    jout_free(root);
    o->status = 201;
    o->record = RECORD_NOTHING;
    return ok;
}

static const struct work_ops ops = {
    .kind = "load-sae", .unit = "steps", .brief = true, .of_this_life = true,
    .ahead = load_ahead, .step = load_step, .finish = load_finish, .free = load_free,
};

struct work *api_sae_load(struct call *c, struct err *e)
{
    struct load_work *l = mem_new(sizeof *l);
    const struct json *site = json_get(c->body, "site"), *name = json_get(c->body, "name");
    l->work.ops = &ops;
    l->work.daemon = c->daemon;
    struct served *s = call_served(c, c->body, e);
    if (s) {
        l->work.served = served_retain(s);
        l->path = model_path(daemon_config(c->daemon), json_get(c->body, "path")->text, e);
        l->site = site ? mem_text(site->text) : NULL;
    }
    if (l->path && served_choose_name(name ? name->text : NULL, l->path, l->name, e) && saes_may_add(s->saes, l->name, e)) return &l->work;
    load_free(&l->work);
    return NULL;
}

bool api_saes(struct call *c, struct reply *r, struct err *e)
{
    struct loaded_sae *all[SAES_MOST];
    struct served *s = call_served(c, c->query, e);
    if (!s) return false;
    jout *o = jout_object();
    jout_text(o, "model", s->name);
    jout *list = jout_put_array(o, "saes");
    size_t n = saes_list(s->saes, all);
    for (size_t i = 0; i < n; i++) {
        sae_put(jout_put_object(list, NULL), all[i]);
        loaded_sae_drop(all[i]);
    }
    return answer_reply(r, o, e);
}

bool api_sae_unload(struct call *c, struct reply *r, struct err *e)
{
    struct served *s = call_served(c, c->query, e);
    if (!s) return false;
    if (!saes_remove(s->saes, c->param[0], e)) {
        (void)snprintf(e->field, sizeof e->field, "name");
        return false;
    }
    jout *o = jout_object();
    jout_text(o, "model", s->name);
    jout_text(o, "name", c->param[0]);
    jout_bool(o, "deleted", true);
    return answer_reply(r, o, e);
}

struct loaded_sae *sae_named(struct look *l, const struct json *name, const char *field, struct err *e)
{
    struct loaded_sae *s = saes_find(l->work.served->saes, name->text, e);
    char site[64];
    if (!s) {
        (void)snprintf(e->field, sizeof e->field, "%s", field);
        return NULL;
    }
    site_text(s->site, site);
    look_beside(l, "sae %s %s %s", s->digest, s->cfg_digest, site);
    return s;
}
