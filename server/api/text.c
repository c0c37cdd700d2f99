#include "answer.h"
#include "handlers.h"
#include "input.h"

/* {"input": INPUT}, or a text (and bos) as members of the body itself. */
bool api_tokenize(struct call *c, struct reply *r, struct err *e)
{
    const struct model *m = daemon_model(c->daemon);
    const struct json *input = json_get(c->body, "input");
    struct input in;
    if (!answer_model(c, c->body, e)) return false;
    if (!input_resolve(m, input ? input : c->body, input ? "input" : "", &in, e)) return false;
    jout *o = jout_object();
    input_echo(o, m, &in);
    input_release(&in);
    return answer_reply(r, o, e);
}
