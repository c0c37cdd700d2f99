#include "answer.h"
#include "handlers.h"
#include "openai.h"

#include <stdio.h>

static void put_model(jout *o, const struct served *s, const struct resolved *head)
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
    jout_int(o, "bytes", (int64_t)m->memory_bytes);
    jout_text(o, "base_digest", row->base_digest);
    jout_text(o, "source_sha256", row->source_sha256);
    jout_text(o, "pretrained_parent", row->pretrained_parent);
    jout *h = jout_put_object(o, "head");
    jout_text(h, "revision", head->revision);
    jout_int(h, "seq", head->seq);
    jout_text(h, "digest", head->digest);
}

bool answer_model(jout *o, struct served *s, struct err *e)
{
    struct resolved head;
    if (!served_view(s, NULL, "main", &head, e)) return false;
    put_model(o, s, &head);
    resolved_release(&head);
    return true;
}

/* Twice: as OpenAI's clients know a model, and as it is. */
static bool list_model(struct call *c, struct served *s, jout *data, jout *models, struct err *e)
{
    struct resolved head;
    struct revision rev;
    if (!served_view(s, NULL, "main", &head, e)) return false;
    bool ok = ledger_revision(c->reader, head.revision, &rev, e);
    if (ok) {
        openai_put_model(jout_put_object(data, NULL), s->name, &rev);
        put_model(jout_put_object(models, NULL), s, &head);
        revision_release(&rev);
    }
    resolved_release(&head);
    return ok;
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

/* Later requests do not find it; jobs that hold it finish, and the last of them frees it. Its history
 * stays in the ledger, for when the same base is loaded again. */
bool api_model_unload(struct call *c, struct reply *r, struct err *e)
{
    char first[NAME_TEXT];
    if (!models_remove(daemon_models(c->daemon), c->param[0], first, e)) {
        (void)snprintf(e->field, sizeof e->field, "name");
        return false;
    }
    jout *o = jout_object();
    jout_text(o, "id", c->param[0]);
    jout_text(o, "object", "model");
    jout_bool(o, "deleted", true);
    if (first[0]) jout_text(o, "default", first);
    else jout_null(o, "default");
    return answer_reply(r, o, e);
}
