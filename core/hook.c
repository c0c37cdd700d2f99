#include "hook.h"

#include <assert.h>
#include <stdio.h>

/* ---- the table ------------------------------------------------------------------------------------ */

enum need {
#define NEED(name, condition, why) NEED_##name,
#include "hook_need.def"
#undef NEED
    NEED_COUNT
};

static const char *const reasons[] = {
#define NEED(name, condition, why) why,
#include "hook_need.def"
#undef NEED
};
static_assert(sizeof reasons / sizeof *reasons == NEED_COUNT, "one reason per need");

enum { ACCESS_READ, ACCESS_WRITE };

static const struct hook_info infos[] = {
#define HOOK(name, spelling, scope, axis, width, need, access, what)                               \
    {spelling, SCOPE_##scope, AXIS_##axis, ACCESS_##access == ACCESS_WRITE, what},
#include "hook.def"
#undef HOOK
};
static_assert(sizeof infos / sizeof *infos == HOOK_COUNT, "one description per hook");

static const enum need needs[] = {
#define HOOK(name, spelling, scope, axis, width, need, access, what) NEED_##need,
#include "hook.def"
#undef HOOK
};

const struct hook_info *hook_info(enum hook h)
{
    assert((unsigned)h < HOOK_COUNT);
    return &infos[h];
}

const char *hook_absent(const struct arch *a, enum hook h)
{
    assert((unsigned)h < HOOK_COUNT);
    const bool met[] = {
#define NEED(name, condition, why) condition,
#include "hook_need.def"
#undef NEED
    };
    return met[needs[h]] ? NULL : reasons[needs[h]];
}

uint32_t hook_width(const struct arch *a, enum hook h)
{
    assert((unsigned)h < HOOK_COUNT);
    const uint32_t widths[] = {
#define HOOK(name, spelling, scope, axis, width, need, access, what) width,
#include "hook.def"
#undef HOOK
    };
    return widths[h];
}

uint32_t hook_heads(const struct arch *a, enum hook h)
{
    const uint32_t heads[] = {[AXIS_PLAIN] = 1, [AXIS_QUERY] = a->n_heads, [AXIS_KV] = a->n_kv_heads,
                              [AXIS_SOURCE] = a->n_heads};
    return heads[hook_info(h)->axis];
}

void site_text(struct site s, char out[64])
{
    const struct hook_info *i = hook_info(s.hook);
    if (i->scope == SCOPE_MODEL) (void)snprintf(out, 64, "%s", i->spelling);
    else (void)snprintf(out, 64, "blocks.%u.%s", s.layer, i->spelling);
}

bool hook_of_ln1(enum hook h) { return h == HOOK_LN1_SCALE || h == HOOK_LN1_NORMALIZED; }

bool hook_of_head_input(enum hook h)
{
    return h == HOOK_ATTN_IN || h == HOOK_Q_INPUT || h == HOOK_K_INPUT || h == HOOK_V_INPUT;
}
