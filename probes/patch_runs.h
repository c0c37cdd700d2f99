/* The two runs of each pair that a patch grid compares, and what is kept of them.
 *
 * base     where values go in:   its cache (the past of every cell), and by layer the rows cells enter with
 * source   where values come from: by layer the values at the site
 *
 * A base may be a prompt with writes; several bases may share a source.
 *
 * All bases are run together, and the sources with them where they are on the same view. Values lie as a
 * read of every position and head gives them (core/hook.h), of the positions [0, n) that matter.
 *
 * Borrowed: views, ids and writes. One thread.
 */
#ifndef ENGRAM_PATCH_RUNS_H
#define ENGRAM_PATCH_RUNS_H

#include "core/run.h"
#include "patch.h"

enum patch_role { PATCH_BASE, PATCH_SOURCE, PATCH_ROLES };

struct patch_texts { /* of one pair */
    const uint32_t *ids[PATCH_ROLES];
    uint32_t n;          /* positions that matter: the metric's and all before */
    const struct tap *write; /* into the base, such as noise at its embeddings; seq is ours */
    size_t n_write;
    bool shares;         /* its source is the source of the pair before, whose values are there once */
};

/* Of a pair: denoising, its base is the corrupt prompt. */
struct patch_texts patch_texts_of(const struct patch_pair *pair, bool denoise);

/* Hooks whose values are kept, of each role; where only check layers count (every_layer false), of those. */
struct patch_keep {
    enum patch_role role;
    enum hook hook;
    bool every_layer;
};
enum { PATCH_KEEPS = 12, CHECK_LAYERS = 3 };

struct patch_runs_request {
    struct view *view[PATCH_ROLES];
    const struct patch_texts *pair;
    size_t n_pairs;
    struct patch_keep keep[PATCH_KEEPS]; /* no hook twice of a role */
    size_t n_keep;
};

/* The check layers of a model: the first, the middle, the last; how many they are. */
uint32_t patch_check_layers(const struct arch *a, uint32_t out[CHECK_LAYERS]);

void patch_runs_plan(const struct patch_runs_request *q, int threads, struct plan *p);

struct patch_runs;
struct patch_runs *patch_runs_new(const struct patch_runs_request *q, struct err *e) MUST_CHECK;
enum step patch_runs_step(struct patch_runs *r, struct session *s, struct err *e);
void patch_runs_free(struct patch_runs *r);

/* After STEP_DONE. NULL where it was not kept. */
const float *patch_runs_values(const struct patch_runs *r, size_t pair, enum patch_role role, struct site s);
float *patch_runs_edit(struct patch_runs *r, size_t pair, enum patch_role role, struct site s);
const float *patch_runs_final(const struct patch_runs *r, size_t pair, enum patch_role role); /* [d], last position */
const struct kv *patch_runs_kv(const struct patch_runs *r, size_t pair);

#endif
