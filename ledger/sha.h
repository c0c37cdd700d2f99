/* SHA-256 of bytes that come in pieces, beside the one-call form in digest.h. The library behind
 * it is known to ledger/digest.c alone.
 *
 *     struct sha *s = sha_new();
 *     sha_put(s, bytes, n); ...
 *     sha_end(s, hash);          // frees s
 *
 * sha_field puts a 64-bit little-endian length before the bytes, so that no two lists of fields
 * run together to the same stream; sha_u32 and sha_u64 put little-endian integers, bare.
 * One struct sha belongs to one thread.
 */
#ifndef ENGRAM_SHA_H
#define ENGRAM_SHA_H

#include "core/base/mem.h"

struct sha;
struct sha *sha_new(void); /* never NULL */
void sha_put(struct sha *s, const void *bytes, size_t n);
void sha_u32(struct sha *s, uint32_t x);
void sha_u64(struct sha *s, uint64_t x);
void sha_field(struct sha *s, const void *bytes, size_t n);
void sha_end(struct sha *s, uint8_t out[32]);

/* Of a whole file. */
bool sha_file(const char *path, uint8_t out[32], struct err *e) MUST_CHECK;

#endif
