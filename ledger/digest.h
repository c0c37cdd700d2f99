/* Digests of weights: SHA-256 per tensor, and one per view (layout: docs/digest.md).
 *
 * A struct base_digests holds the hash of every tensor of a base, taken once at load (or read
 * back from a cache keyed by the files' identity). The digest of a view then costs only the
 * hashing of the tensors its deltas touched.
 *
 * Threads: pure functions over immutable data; hashing a model is the caller's thread's work.
 */
#ifndef ENGRAM_DIGEST_H
#define ENGRAM_DIGEST_H

#include "core/view.h"

enum { SHA256_BYTES = 32, DIGEST_TEXT = 72 }; /* "sha256:" + 64 hex + NUL */

struct base_digests {
    size_t n;
    uint8_t (*tensor)[SHA256_BYTES]; /* by the model's tensor index */
    char base[DIGEST_TEXT];          /* the base view's digest */
    char source[DIGEST_TEXT];        /* SHA-256 of the source file; of several, see docs/digest.md */
};

void sha256(const void *bytes, size_t n, uint8_t out[SHA256_BYTES]);
void digest_text(const uint8_t hash[SHA256_BYTES], char out[DIGEST_TEXT]);
bool digest_parse(const char *text, uint8_t out[SHA256_BYTES]);
/* hex of the hash alone, 64 characters + NUL */
void digest_hex(const uint8_t hash[SHA256_BYTES], char out[65]);

/* cache_dir may be NULL (no cache). */
bool base_digests_init(struct base_digests *d, const struct model *m, const char *cache_dir,
                       struct err *e) MUST_CHECK;
void base_digests_release(struct base_digests *d);

void digest_tensor(const struct view *v, size_t tensor, uint8_t out[SHA256_BYTES]);
void digest_view(const struct view *v, const struct base_digests *base, char out[DIGEST_TEXT]);

#endif
