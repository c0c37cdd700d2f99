/* The hashes of a base, taken at load, and their cache. The cache is keyed by what the weight
 * files look like from outside (path, size, time, inode), by the tensor table and by a sample of
 * the loaded values, so that neither another file nor another reader of it is mistaken for this
 * one. It is only a cache: anything odd about it means hashing again. */
#include "digest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "manifest.h"
#include "sha.h"

enum { SAMPLE_BYTES = 4096 /* of each tensor as it is held */ };

/* ---- source files ---------------------------------------------------------------------------- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool hash_source(const struct modelfile *f, uint8_t out[SHA256_BYTES], struct err *e)
{
    size_t n = modelfile_file_count(f);
    if (n == 1) return sha_file(modelfile_file_path(f, 0), out, e);
    struct sha *s = sha_new();
    bool ok = true;
    sha_put(s, "engramd.source.1", 16);
    for (size_t i = 0; ok && i < n; i++) {
        const char *name = base_name(modelfile_file_path(f, i));
        uint8_t hash[SHA256_BYTES];
        ok = sha_file(modelfile_file_path(f, i), hash, e);
        sha_u32(s, (uint32_t)strlen(name));
        sha_put(s, name, strlen(name));
        sha_put(s, hash, SHA256_BYTES);
    }
    sha_end(s, out);
    return ok;
}

/* ---- the cache ------------------------------------------------------------------------------- */

/* A cache file: key, source hash, one hash per tensor, then the SHA-256 of all before it. */
static size_t cache_bytes(const struct model *m)
{
    return (m->n_tensors + 3) * SHA256_BYTES;
}

static bool put_identity(struct sha *s, const char *path)
{
    struct stat st;
    char *real = realpath(path, NULL);
    bool ok = real && stat(real, &st) == 0;
    if (ok) {
        sha_field(s, real, strlen(real));
        sha_u64(s, (uint64_t)st.st_size);
        sha_u64(s, (uint64_t)st.st_mtim.tv_sec);
        sha_u64(s, (uint64_t)st.st_mtim.tv_nsec);
        sha_u64(s, (uint64_t)st.st_ino);
        sha_u64(s, (uint64_t)st.st_dev);
    }
    free(real);
    return ok;
}

static bool cache_key(const struct model *m, const struct view *v, uint8_t out[SHA256_BYTES])
{
    struct sha *s = sha_new();
    bool ok = true;
    sha_field(s, "engramd.basecache.2", 19);
    for (size_t i = 0; ok && i < modelfile_file_count(m->file); i++)
        ok = put_identity(s, modelfile_file_path(m->file, i));
    for (size_t i = 0; i < m->n_tensors; i++) {
        const struct tensor *t = &m->tensors[i];
        const struct matrix w = view_matrix(v, i);
        size_t bytes = w.rows * w.row_bytes, sample = bytes < SAMPLE_BYTES ? bytes : SAMPLE_BYTES;
        sha_field(s, t->name, strlen(t->name));
        sha_u32(s, (uint32_t)t->stored);
        sha_u64(s, t->rows);
        sha_u64(s, t->cols);
        sha_u32(s, (uint32_t)w.type);
        sha_put(s, w.data, sample);
    }
    sha_end(s, out);
    return ok;
}

static void cache_path(const char *dir, const uint8_t key[SHA256_BYTES], struct buf *out)
{
    char hex[65];
    digest_hex(key, hex);
    buf_printf(out, "%s/base-%.32s.cache", dir, hex);
}

static bool load(struct base_digests *d, const char *path, const uint8_t key[SHA256_BYTES],
                 size_t bytes, uint8_t source[SHA256_BYTES])
{
    uint8_t *all = mem_new(bytes + 1), check[SHA256_BYTES];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool ok = fd >= 0 && read(fd, all, bytes + 1) == (ssize_t)bytes;
    if (fd >= 0) (void)close(fd);
    if (ok) {
        sha256(all, bytes - SHA256_BYTES, check);
        ok = memcmp(check, all + bytes - SHA256_BYTES, SHA256_BYTES) == 0 &&
             memcmp(key, all, SHA256_BYTES) == 0;
    }
    if (ok) {
        memcpy(source, all + SHA256_BYTES, SHA256_BYTES);
        memcpy(d->tensor, all + 2 * SHA256_BYTES, d->n * SHA256_BYTES);
    }
    mem_drop(all);
    return ok;
}

static void save(const struct base_digests *d, const char *path, const uint8_t key[SHA256_BYTES],
                 size_t bytes, const uint8_t source[SHA256_BYTES])
{
    uint8_t *all = mem_new(bytes);
    memcpy(all, key, SHA256_BYTES);
    memcpy(all + SHA256_BYTES, source, SHA256_BYTES);
    memcpy(all + 2 * SHA256_BYTES, d->tensor, d->n * SHA256_BYTES);
    sha256(all, bytes - SHA256_BYTES, all + bytes - SHA256_BYTES);
    struct buf temp = {0};
    buf_printf(&temp, "%s.new", path);
    int fd = temp.failed ? -1 : open(temp.data, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool ok = fd >= 0 && write(fd, all, bytes) == (ssize_t)bytes;
    if (fd >= 0) ok = close(fd) == 0 && ok;
    if (fd >= 0 && (!ok || rename(temp.data, path) != 0)) (void)unlink(temp.data);
    buf_release(&temp);
    mem_drop(all);
}

/* ---- all together ---------------------------------------------------------------------------- */

static bool hash_all(struct base_digests *d, const struct model *m, const struct view *v,
                     uint8_t source[SHA256_BYTES], struct err *e)
{
    if (!hash_source(m->file, source, e)) return err_while(e, "hashing the source of %s", m->name);
    for (size_t i = 0; i < d->n; i++) digest_tensor(v, i, d->tensor[i]);
    return true;
}

static bool hash_or_load(struct base_digests *d, const struct model *m, const struct view *v,
                         const char *cache_dir, uint8_t source[SHA256_BYTES], struct err *e)
{
    uint8_t key[SHA256_BYTES];
    if (!cache_dir || !cache_key(m, v, key)) return hash_all(d, m, v, source, e);
    struct buf path = {0};
    cache_path(cache_dir, key, &path);
    bool ok = buf_ok(&path, e);
    if (ok && !load(d, path.data, key, cache_bytes(m), source)) {
        ok = hash_all(d, m, v, source, e);
        if (ok) save(d, path.data, key, cache_bytes(m), source);
    }
    buf_release(&path);
    return ok;
}

bool base_digests_init(struct base_digests *d, const struct model *m, const char *cache_dir,
                       struct err *e)
{
    uint8_t source[SHA256_BYTES];
    *d = (struct base_digests){.n = m->n_tensors};
    d->tensor = mem_new(m->n_tensors * sizeof *d->tensor);
    /* A base view lends us the element bytes; it holds the model only while we hash. */
    struct model *shared = model_retain((struct model *)(uintptr_t)m);
    struct view *v = view_base(shared);
    bool ok = hash_or_load(d, m, v, cache_dir, source, e);
    view_drop(v);
    model_drop(shared);
    if (!ok) {
        base_digests_release(d);
        return false;
    }
    digest_text(source, d->source);
    struct manifest manifest;
    manifest_init(&manifest, m, d);
    manifest_digest(&manifest, NULL, d->base);
    manifest_release(&manifest);
    return true;
}

void base_digests_release(struct base_digests *d)
{
    mem_drop(d->tensor);
    *d = (struct base_digests){0};
}
