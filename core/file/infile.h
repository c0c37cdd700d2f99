/* A file opened for reading, and a cursor that walks it.
 *
 * The size is taken once, at open, and every read is proven against it first; the bytes come
 * through pread, so a file that shrinks later is an error, not a signal. Only regular files open
 * (a FIFO would block for ever). Errors are sentences with byte offsets; callers name the file
 * with err_while(e, "reading %s", f->path), outermost and once.
 *
 * A cursor reads forward through a small window, so that a header of a hundred thousand short
 * strings costs few system calls. Its rule for lengths that come from the file: cursor_holds
 * first, then allocate.
 *
 * Ownership: infile_open opens, infile_close closes; a cursor borrows its infile. Threads: an
 * infile may be read by any; a cursor belongs to one.
 */
#ifndef ENGRAM_INFILE_H
#define ENGRAM_INFILE_H

#include "core/base/mem.h"

struct infile {
    char *path;
    int fd; /* -1 when closed */
    uint64_t size_bytes;
};

bool infile_open(struct infile *f, const char *path, struct err *e) MUST_CHECK;
void infile_close(struct infile *f);
/* Exactly n bytes at offset. */
bool infile_read(const struct infile *f, uint64_t offset, void *dst, size_t n, struct err *e)
    MUST_CHECK;
/* All of a file of at most max_bytes, with a NUL behind it; mem_drop it. NULL on failure. */
char *infile_whole(const char *path, size_t max_bytes, size_t *len, struct err *e) MUST_CHECK;

enum { CURSOR_WINDOW_BYTES = 16 * 1024 };
struct cursor {
    const struct infile *file;
    uint64_t at;             /* offset of the next byte */
    uint64_t window_at;      /* offset of window[0] */
    size_t window_len;
    unsigned char window[CURSOR_WINDOW_BYTES];
};

void cursor_init(struct cursor *c, const struct infile *file);
uint64_t cursor_left(const struct cursor *c);
/* count items of at least item_bytes each can still follow; else the sentence: ERR_CORRUPT. */
bool cursor_holds(const struct cursor *c, uint64_t count, size_t item_bytes, struct err *e)
    MUST_CHECK;
bool cursor_bytes(struct cursor *c, void *dst, size_t n, struct err *e) MUST_CHECK;
bool cursor_u32(struct cursor *c, uint32_t *out, struct err *e) MUST_CHECK; /* little-endian */
bool cursor_u64(struct cursor *c, uint64_t *out, struct err *e) MUST_CHECK;

#endif
