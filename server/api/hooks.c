/* GET /v1/models/{name}/hooks: every hook point, with its shape, or why this model has none. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "answer.h"
#include "core/site.h"
#include "handlers.h"

/* What the last axis is called: the name of its width in struct arch. */
static const char *const width_words[] = {
#define HOOK(name, spelling, scope, axis, width, need, access, what) #width,
#include "core/hook.def"
#undef HOOK
};
static_assert(sizeof width_words / sizeof *width_words == HOOK_COUNT, "one word per hook");

static const char *width_word(enum hook h)
{
    const char *arrow = strstr(width_words[h], "->");
    return arrow ? arrow + 2 : width_words[h];
}

struct axis {
    const char *word;
    int64_t size; /* -1: the input's length */
};

static size_t axes_of(const struct arch *a, enum hook h, struct axis out[3])
{
    const struct axis pos = {"pos", -1}, width = {width_word(h), hook_width(a, h)},
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
    const struct hook_info *info = hook_info(s.hook);
    const char *absent = hook_absent(a, s.hook);
    size_t n = axes_of(a, s.hook, axes);
    site_text(s, name);
    jout_text(o, "site", name);
    site_short(s, name);
    jout_text(o, "short", name);
    if (info->scope == SCOPE_LAYER) jout_int(o, "layer", s.layer);
    else jout_null(o, "layer");
    jout *shape = jout_put_array(o, "shape"), *size = jout_put_array(o, "size");
    for (size_t i = 0; i < n; i++) {
        jout_text(shape, NULL, axes[i].word);
        if (axes[i].size < 0) jout_null(size, NULL);
        else jout_int(size, NULL, axes[i].size);
    }
    jout_bool(o, "readable", !absent);
    jout_bool(o, "writable", !absent && info->writable);
    if (absent) jout_text(o, "why_not", absent);
    else if (!info->writable) jout_text(o, "why_not", "read-only");
    else jout_null(o, "why_not");
    jout_text(o, "description", info->what);
}

static bool put_hooks(const struct arch *a, struct reply *r, struct err *e)
{
    jout *o = jout_object(), *list = jout_put_array(o, "hooks");
    for (size_t i = 0; i < site_count(a); i++) put_hook(jout_put_object(list, NULL), a, site_at(a, i));
    return answer_reply(r, o, e);
}

bool api_hooks(struct call *c, struct reply *r, struct err *e)
{
    if (call_model(c, c->param[0], e)) return put_hooks(&c->served->model->arch, r, e);
    (void)snprintf(e->field, sizeof e->field, "name");
    return false;
}
