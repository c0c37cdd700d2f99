#include "answer.h"
#include "handlers.h"
#include "server/assets.h"

#include <assert.h>
#include <string.h>

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

bool api_page(struct call *c, struct reply *r, struct err *e) { return serve(c, r, e); }
