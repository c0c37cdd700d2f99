#include "answer.h"
#include "handlers.h"
#include "input.h"

/* {"input": INPUT}, or a text (and bos) as members of the body itself. */
bool api_tokenize(struct call *c, struct reply *r, struct err *e)
{
    const struct json *input = json_get(c->body, "input");
    struct input in;
    const struct served *s = call_served(c, c->body, e);
    if (!s || !input_resolve(s->model, input ? input : c->body, input ? "input" : "", &in, e)) return false;
    jout *o = jout_object();
    input_echo(o, s->model, &in);
    input_release(&in);
    return answer_reply(r, o, e);
}
