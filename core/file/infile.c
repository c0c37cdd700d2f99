#include "infile.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool infile_open(struct infile *f, const char *path, struct err *e)
{
    *f = (struct infile){.fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)};
    if (f->fd < 0) {
        bool absent = errno == ENOENT || errno == ENOTDIR;
        return absent ? err_set(e, ERR_NOT_FOUND, "no such file")
                      : err_set(e, ERR_IO, "cannot open the file: %m");
    }
    struct stat st;
    if (fstat(f->fd, &st) != 0) {
        (void)err_set(e, ERR_IO, "cannot examine the file: %m");
    } else if (!S_ISREG(st.st_mode)) {
        (void)err_set(e, ERR_INVALID, "not a regular file");
    } else {
        f->size_bytes = (uint64_t)st.st_size;
        f->path = mem_text(path);
        return true;
    }
    infile_close(f);
    return false;
}

void infile_close(struct infile *f)
{
    if (f->fd >= 0) (void)close(f->fd);
    mem_drop(f->path);
    *f = (struct infile){.fd = -1};
}

bool infile_read(const struct infile *f, uint64_t offset, void *dst, size_t n, struct err *e)
{
    if (offset > f->size_bytes || n > f->size_bytes - offset)
        return err_set(e, ERR_CORRUPT,
                       "truncated: %zu bytes are due at byte %" PRIu64
                       ", but the file ends at byte %" PRIu64,
                       n, offset, f->size_bytes);
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(f->fd, (char *)dst + done, n - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return err_set(e, ERR_IO, "cannot read at byte %" PRIu64 ": %m", offset + done);
        if (got == 0)
            return err_set(e, ERR_CORRUPT,
                           "the file shrank: it ends at byte %" PRIu64 ", at first it had %" PRIu64,
                           offset + done, f->size_bytes);
        done += (size_t)got;
    }
    return true;
}

char *infile_whole(const char *path, size_t max_bytes, size_t *len, struct err *e)
{
    struct infile f;
    char *text = NULL;
    if (!infile_open(&f, path, e)) return NULL;
    if (f.size_bytes > max_bytes)
        (void)err_set(e, ERR_TOO_LARGE, "%" PRIu64 " bytes, at most %zu are read", f.size_bytes,
                      max_bytes);
    else
        text = mem_take((size_t)f.size_bytes + 1, 1, e);
    *len = (size_t)f.size_bytes;
    if (text && !infile_read(&f, 0, text, *len, e)) {
        mem_drop(text);
        text = NULL;
    }
    infile_close(&f);
    return text;
}

void cursor_init(struct cursor *c, const struct infile *file)
{
    c->file = file;
    c->at = c->window_at = 0;
    c->window_len = 0;
}

uint64_t cursor_left(const struct cursor *c)
{
    assert(c->at <= c->file->size_bytes);
    return c->file->size_bytes - c->at;
}

bool cursor_holds(const struct cursor *c, uint64_t count, size_t item_bytes, struct err *e)
{
    assert(item_bytes > 0);
    if (count <= cursor_left(c) / item_bytes) return true;
    return err_set(e, ERR_CORRUPT,
                   "truncated: %" PRIu64 " items of at least %zu bytes are due at byte %" PRIu64
                   ", but the file ends at byte %" PRIu64,
                   count, item_bytes, c->at, c->file->size_bytes);
}

static bool refill(struct cursor *c, struct err *e)
{
    uint64_t left = cursor_left(c);
    size_t n = left < sizeof c->window ? (size_t)left : sizeof c->window;
    c->window_at = c->at;
    c->window_len = 0;
    if (!infile_read(c->file, c->at, c->window, n, e)) return false;
    c->window_len = n;
    return true;
}

bool cursor_bytes(struct cursor *c, void *dst, size_t n, struct err *e)
{
    if (n > cursor_left(c) || n > sizeof c->window) { /* says so, or reads it in one piece */
        if (!infile_read(c->file, c->at, dst, n, e)) return false;
        c->at += n;
        return true;
    }
    if (c->at - c->window_at + n > c->window_len && !refill(c, e)) return false;
    if (n) memcpy(dst, c->window + (c->at - c->window_at), n);
    c->at += n;
    return true;
}

bool cursor_u32(struct cursor *c, uint32_t *out, struct err *e)
{
    return cursor_bytes(c, out, sizeof *out, e);
}

bool cursor_u64(struct cursor *c, uint64_t *out, struct err *e)
{
    return cursor_bytes(c, out, sizeof *out, e);
}
