#include "digest.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <string.h>
#include <unistd.h>

#include "manifest.h"
#include "sha.h"

/* ---- SHA-256 --------------------------------------------------------------------------------- */

struct sha {
    EVP_MD_CTX *ctx;
};

static void must(int ok) /* OpenSSL fails here only without memory for a small object */
{
    assert(ok == 1);
    if (ok != 1) __builtin_trap();
}

struct sha *sha_new(void)
{
    struct sha *s = mem_new(sizeof *s);
    s->ctx = EVP_MD_CTX_new();
    must(s->ctx != NULL);
    must(EVP_DigestInit_ex(s->ctx, EVP_sha256(), NULL));
    return s;
}

void sha_put(struct sha *s, const void *bytes, size_t n)
{
    must(EVP_DigestUpdate(s->ctx, bytes, n));
}

static void put_le(struct sha *s, uint64_t x, int n)
{
    uint8_t b[8];
    for (int i = 0; i < n; i++) b[i] = (uint8_t)(x >> (8 * i));
    sha_put(s, b, (size_t)n);
}

void sha_u32(struct sha *s, uint32_t x)
{
    put_le(s, x, 4);
}
void sha_u64(struct sha *s, uint64_t x)
{
    put_le(s, x, 8);
}

void sha_field(struct sha *s, const void *bytes, size_t n)
{
    sha_u64(s, n);
    sha_put(s, bytes, n);
}

void sha_end(struct sha *s, uint8_t out[SHA256_BYTES])
{
    must(EVP_DigestFinal_ex(s->ctx, out, NULL));
    EVP_MD_CTX_free(s->ctx);
    mem_drop(s);
}

void sha256(const void *bytes, size_t n, uint8_t out[SHA256_BYTES])
{
    must(EVP_Digest(bytes, n, out, NULL, EVP_sha256(), NULL));
}

bool sha_file(const char *path, uint8_t out[SHA256_BYTES], struct err *e)
{
    enum { PIECE = 1 << 20 };
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_set(e, ERR_IO, "cannot open %s: %s", path, strerror(errno));
    struct sha *s = sha_new();
    char *piece = mem_new(PIECE);
    ssize_t n;
    while ((n = read(fd, piece, PIECE)) > 0 || (n < 0 && errno == EINTR))
        if (n > 0) sha_put(s, piece, (size_t)n);
    int why = errno;
    sha_end(s, out);
    mem_drop(piece);
    (void)close(fd);
    return n == 0 || err_set(e, ERR_IO, "cannot read %s: %s", path, strerror(why));
}

/* ---- text ------------------------------------------------------------------------------------ */

static const char prefix[] = "sha256:";
enum { PREFIX = sizeof prefix - 1 };
static_assert(PREFIX + 2 * SHA256_BYTES + 1 == DIGEST_TEXT, "a digest's text fits exactly");

void digest_hex(const uint8_t hash[SHA256_BYTES], char out[65])
{
    static const char hex[] = "0123456789abcdef";
    for (size_t i = 0; i < SHA256_BYTES; i++) {
        out[2 * i] = hex[hash[i] >> 4];
        out[2 * i + 1] = hex[hash[i] & 15];
    }
    out[2 * SHA256_BYTES] = '\0';
}

void digest_text(const uint8_t hash[SHA256_BYTES], char out[DIGEST_TEXT])
{
    memcpy(out, prefix, PREFIX);
    digest_hex(hash, out + PREFIX);
}

static int nibble(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

bool digest_parse(const char *text, uint8_t out[SHA256_BYTES])
{
    if (strncmp(text, prefix, PREFIX) != 0) return false;
    text += PREFIX;
    for (size_t i = 0; i < SHA256_BYTES; i++, text += 2) {
        int hi = nibble(text[0]), lo = hi < 0 ? -1 : nibble(text[1]);
        if (lo < 0) return false;
        out[i] = (uint8_t)(hi << 4 | lo);
    }
    return *text == '\0';
}

/* ---- tensors and views ----------------------------------------------------------------------- */

static void sink(void *ctx, const void *bytes, size_t n)
{
    sha_put(ctx, bytes, n);
}

void digest_tensor(const struct view *v, size_t tensor, uint8_t out[SHA256_BYTES])
{
    struct sha *s = sha_new();
    view_tensor_bytes(v, tensor, sink, s);
    sha_end(s, out);
}

static void put_tensor(struct sha *s, const struct manifest_tensor *t, const char *type,
                       const uint8_t hash[SHA256_BYTES])
{
    size_t name_len = strlen(t->name), type_len = strlen(type);
    sha_u32(s, (uint32_t)name_len);
    sha_put(s, t->name, name_len);
    sha_u32(s, (uint32_t)type_len);
    sha_put(s, type, type_len);
    sha_u32(s, t->n_dims);
    for (uint32_t i = 0; i < t->n_dims; i++) sha_u64(s, t->shape[i]);
    sha_put(s, hash, SHA256_BYTES);
}

void manifest_digest(const struct manifest *m, const struct tensor_state *changed,
                     char out[DIGEST_TEXT])
{
    uint8_t hash[SHA256_BYTES];
    struct sha *s = sha_new();
    sha_put(s, "engramd.digest.1", 16);
    for (size_t i = 0; i < m->n; i++) {
        const struct manifest_tensor *t = &m->tensor[i];
        if (changed && changed->changed[i])
            put_tensor(s, t, "F32", changed->hash[i]);
        else
            put_tensor(s, t, dtype_info(t->type)->word, t->hash);
    }
    sha_end(s, hash);
    digest_text(hash, out);
}

void digest_view(const struct view *v, const struct base_digests *base, char out[DIGEST_TEXT])
{
    const struct model *m = view_model(v);
    struct manifest manifest;
    struct tensor_state state;
    manifest_init(&manifest, m, base);
    tensor_state_init(&state, m->n_tensors);
    for (size_t i = 0; i < m->n_tensors; i++) {
        if (!view_changes(v, i)) continue;
        state.changed[i] = true;
        digest_tensor(v, i, state.hash[i]);
    }
    manifest_digest(&manifest, &state, out);
    tensor_state_release(&state);
    manifest_release(&manifest);
}
