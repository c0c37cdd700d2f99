/* GET /v1/models/{name}: may `model` of a completion be this? */
#include "answer.h"
#include "handlers.h"
#include "openai.h"
#include "server/clock.h"

void openai_put_model(jout *o, const char *id, const struct revision *rev)
{
    jout_text(o, "id", id);
    jout_text(o, "object", "model");
    jout_int(o, "created", rev->created_us / US_PER_S);
    jout_text(o, "owned_by", "engramd");
}

bool api_model(struct call *c, struct reply *r, struct err *e)
{
    struct resolved view;
    struct revision rev = {0};
    if (!openai_view(c, c->param[0], &view, e)) return false;
    bool ok = ledger_revision(c->reader, view.revision, &rev, e);
    jout *o = jout_object();
    openai_put_model(o, c->param[0], &rev);
    answer_view(o, "view", &view);
    revision_release(&rev);
    resolved_release(&view);
    if (ok) return answer_reply(r, o, e);
    jout_free(o);
    return false;
}
