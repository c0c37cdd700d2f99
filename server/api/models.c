#include "answer.h"
#include "handlers.h"

static void put_model(jout *o, const struct model *m, const struct model_row *row,
                      const struct revision *head)
{
    const struct arch *a = &m->arch;
    jout_text(o, "name", m->name);
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

bool api_models(struct call *c, struct reply *r, struct err *e)
{
    const struct model *m = daemon_model(c->daemon);
    const struct model_row *row = daemon_model_row(c->daemon);
    struct revision head;
    if (!ledger_head(c->reader, row->id, "main", &head, e)) return false;
    jout *o = jout_object();
    jout_text(o, "object", "list");
    jout *id = jout_put_object(jout_put_array(o, "data"), NULL);
    jout_text(id, "id", m->name);
    jout_text(id, "object", "model");
    put_model(jout_put_object(jout_put_array(o, "models"), NULL), m, row, &head);
    revision_release(&head);
    return answer_reply(r, o, e);
}
