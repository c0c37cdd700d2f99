/* Names of sites: what people type for a hook of one layer, or of the model.
 *
 *     full     blocks.5.attn.hook_z, blocks.4.ln1.hook_scale, hook_embed, ln_final.hook_scale
 *     short    z5, resid_pre5, scale4ln1, embed; scale and normalized alone are the final norm's
 *     words    the same in pieces, as in ["resid_pre", 5] and ["scale", 4, "ln1"]
 *     glob     a pattern (fnmatch) over full names: blocks.[0-3].attn.hook_z, blocks.*.hook_resid_post
 *
 * A short name is a hook's word (its spelling after "hook_"), a layer, and a module where several hooks
 * of a layer share that word. TransformerLens' other words are understood: attn for pattern, attn_logits
 * for attn_scores, key, query and value, mlp_pre and mlp_post; a, m and b for the modules attn and mlp
 * and for the block itself. Layers are counted from 0 and never from the end.
 *
 * What cannot be understood is ERR_INVALID with a sentence: the range of layers, why this model has no
 * such hook, the names that are nearest, or those among which the module chooses.
 *
 * Pure functions, any thread. Names given out are written into the caller's memory.
 */
#ifndef ENGRAM_SITE_H
#define ENGRAM_SITE_H

#include "hook.h"

/* A full or a short name. */
bool site_parse(const struct arch *a, const char *text, struct site *out, struct err *e) MUST_CHECK;

struct site_words {
    const char *word;   /* "resid_pre", "hook_resid_pre", "attn.hook_z" */
    bool has_layer;
    int64_t layer;
    const char *module; /* "ln1", "attn", "b"; or NULL */
};
bool site_of_words(const struct arch *a, const struct site_words *w, struct site *out, struct err *e) MUST_CHECK;

/* A bare spelling ("hook_resid_pre"), as patch grids name it. */
bool hook_parse(const char *spelling, enum hook *out, struct err *e) MUST_CHECK;

/* The shortest name site_parse takes for it. */
void site_short(struct site s, char out[64]);

/* All sites in the order a pass comes by them, those this model lacks among them. */
size_t site_count(const struct arch *a);
struct site site_at(const struct arch *a, size_t i);

bool site_is_glob(const char *text);
/* The sites of this model that match, in that order; written: only those that may be written. Their
 * number; as many as there is room for are stored. */
size_t site_glob(const struct arch *a, const char *pattern, bool written, struct site *out, size_t room);

#endif
