#include <string.h>

#include "objects.h"
#include "store.h"

static bool known(struct store *s, const uint8_t hash[SHA256_BYTES], bool *out, struct err *e)
{
    int64_t n;
    if (!DB_INT(s->db, e, &n, "SELECT count(*) FROM body WHERE hash = ?", a_hash(hash)))
        return false;
    *out = n > 0;
    return true;
}

bool body_put_object(struct store *s, const uint8_t hash[SHA256_BYTES], const void *bytes, size_t n,
                     struct err *e)
{
    bool there;
    if (!known(s, hash, &there, e)) return false;
    if (there) return true;
    return object_put(s->dir, hash, bytes, n, e) &&
           DB_RUN(s->db, e, "INSERT INTO body (hash, size, bytes) VALUES (?, ?, NULL)",
                  a_hash(hash), a_int((int64_t)n));
}

bool body_put(struct store *s, const void *bytes, size_t n, uint8_t hash[SHA256_BYTES],
              struct err *e)
{
    bool there;
    sha256(bytes, n, hash);
    if (n > BODY_INLINE) return body_put_object(s, hash, bytes, n, e);
    if (!known(s, hash, &there, e)) return false;
    return there || DB_RUN(s->db, e, "INSERT INTO body (hash, size, bytes) VALUES (?, ?, ?)",
                           a_hash(hash), a_int((int64_t)n), a_blob(bytes, n));
}

bool body_state(struct store *s, const uint8_t hash[SHA256_BYTES], enum body_state *out,
                struct err *e)
{
    bool there;
    int64_t pruned;
    if (!known(s, hash, &there, e) ||
        !DB_INT(s->db, e, &pruned, "SELECT count(*) FROM prune WHERE hash = ?", a_hash(hash)))
        return false;
    *out = there ? BODY_KEPT : pruned ? BODY_PRUNED : BODY_MISSING;
    return true;
}

static bool absent(struct store *s, const uint8_t hash[SHA256_BYTES], struct err *e)
{
    char hex[65];
    enum body_state state;
    if (!body_state(s, hash, &state, e)) return false;
    digest_hex(hash, hex);
    if (state == BODY_PRUNED) return err_set(e, ERR_NOT_FOUND, "body %s was pruned", hex);
    return err_set(e, ERR_CORRUPT, "body %s is missing", hex);
}

static bool take_inline(struct stmt *row, const uint8_t hash[SHA256_BYTES], struct buf *out,
                        struct err *e)
{
    size_t n;
    uint8_t is[SHA256_BYTES];
    const void *bytes = col_bytes(row, 1, &n);
    sha256(bytes, n, is);
    if (memcmp(is, hash, SHA256_BYTES) != 0 || (int64_t)n != col_int(row, 0)) {
        char hex[65];
        digest_hex(hash, hex);
        return err_set(e, ERR_CORRUPT, "body %s does not have the hash it is named by, or its size",
                       hex);
    }
    buf_put(out, bytes, n);
    return buf_ok(out, e);
}

bool body_get(struct store *s, const uint8_t hash[SHA256_BYTES], struct buf *out, struct err *e)
{
    struct stmt *row;
    if (!DB_ONE(s->db, e, &row, "SELECT size, bytes FROM body WHERE hash = ?", a_hash(hash)))
        return false;
    if (!row) return absent(s, hash, e);
    if (col_type(row, 1)) {
        bool ok = take_inline(row, hash, out, e);
        stmt_done(row);
        return ok;
    }
    size_t size = (size_t)col_int(row, 0);
    stmt_done(row); /* a file may take long: hold no snapshot meanwhile */
    return object_get(s->dir, hash, size, out, e);
}

bool body_text(struct store *s, struct stmt *row, int col, char **out, struct err *e)
{
    uint8_t hash[SHA256_BYTES];
    enum body_state state;
    struct buf b = {0};
    *out = NULL;
    if (!col_hash(row, col, hash)) return true;
    if (!body_state(s, hash, &state, e)) return false;
    if (state == BODY_PRUNED) return true;
    if (!body_get(s, hash, &b, e)) {
        buf_release(&b);
        return false;
    }
    *out = buf_detach(&b);
    return true;
}
