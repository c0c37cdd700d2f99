#include "answer.h"
#include "handlers.h"

#include "core/hook.h"

#include <assert.h>
#include <stdio.h>

/* ---- models ------------------------------------------------------------------------------------ */

static void put_model(jout *o, const struct served *s, const struct revision *head)
{
    const struct model *m = s->model;
    const struct model_row *row = &s->row;
    const struct arch *a = &m->arch;
    jout_text(o, "name", s->name);
    jout_text(o, "family", a->family);
    jout_int(o, "layers", a->n_layers);
    jout_int(o, "heads", a->n_heads);
    jout_int(o, "kv_heads", a->n_kv_heads);
    jout_int(o, "width", a->d_model);
    jout_int(o, "mlp_width", a->d_mlp);
    jout_int(o, "vocab", a->d_vocab);
    jout_int(o, "parameters", (int64_t)m->n_parameters);
    jout_int(o, "context", a->context);
    jout_text(o, "base_digest", row->base_digest);
    jout_text(o, "source_sha256", row->source_sha256);
    jout_text(o, "pretrained_parent", row->pretrained_parent);
    jout *h = jout_put_object(o, "head");
    jout_text(h, "revision", head->id);
    jout_int(h, "seq", head->seq);
    jout_text(h, "digest", head->digest);
}

static bool list_model(struct call *c, const struct served *s, jout *data, jout *models, struct err *e)
{
    struct revision head;
    if (!ledger_head(c->reader, s->row.id, "main", &head, e)) return false;
    jout *id = jout_put_object(data, NULL);
    jout_text(id, "id", s->name);
    jout_text(id, "object", "model");
    put_model(jout_put_object(models, NULL), s, &head);
    revision_release(&head);
    return true;
}

bool api_models(struct call *c, struct reply *r, struct err *e)
{
    struct served *served[MODELS_MOST];
    size_t n = models_list(daemon_models(c->daemon), served);
    jout *o = jout_object();
    jout_text(o, "object", "list");
    jout *data = jout_put_array(o, "data"), *models = jout_put_array(o, "models");
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        ok = ok && list_model(c, served[i], data, models, e);
        served_drop(served[i]);
    }
    if (ok) return answer_reply(r, o, e);
    jout_free(o);
    return false;
}

/* ---- hooks ------------------------------------------------------------------------------------- */

/* What the last axis is called: the name of its width in struct arch. */
static const char *const width_words[] = {
#define HOOK(name, suffix, axis, width, what) #width,
#include "core/hook.def"
#undef HOOK
};
static_assert(sizeof width_words / sizeof *width_words == HOOK_COUNT, "one word per hook");

struct axis {
    const char *word;
    int64_t size; /* -1: the input's length */
};

static size_t axes_of(const struct arch *a, enum hook h, struct axis out[3])
{
    const struct axis pos = {"pos", -1}, width = {width_words[h], hook_width(a, h)},
                      heads = {hook_info(h)->axis == AXIS_KV ? "kv_head" : "head", hook_heads(a, h)};
    out[0] = pos;
    out[1] = heads;
    out[2] = width;
    switch (hook_info(h)->axis) {
    case AXIS_QUERY:
    case AXIS_KV: return 3;
    case AXIS_PLAIN: out[1] = width; return 2;
    case AXIS_SOURCE: break;
    }
    out[0] = heads;
    out[1] = pos;
    out[2] = (struct axis){"key_pos", -1};
    return 3;
}

static void put_hook(jout *o, const struct arch *a, struct site s)
{
    char name[64];
    struct axis axes[3];
    size_t n = axes_of(a, s.hook, axes);
    site_text(s, name);
    jout_text(o, "site", name);
    jout_int(o, "layer", s.layer);
    jout *shape = jout_put_array(o, "shape"), *size = jout_put_array(o, "size");
    for (size_t i = 0; i < n; i++) {
        jout_text(shape, NULL, axes[i].word);
        if (axes[i].size < 0) jout_null(size, NULL);
        else jout_int(size, NULL, axes[i].size);
    }
    jout_bool(o, "readable", true);
    jout_bool(o, "writable", true);
    jout_null(o, "why_not");
    jout_text(o, "description", hook_info(s.hook)->what);
}

bool api_hooks(struct call *c, struct reply *r, struct err *e)
{
    c->served = models_find(daemon_models(c->daemon), c->param[0], e);
    if (!c->served) {
        (void)snprintf(e->field, sizeof e->field, "name");
        return false;
    }
    const struct arch *a = &c->served->model->arch;
    jout *o = jout_object(), *list = jout_put_array(o, "hooks");
    for (uint32_t l = 0; l < a->n_layers; l++)
        for (unsigned h = 0; h < HOOK_COUNT; h++)
            put_hook(jout_put_object(list, NULL), a, (struct site){(enum hook)h, l});
    return answer_reply(r, o, e);
}
