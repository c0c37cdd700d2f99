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
    return err_field(e, ERR_FORBIDDEN, "path",
                     "only models under --models-dir, or that --model named at the start, can be loaded");
}

static bool refuse_all(struct err *e)
{
    return err_field(e, ERR_FORBIDDEN, "path",
                     "only models that --model named at the start can be loaded: there is no --models-dir");
}

static bool was_given(const struct config *c, const char *real)
{
    bool found = false;
    for (size_t i = 0; i < c->models.n && !found; i++) {
        char name[CONFIG_NAME], given[PATH_MAX];
        struct err ignored = {0};
        const char *path = config_model(c->models.value[i], name, &ignored);
        found = path && realpath(path, given) && strcmp(given, real) == 0;
    }
    return found;
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

static bool resolve(const struct config *c, const char *path, char real[PATH_MAX], struct err *e)
{
    char root[PATH_MAX];
    const char *dir = c->models_dir;
    if (dir && !realpath(dir, root)) return err_set(e, ERR_IO, "--models-dir %s: %s", dir, strerror(errno));
    struct buf full = {0};
    if (!dir || path[0] == '/') buf_text(&full, path);
    else buf_printf(&full, "%s/%s", root, path);
    bool ok = buf_ok(&full, e), there = ok && realpath(full.data, real);
    int why = errno;
    if (ok && !(there && was_given(c, real))) {
        if (!dir) ok = refuse_all(e);
        else if (!there) ok = refuse_missing(full.data, dir, root, why, e);
        else ok = (lies_under(real, root) || refuse_outside(e)) && entries_inside(real, root, e);
    }
    buf_release(&full);
    return ok;
}

char *model_path(const struct config *c, const char *path, struct err *e)
{
    char real[PATH_MAX];
    return resolve(c, path, real, e) ? mem_text(real) : NULL;
}
