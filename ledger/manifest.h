/* The manifest of a base: every tensor's name, stored type, shape and hash, in name order. With it
 * any view's digest can be computed from hashes alone, without the weights; it is stored as the
 * body of the base's ledger entry, as JSON:
 *
 *   {"format":"engramd.manifest.1","tensors":[{"name","type","shape":[…],"sha256":hex}…]}
 *
 * A tensor_state says which tensors of a revision differ from the base, and their hashes (always
 * over float32, see docs/digest.md). Index: the manifest's, which is the model's.
 *
 * Ownership: _init / _release in the caller's memory; names are copied. One thread each.
 */
#ifndef ENGRAM_MANIFEST_H
#define ENGRAM_MANIFEST_H

#include "digest.h"

struct manifest_tensor {
    char *name;
    enum dtype type;
    uint32_t n_dims;
    uint64_t shape[2]; /* outermost first */
    uint8_t hash[SHA256_BYTES];
};
struct manifest {
    size_t n;
    struct manifest_tensor *tensor;
};
void manifest_init(struct manifest *m, const struct model *model, const struct base_digests *d);
bool manifest_parse(struct manifest *m, const char *json, size_t len, struct err *e) MUST_CHECK;
void manifest_release(struct manifest *m);
void manifest_write(const struct manifest *m, struct buf *json);
bool manifest_find(const struct manifest *m, const char *name, size_t *index);
uint64_t manifest_elements(const struct manifest *m, size_t i);

struct tensor_state {
    size_t n;
    bool *changed;
    uint8_t (*hash)[SHA256_BYTES];
};
void tensor_state_init(struct tensor_state *s, size_t n);
void tensor_state_release(struct tensor_state *s);
void tensor_state_clear(struct tensor_state *s);

/* The view digest of the base with those changes; changed may be NULL. In digest.c. */
void manifest_digest(const struct manifest *m, const struct tensor_state *changed,
                     char out[DIGEST_TEXT]);

/* text as a JSON string, quotes included */
void json_quote(struct buf *out, const char *text);

#endif
