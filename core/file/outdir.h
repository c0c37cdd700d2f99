/* A directory being written: made, or taken while still empty, and filled file by file.
 *
 *     struct outdir d;
 *     if (!outdir_open(&d, path, e)) return false;
 *     bool ok = outdir_begin(&d, "model.safetensors", e);
 *     if (ok) outdir_bytes(&d, header, n);                        as often as needed
 *     ok = ok && outdir_end(&d, e) && outdir_file(&d, "config.json", text, len, e);
 *     ok = ok && outdir_finish(&d, e);
 *     outdir_close(&d);                          not finished: what was written is removed again
 *
 * A file appears under its name only when whole and synced. A directory that holds anything is
 * refused, so nothing of anyone else's is ever overwritten. A failed write is remembered and told
 * by outdir_end, which lets producers of bytes be plain functions. A full disk is ERR_NO_SPACE.
 *
 * Names are borrowed until outdir_close. One thread.
 */
#ifndef ENGRAM_OUTDIR_H
#define ENGRAM_OUTDIR_H

#include "core/base/mem.h"

enum { OUTDIR_FILES = 16 };
struct outdir {
    char *path;
    int fd;          /* of the directory, -1 when closed */
    int file;        /* being written, -1 for none */
    int write_errno; /* of its first failed write */
    bool made, finished;
    size_t n;
    const char *name[OUTDIR_FILES]; /* begun so far; the last may be unfinished */
};

bool outdir_open(struct outdir *d, const char *path, struct err *e) MUST_CHECK;
bool outdir_begin(struct outdir *d, const char *name, struct err *e) MUST_CHECK;
void outdir_bytes(void *outdir, const void *bytes, size_t n);
bool outdir_end(struct outdir *d, struct err *e) MUST_CHECK;
/* A whole file at once. */
bool outdir_file(struct outdir *d, const char *name, const void *bytes, size_t n, struct err *e)
    MUST_CHECK;
/* Sync the names too; from here on the directory stays. */
bool outdir_finish(struct outdir *d, struct err *e) MUST_CHECK;
void outdir_close(struct outdir *d);

#endif
