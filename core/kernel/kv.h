/* Keys and values of the positions a sequence has been through, per layer: what later tokens
 * attend to. Keys are stored after rotary. Memory grows by blocks of KV_BLOCK positions, so a
 * long generation never copies; a fork shares whole blocks (counted) and copies only the last,
 * partial one.
 *
 * Layout of a block and layer: K [KV_BLOCK][G·e], then V the same. A kv is valid only for the view
 * that made it. One thread at a time, except that forks may be freed from any thread.
 */
#ifndef ENGRAM_KV_H
#define ENGRAM_KV_H

#include "core/arch.h"

enum { KV_BLOCK = 32 };

struct kv;
struct kv *kv_new(const struct arch *a);
void kv_free(struct kv *kv);
uint32_t kv_len(const struct kv *kv);
size_t kv_bytes(const struct arch *a, size_t positions); /* of a cache with room for so many */
/* A kv with the first len positions of this one. */
struct kv *kv_fork(const struct kv *kv, uint32_t len, struct err *e) MUST_CHECK;
/* Make room for positions up to len; kv_commit makes them count. */
bool kv_reserve(struct kv *kv, uint32_t len, struct err *e) MUST_CHECK;
void kv_commit(struct kv *kv, uint32_t len);
/* Rows of one position (G·e floats), reserved. */
float *kv_key(const struct kv *kv, uint32_t layer, uint32_t pos);
float *kv_value(const struct kv *kv, uint32_t layer, uint32_t pos);

#endif
