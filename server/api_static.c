#include "answer.h"
#include "api.h"
#include "assets.h"

#include <assert.h>
#include <string.h>

/* The page may talk to this daemon and to nobody else, and nobody may frame it. */
static const char csp[] = "default-src 'none'; script-src 'self'; style-src 'self'; "
                          "connect-src 'self'; img-src 'self' data:; base-uri 'none'; "
                          "form-action 'none'; frame-ancestors 'none'";

static bool serve(struct call *c, struct reply *r, struct err *e)
{
    size_t i = 0;
    while (i < n_assets && strcmp(assets[i].path, c->route->path) != 0) i++;
    assert(i < n_assets);
    r->content_type = assets[i].type;
    if (answer_unchanged(c, r, assets[i].etag)) return true;
    buf_put(&r->body, assets[i].bytes, assets[i].len);
    return buf_ok(&r->body, e);
}

bool api_openapi(struct call *c, struct reply *r, struct err *e) { return serve(c, r, e); }

bool api_page(struct call *c, struct reply *r, struct err *e)
{
    r->csp = csp;
    return serve(c, r, e);
}
