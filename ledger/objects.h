/* Content-addressed files: DIR/objects/ab/cdef… holds the bytes whose SHA-256 is abcdef… .
 *
 * object_put returns only when the bytes would survive a power cut: written to objects/tmp, synced,
 * renamed, directory synced. So a row that names an object may be committed after it. A crash in
 * between leaves an orphan, never a dangling name. object_get proves size and hash.
 *
 * Stateless; put and remove belong to the writer thread, get to any.
 */
#ifndef ENGRAM_OBJECTS_H
#define ENGRAM_OBJECTS_H

#include "digest.h"

bool objects_prepare(const char *dir, struct err *e) MUST_CHECK; /* folders; clears objects/tmp */
bool object_put(const char *dir, const uint8_t hash[SHA256_BYTES], const void *bytes, size_t n,
                struct err *e) MUST_CHECK;
/* Appends to out. ERR_CORRUPT when the file is missing, of another size or of another hash. */
bool object_get(const char *dir, const uint8_t hash[SHA256_BYTES], size_t n, struct buf *out,
                struct err *e) MUST_CHECK;
void object_remove(const char *dir, const uint8_t hash[SHA256_BYTES]);

#endif
