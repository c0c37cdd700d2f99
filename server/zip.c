#include "zip.h"

#include <assert.h>
#include <string.h>

#include <zlib.h>

static void put(struct buf *b, uint32_t value, size_t bytes)
{
    unsigned char le[4];
    for (size_t i = 0; i < bytes; i++) le[i] = (unsigned char)(value >> (8 * i));
    buf_put(b, le, bytes);
}

enum { VERSION = 20, FIRST_DAY = 1 << 5 | 1 /* 1980-01-01 */ };

/* The fields that a member's two headers share. */
static void put_member(struct buf *b, uint32_t crc, uint32_t size, size_t name_len)
{
    put(b, VERSION, 2); /* to read it */
    put(b, 0, 2);       /* flags */
    put(b, 0, 2);       /* stored */
    put(b, 0, 2);       /* midnight */
    put(b, FIRST_DAY, 2);
    put(b, crc, 4);
    put(b, size, 4);
    put(b, size, 4);
    put(b, (uint32_t)name_len, 2);
    put(b, 0, 2);       /* nothing extra */
}

void zip_add(struct zip *z, const char *name, const void *head, size_t head_len, const void *bytes, size_t len)
{
    size_t at = z->out->len, name_len = strlen(name);
    assert(z->n < ZIP_MOST && head_len + len < UINT32_MAX && at < UINT32_MAX - head_len - len && name_len < 65536);
    uint32_t crc = (uint32_t)crc32_z(crc32_z(0, head, head_len), bytes, len), size = (uint32_t)(head_len + len);
    buf_put(z->out, "PK\x03\x04", 4);
    put_member(z->out, crc, size, name_len);
    buf_text(z->out, name);
    buf_put(z->out, head, head_len);
    buf_put(z->out, bytes, len);
    buf_put(&z->directory, "PK\x01\x02", 4);
    put(&z->directory, VERSION, 2); /* written by */
    put_member(&z->directory, crc, size, name_len);
    put(&z->directory, 0, 4);       /* no comment, disk 0 */
    put(&z->directory, 0, 4);       /* binary inside, as told apart by nobody */
    put(&z->directory, 0, 2);
    put(&z->directory, (uint32_t)at, 4);
    buf_text(&z->directory, name);
    z->n++;
}

bool zip_end(struct zip *z, struct err *e)
{
    size_t at = z->out->len;
    buf_put(z->out, z->directory.data, z->directory.len);
    buf_put(z->out, "PK\x05\x06", 4);
    put(z->out, 0, 4); /* one disk */
    put(z->out, (uint32_t)z->n, 2);
    put(z->out, (uint32_t)z->n, 2);
    put(z->out, (uint32_t)z->directory.len, 4);
    put(z->out, (uint32_t)at, 4);
    put(z->out, 0, 2); /* no comment */
    bool ok = buf_ok(&z->directory, e) && buf_ok(z->out, e);
    buf_release(&z->directory);
    return ok;
}
