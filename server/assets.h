/* Files that travel inside the binary: the page's and the contract's.
 *
 * Generated into assets.c by schema/generate.c; bytes lie in read-only data, the ETag is a hash of
 * them and so is strong. Constant; any thread.
 */
#ifndef ENGRAM_ASSETS_H
#define ENGRAM_ASSETS_H

#include <stddef.h>

struct asset {
    const char *path; /* as requested: "/", "/app.js" */
    const char *type; /* media type */
    const char *etag; /* with quotes */
    const unsigned char *bytes;
    size_t len;
};
extern const struct asset assets[];
extern const size_t n_assets;

#endif
