#include "sae.h"

#include "core/head.h"
#include "core/site.h"

bool sae_site(const struct sae_cfg *c, const struct arch *a, const char *name, struct site *out, struct err *e)
{
    char text[64];
    if (!name && !c->hook[0]) return err_set(e, ERR_INVALID, "cfg.json has no hook_name: say the site");
    if (!site_parse(a, name ? name : c->hook, out, e)) return name ? false : err_while(e, "looking for cfg.json's hook_name");
    const struct hook_info *h = hook_info(out->hook);
    site_text(*out, text);
    const char *why = hook_absent(a, out->hook);
    if (why) return err_set(e, ERR_INVALID, "%s has no %s: %s", a->family, text, why);
    if (h->axis == AXIS_SOURCE || head_hook(out->hook) || !h->writable)
        return err_set(e, ERR_INVALID, "%s has no autoencoders: it must be written, before the final norm, and no pattern", text);
    uint32_t heads = hook_heads(a, out->hook), width = hook_width(a, out->hook);
    if (c->head != SAE_ALL_HEADS && (h->axis == AXIS_PLAIN || (uint32_t)c->head >= heads))
        return err_set(e, ERR_INVALID, "cfg.json's hook_head_index is %d, %s has %u heads", c->head, text, h->axis == AXIS_PLAIN ? 0 : heads);
    if (c->head == SAE_ALL_HEADS) width *= heads;
    return c->width == width || err_set(e, ERR_INVALID, "the autoencoder takes %u values (d_in), %s has %u", c->width, text, width);
}
