#include "npy_write.h"

#include <assert.h>

enum { BEFORE_TEXT = 10, ALIGNED = 64 };

void npy_header(struct buf *out, uint32_t n_dims, const uint64_t *shape)
{
    struct buf text = {0};
    buf_text(&text, "{'descr': '<f4', 'fortran_order': False, 'shape': (");
    for (uint32_t i = 0; i < n_dims; i++) buf_printf(&text, i ? " %llu," : "%llu,", (unsigned long long)shape[i]);
    buf_text(&text, "), }");
    while ((BEFORE_TEXT + text.len + 1) % ALIGNED && !text.failed) buf_text(&text, " ");
    buf_text(&text, "\n");
    assert(text.len < 65536);
    const unsigned char length[2] = {(unsigned char)(text.len & 255), (unsigned char)(text.len >> 8)};
    buf_put(out, "\x93NUMPY\x01\x00", 8);
    buf_put(out, length, sizeof length);
    buf_put(out, text.data, text.len);
    out->failed |= text.failed;
    buf_release(&text);
}
