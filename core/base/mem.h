/* Memory: the only door to malloc in the engine.
 *
 * Three sizes of need, three behaviours:
 *   - mem_new: small objects of a size the program fixes (a struct, a short copy). Never NULL: a
 *     process that cannot get 64 bytes is past saving and stops with a report.
 *   - mem_take, mem_floats, arena_*: anything whose size a file, a request or a model decides.
 *     NULL and ERR_NO_MEMORY on failure or overflow; the caller gives up and says so.
 *   - struct arena: many small pieces that die together (a parsed file, a request). Has a budget.
 *   - struct buf: bytes that grow; a failed growth makes it `failed` and keeps it so, so that a
 *     long run of appends is checked once at the end.
 *
 * mem_floats is 64-byte aligned and asks for huge pages; use it for weights, caches, scratch.
 * Everything from mem_new/mem_take/mem_floats is freed by mem_drop. All thread safe, except that
 * one arena, buf or scratch belongs to one thread at a time.
 */
#ifndef ENGRAM_MEM_H
#define ENGRAM_MEM_H

#include <stdint.h>
#include <stdlib.h>

#include "err.h"

/* a*b and a+b into *out; false on overflow. */
bool size_mul(size_t a, size_t b, size_t *out) MUST_CHECK;
bool size_add(size_t a, size_t b, size_t *out) MUST_CHECK;

void *mem_new(size_t bytes);                         /* zeroed, never NULL */
char *mem_text(const char *text);                    /* a copy, never NULL */
void *mem_take(size_t count, size_t size, struct err *e) MUST_CHECK; /* zeroed or NULL */
float *mem_floats(size_t count, struct err *e) MUST_CHECK;           /* NOT zeroed, or NULL */
size_t mem_floats_bytes(size_t count);               /* what that takes; SIZE_MAX when it overflows */
void mem_drop(void *p);                              /* NULL is fine */

/* Room for passing values: grown as needed, its contents gone whenever it grows. Starts zeroed. */
struct scratch {
    float *data;
    size_t floats;
};
bool scratch_grow(struct scratch *s, size_t floats, struct err *e) MUST_CHECK;
void scratch_release(struct scratch *s); /* and zeroed again */

struct arena {
    struct arena_chunk *chunks;
    size_t used_bytes, budget_bytes; /* budget 0: none */
};
void arena_init(struct arena *a, size_t budget_bytes);
void arena_release(struct arena *a);
void *arena_take(struct arena *a, size_t count, size_t size, struct err *e) MUST_CHECK; /* zeroed */
char *arena_text(struct arena *a, const char *text, size_t len, struct err *e) MUST_CHECK;

struct buf {
    char *data; /* always NUL terminated once anything was appended; data[len] == 0 */
    size_t len, cap;
    bool failed;
};
void buf_release(struct buf *b);
void buf_reserve(struct buf *b, size_t len); /* room for exactly so many more: no growth by doubling */
void buf_put(struct buf *b, const void *bytes, size_t len);
void buf_text(struct buf *b, const char *text);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
bool buf_ok(const struct buf *b, struct err *e) MUST_CHECK; /* false and ERR_NO_MEMORY if failed */
char *buf_detach(struct buf *b); /* the bytes (free with mem_drop); the buf is empty again */

#endif
