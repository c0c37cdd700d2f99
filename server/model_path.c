#include "model_path.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Both resolved. */
static bool lies_under(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    while (n && dir[n - 1] == '/') n--; /* "/" itself */
    return strncmp(path, dir, n) == 0 && path[n] == '/';
}

static bool refuse_outside(struct err *e)
{
    return err_field(e, ERR_FORBIDDEN, "path", "only models under --models-dir can be loaded");
}

static bool entries_inside(const char *path, const char *dir, struct err *e)
{
    DIR *d = opendir(path);
    bool ok = true;
    if (!d) return errno == ENOTDIR || err_field(e, ERR_INVALID, "path", "cannot be listed: %s", strerror(errno));
    for (const struct dirent *at; ok && (at = readdir(d));) {
        if (strcmp(at->d_name, ".") == 0 || strcmp(at->d_name, "..") == 0) continue;
        struct buf name = {0};
        char real[PATH_MAX];
        buf_printf(&name, "%s/%s", path, at->d_name);
        ok = !name.failed && (!realpath(name.data, real) || lies_under(real, dir));
        if (!ok) (void)refuse_outside(e);
        buf_release(&name);
    }
    (void)closedir(d);
    return ok;
}

/* Why realpath failed, told only where the path cannot be about anything outside. */
static bool refuse_missing(const char *asked, const char *dir, const char *root, int why, struct err *e)
{
    bool inside = lies_under(asked, root) || lies_under(asked, dir);
    if (!inside || strstr(asked, "..")) return refuse_outside(e);
    return err_field(e, ERR_INVALID, "path", "cannot be opened: %s", strerror(why));
}

static bool resolve(const char *dir, const char *path, char real[PATH_MAX], struct err *e)
{
    char root[PATH_MAX];
    if (!realpath(dir, root)) return err_set(e, ERR_IO, "--models-dir %s: %s", dir, strerror(errno));
    struct buf full = {0};
    if (path[0] == '/') buf_text(&full, path);
    else buf_printf(&full, "%s/%s", root, path);
    bool ok = buf_ok(&full, e);
    if (ok && !realpath(full.data, real)) ok = refuse_missing(full.data, dir, root, errno, e);
    else if (ok) ok = (lies_under(real, root) || refuse_outside(e)) && entries_inside(real, root, e);
    buf_release(&full);
    return ok;
}

char *model_path(const char *dir, const char *path, struct err *e)
{
    char real[PATH_MAX];
    if (!dir) {
        (void)err_field(e, ERR_FORBIDDEN, "path",
                        "this daemon loads no models on request; it was started without --models-dir");
        return NULL;
    }
    return resolve(dir, path, real, e) ? mem_text(real) : NULL;
}
