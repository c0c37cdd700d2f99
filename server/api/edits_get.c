#include "answer.h"
#include "handlers.h"

#include <string.h>

bool api_edit_get(struct call *c, struct reply *r, struct err *e)
{
    return ledger_edit(c->reader, c->param[0], &r->body, e);
}

static bool wants_bytes(const char *accept)
{
    return strstr(accept, "safetensors") || strstr(accept, "application/octet-stream");
}

bool api_delta_get(struct call *c, struct reply *r, struct err *e)
{
    struct buf bytes = {0}, json = {0};
    bool ok = ledger_delta(c->reader, c->param[0], &bytes, &json, e), raw = wants_bytes(c->accept);
    if (ok) r->body = raw ? bytes : json;
    if (ok && raw) r->content_type = "application/safetensors";
    if (!ok || raw) buf_release(&json);
    if (!ok || !raw) buf_release(&bytes);
    return ok;
}
