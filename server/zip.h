/* Writing a zip archive in memory, its members stored as they are: what NumPy calls .npz.
 *
 *     local header · bytes, for each member; then the directory and its end (PKWARE's APPNOTE 4.3)
 *
 * Every member carries the first day of the format as its date, so equal members give equal archives.
 * Only server/zip.c includes zlib.h, for the CRC-32.
 *
 *     struct zip z = {.out = &bytes};
 *     zip_add(&z, "a/b.npy", head, n, values, m);    a member's bytes may come in two pieces
 *     zip_end(&z, e);
 *
 * One thread. Fewer than ZIP_MOST members, 4 GiB in all.
 */
#ifndef ENGRAM_ZIP_H
#define ENGRAM_ZIP_H

#include "core/base/mem.h"

enum { ZIP_MOST = 65535 };

struct zip {
    struct buf *out;
    struct buf directory;
    size_t n;
};
void zip_add(struct zip *z, const char *name, const void *head, size_t head_len, const void *bytes, size_t len);
/* Releases what z holds, in any case. */
bool zip_end(struct zip *z, struct err *e) MUST_CHECK;

#endif
