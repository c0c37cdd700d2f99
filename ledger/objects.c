#include "objects.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool io_failed(struct err *e, const char *what, const char *path)
{
    int os = errno;
    bool space = os == ENOSPC || os == EDQUOT || os == EFBIG;
    return err_set(e, space ? ERR_NO_SPACE : ERR_IO, "cannot %s %s: %s", what, path, strerror(os));
}

/* Paths of one object. */
struct place {
    char hex[65];
    struct buf folder, path, temp;
};

static bool place_init(struct place *p, const char *dir, const uint8_t hash[SHA256_BYTES],
                       struct err *e)
{
    *p = (struct place){0};
    digest_hex(hash, p->hex);
    buf_printf(&p->folder, "%s/objects/%.2s", dir, p->hex);
    buf_printf(&p->path, "%s/%s", p->folder.data ? p->folder.data : "", p->hex + 2);
    buf_printf(&p->temp, "%s/objects/tmp/%s", dir, p->hex);
    return buf_ok(&p->folder, e) && buf_ok(&p->path, e) && buf_ok(&p->temp, e);
}

static void place_release(struct place *p)
{
    buf_release(&p->folder);
    buf_release(&p->path);
    buf_release(&p->temp);
}

static bool sync_folder(const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return io_failed(e, "open", path);
    bool ok = fsync(fd) == 0 || io_failed(e, "sync", path);
    (void)close(fd);
    return ok;
}

static bool make_folder(const char *path, struct err *e)
{
    return mkdir(path, 0700) == 0 || errno == EEXIST || io_failed(e, "make", path);
}

static void clear_folder(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *f; d && (f = readdir(d));)
        if (f->d_name[0] != '.') (void)unlinkat(dirfd(d), f->d_name, 0);
    if (d) (void)closedir(d);
}

bool objects_prepare(const char *dir, struct err *e)
{
    struct buf all = {0}, temp = {0};
    buf_printf(&all, "%s/objects", dir);
    buf_printf(&temp, "%s/objects/tmp", dir);
    bool ok = buf_ok(&all, e) && buf_ok(&temp, e) && make_folder(all.data, e) &&
              make_folder(temp.data, e) && sync_folder(dir, e);
    if (ok) clear_folder(temp.data);
    buf_release(&all);
    buf_release(&temp);
    return ok;
}

/* ---- writing --------------------------------------------------------------------------------- */

static bool write_all(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t w = write(fd, bytes, n);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) return false;
        bytes += w;
        n -= (size_t)w;
    }
    return true;
}

static bool write_temp(const struct place *p, const void *bytes, size_t n, struct err *e)
{
    int fd = open(p->temp.data, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return io_failed(e, "create", p->temp.data);
    bool ok = write_all(fd, bytes, n) || io_failed(e, "write", p->temp.data);
    if (ok && fsync(fd) != 0) ok = io_failed(e, "sync", p->temp.data);
    if (close(fd) != 0 && ok) ok = io_failed(e, "close", p->temp.data);
    if (!ok) (void)unlink(p->temp.data);
    return ok;
}

/* Both folders, always: a crash may have left one that was made but never synced. */
static bool sync_names(const char *dir, const struct place *p, struct err *e)
{
    struct buf all = {0};
    buf_printf(&all, "%s/objects", dir);
    bool ok = buf_ok(&all, e) && sync_folder(all.data, e) && sync_folder(p->folder.data, e);
    buf_release(&all);
    return ok;
}

static bool publish(const char *dir, const struct place *p, struct err *e)
{
    if (!make_folder(p->folder.data, e) ||
        (rename(p->temp.data, p->path.data) != 0 && !io_failed(e, "rename", p->temp.data))) {
        (void)unlink(p->temp.data);
        return false;
    }
    if (sync_names(dir, p, e)) return true;
    (void)unlink(p->path.data);
    return false;
}

/* The same bytes are already there, whole; then only their name may still be unsynced. */
static bool already(const char *dir, const uint8_t hash[SHA256_BYTES], const struct place *p,
                    size_t n)
{
    struct buf old = {0};
    struct err ignored;
    struct stat st;
    bool ok = stat(p->path.data, &st) == 0 && object_get(dir, hash, n, &old, &ignored) &&
              sync_names(dir, p, &ignored);
    buf_release(&old);
    return ok;
}

bool object_put(const char *dir, const uint8_t hash[SHA256_BYTES], const void *bytes, size_t n,
                struct err *e)
{
    struct place p;
    bool ok = place_init(&p, dir, hash, e);
    if (ok && !already(dir, hash, &p, n)) ok = write_temp(&p, bytes, n, e) && publish(dir, &p, e);
    place_release(&p);
    return ok;
}

void object_remove(const char *dir, const uint8_t hash[SHA256_BYTES])
{
    struct place p;
    struct err ignored;
    if (place_init(&p, dir, hash, &ignored)) (void)unlink(p.path.data);
    place_release(&p);
}

/* ---- reading --------------------------------------------------------------------------------- */

static bool read_all(int fd, size_t n, struct buf *out, struct err *e)
{
    enum { PIECE = 1 << 20 };
    char *piece = mem_new(PIECE);
    size_t left = n;
    ssize_t r = 1;
    buf_reserve(out, n);
    while (left > 0 && r != 0) {
        r = read(fd, piece, left < PIECE ? left : PIECE);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) break;
        buf_put(out, piece, (size_t)r);
        left -= (size_t)r;
    }
    mem_drop(piece);
    if (r < 0) return err_set(e, ERR_IO, "cannot read it: %s", strerror(errno));
    return left == 0 || err_set(e, ERR_CORRUPT, "it ends %zu bytes early", left);
}

static bool read_checked(const struct place *p, const uint8_t hash[SHA256_BYTES], size_t n,
                         struct buf *out, struct err *e)
{
    struct stat st;
    uint8_t is[SHA256_BYTES];
    size_t at = out->len;
    int fd = open(p->path.data, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(e, errno == ENOENT ? ERR_CORRUPT : ERR_IO, "cannot open it: %s",
                       strerror(errno));
    bool ok = fstat(fd, &st) == 0 || err_set(e, ERR_IO, "cannot read it: %s", strerror(errno));
    if (ok && (size_t)st.st_size != n)
        ok = err_set(e, ERR_CORRUPT, "it has %zu bytes instead of %zu", (size_t)st.st_size, n);
    ok = ok && read_all(fd, n, out, e) && buf_ok(out, e);
    (void)close(fd);
    if (!ok) return false;
    sha256(n ? out->data + at : "", n, is);
    return memcmp(is, hash, SHA256_BYTES) == 0 ||
           err_set(e, ERR_CORRUPT, "its bytes do not have the hash it is named by");
}

bool object_get(const char *dir, const uint8_t hash[SHA256_BYTES], size_t n, struct buf *out,
                struct err *e)
{
    struct place p;
    bool ok = place_init(&p, dir, hash, e) &&
              (read_checked(&p, hash, n, out, e) || err_while(e, "reading object %s", p.hex));
    place_release(&p);
    return ok;
}
