#include "outdir.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TEMP_NAME = 80 };

static bool failed(const struct outdir *d, const char *what, const char *name, int os,
                   struct err *e)
{
    bool space = os == ENOSPC || os == EDQUOT || os == EFBIG;
    return err_set(e, space ? ERR_NO_SPACE : ERR_IO, "cannot %s %s%s%s: %s", what, d->path,
                   *name ? "/" : "", name, strerror(os));
}

static void temp_name(const char *name, char out[TEMP_NAME])
{
    int n = snprintf(out, TEMP_NAME, "%s.part", name);
    assert(n < TEMP_NAME);
    (void)n;
}

static bool check_empty(const struct outdir *d, struct err *e)
{
    int fd = openat(d->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir) {
        int os = errno;
        if (fd >= 0) (void)close(fd);
        return failed(d, "list", "", os, e);
    }
    bool empty = true;
    for (struct dirent *f; empty && (f = readdir(dir));)
        empty = strcmp(f->d_name, ".") == 0 || strcmp(f->d_name, "..") == 0;
    (void)closedir(dir);
    return empty || err_set(e, ERR_CONFLICT, "directory %s is not empty", d->path);
}

bool outdir_open(struct outdir *d, const char *path, struct err *e)
{
    *d = (struct outdir){.path = mem_text(path), .fd = -1, .file = -1};
    d->made = mkdir(path, 0777) == 0;
    bool ok = d->made || errno == EEXIST || failed(d, "make", "", errno, e);
    if (ok) {
        d->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ok = d->fd >= 0 || failed(d, "open", "", errno, e);
    }
    ok = ok && check_empty(d, e);
    if (!ok) outdir_close(d);
    return ok;
}

bool outdir_begin(struct outdir *d, const char *name, struct err *e)
{
    char temp[TEMP_NAME];
    assert(d->file < 0 && d->n < OUTDIR_FILES && !d->finished);
    temp_name(name, temp);
    d->file = openat(d->fd, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (d->file < 0) return failed(d, "create", name, errno, e);
    d->name[d->n++] = name;
    d->write_errno = 0;
    return true;
}

void outdir_bytes(void *outdir, const void *bytes, size_t n)
{
    struct outdir *d = outdir;
    const char *at = bytes;
    while (n > 0 && !d->write_errno) {
        ssize_t w = write(d->file, at, n);
        if (w < 0 && errno != EINTR) d->write_errno = errno;
        if (w <= 0) continue;
        at += w;
        n -= (size_t)w;
    }
}

bool outdir_end(struct outdir *d, struct err *e)
{
    char temp[TEMP_NAME];
    const char *name = d->name[d->n - 1];
    assert(d->file >= 0);
    temp_name(name, temp);
    int os = d->write_errno;
    if (!os && fsync(d->file) != 0) os = errno;
    if (close(d->file) != 0 && !os) os = errno;
    d->file = -1;
    if (os) return failed(d, "write", name, os, e);
    return renameat(d->fd, temp, d->fd, name) == 0 || failed(d, "name", name, errno, e);
}

bool outdir_file(struct outdir *d, const char *name, const void *bytes, size_t n, struct err *e)
{
    if (!outdir_begin(d, name, e)) return false;
    outdir_bytes(d, bytes, n);
    return outdir_end(d, e);
}

/* The directory's own name, where it is new. */
static bool sync_parent(const struct outdir *d, struct err *e)
{
    int fd = openat(d->fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    int os = errno;
    if (fd >= 0) (void)close(fd);
    return ok || failed(d, "sync the parent of", "", os, e);
}

bool outdir_finish(struct outdir *d, struct err *e)
{
    assert(d->file < 0);
    if (fsync(d->fd) != 0) return failed(d, "sync", "", errno, e);
    d->finished = !d->made || sync_parent(d, e);
    return d->finished;
}

static void remove_files(struct outdir *d)
{
    char temp[TEMP_NAME];
    for (size_t i = 0; i < d->n; i++) {
        temp_name(d->name[i], temp);
        (void)unlinkat(d->fd, temp, 0);
        (void)unlinkat(d->fd, d->name[i], 0);
    }
}

void outdir_close(struct outdir *d)
{
    if (d->file >= 0) (void)close(d->file);
    if (!d->finished) {
        remove_files(d);
        if (d->made) (void)rmdir(d->path);
    }
    if (d->fd >= 0) (void)close(d->fd);
    mem_drop(d->path);
    *d = (struct outdir){.fd = -1, .file = -1};
}
