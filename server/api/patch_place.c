#include "patch_place.h"

#include <string.h>

#include "core/site.h"
#include "place.h"

static const struct patch_axes axes_known[] = {
    {{NULL, NULL}, false, false, false, PATCH_LAYER},
    {{"pos", NULL}, false, true, false, PATCH_LAYER_POS},
    {{"head", NULL}, true, false, false, PATCH_LAYER_HEAD},
    {{"head", "pos"}, true, true, false, PATCH_LAYER_HEAD_POS},
    {{"neuron", NULL}, true, false, true, PATCH_LAYER_HEAD},
    {{"neuron", "pos"}, true, true, true, PATCH_LAYER_HEAD_POS},
};

bool patch_site_read(const struct json *v, const struct arch *a, enum hook *out, struct err *e)
{
    struct site site = {0};
    struct err not_a_word;
    if (!site_of_words(a, &(struct site_words){.word = v->text, .has_layer = true}, &site, &not_a_word) &&
        !hook_parse(v->text, &site.hook, e))
        return place_blame(e, "site");
    const struct hook_info *info = hook_info(site.hook);
    const char *why = hook_absent(a, site.hook);
    if (why) return err_field(e, ERR_INVALID, "site", "%s has no %s: %s", a->family, v->text, why);
    *out = site.hook;
    return (info->scope == SCOPE_LAYER && info->writable) ||
           err_field(e, ERR_INVALID, "site", "%s is no hook of a layer that can be written, such as hook_resid_pre",
                     info->spelling);
}

static bool same_words(const struct patch_axes *a, const struct json *second)
{
    for (int i = 0; i < 2; i++, second = second ? second->next : NULL)
        if (!a->word[i] != !second || (second && strcmp(a->word[i], second->text) != 0)) return false;
    return true;
}

static const struct patch_axes *axes_of(const struct json *axes, struct err *e)
{
    for (const struct json *a = axes->child; a; a = a->next)
        for (const struct json *b = a->next; b; b = b->next)
            if (strcmp(a->text, b->text) == 0) {
                (void)err_field(e, ERR_INVALID, "axes", "\"%s\" is named twice", a->text);
                return NULL;
            }
    for (size_t i = 0; strcmp(axes->child->text, "layer") == 0 && i < sizeof axes_known / sizeof *axes_known; i++)
        if (same_words(&axes_known[i], axes->child->next)) return &axes_known[i];
    (void)err_field(e, ERR_INVALID, "axes", "the first axis is \"layer\"; behind it come \"pos\", \"head\" or \"neuron\", and "
                    "\"pos\" behind these");
    return NULL;
}

bool patch_axes_read(const struct json *request, enum hook hook, const struct patch_axes **out, uint32_t *block, struct err *e)
{
    const struct hook_info *site = hook_info(hook);
    const struct patch_axes *a = axes_of(json_get(request, "axes"), e);
    if (!a) return false;
    *out = a;
    *block = a->block ? (uint32_t)json_get(request, "block")->integer : 0;
    if (a->block && site->axis != AXIS_PLAIN)
        return err_field(e, ERR_INVALID, "axes", "%s has heads; its axis is \"head\", not \"neuron\"", site->spelling);
    return !a->head || a->block || site->axis != AXIS_PLAIN ||
           err_field(e, ERR_INVALID, "axes", "%s has no heads; its axes are [\"layer\",\"pos\"]", site->spelling);
}

bool patch_bounded(const struct pairs *p, const struct patch_request *q, struct err *e)
{
    enum { MOST_VALUES = 8388608 };
    uint32_t heads, pos;
    patch_columns(q, &heads, &pos);
    for (size_t i = 1; patch_by_pos(q->axis) && i < p->n; i++)
        if (p->asked[i].n != p->asked->n)
            return err_field(e, ERR_INVALID, "pairs", "pair %zu has %u tokens and the first %u; with an axis of positions all "
                             "have the same", i, p->asked[i].n, p->asked->n);
    size_t cells = plan_times(plan_times(heads, pos), view_model(q->view)->arch.n_layers);
    size_t values = plan_times(plan_times(cells, p->n_metrics), p->n + (p->listed ? 6 : 0));
    return values <= MOST_VALUES || err_field(e, ERR_TOO_LARGE, "pairs", "%zu values would be answered, at most %d", values, MOST_VALUES);
}
