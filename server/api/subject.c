#include "subject.h"

#include <string.h>

bool subject_find(const struct model *m, const struct input *in, const char *text, size_t len, const char *field,
                  uint32_t *first, uint32_t *end, bool *repeats, struct err *e)
{
    struct buf all = {0};
    buf_put(&all, "", 0);
    for (size_t i = 0; i < in->n; i++) {
        size_t n;
        const char *piece = tokenizer_piece(m->tokenizer, in->ids[i], &n);
        buf_put(&all, piece, n);
    }
    bool ok = buf_ok(&all, e);
    const char *at = ok ? memmem(all.data, all.len, text, len) : NULL;
    if (ok && !at) ok = err_field(e, ERR_INVALID, field, "\"%.100s\" does not occur in the prompt", text);
    if (ok) {
        const size_t from = (size_t)(at - all.data), to = from + len;
        size_t offset = 0, n;
        *repeats = memmem(at + 1, all.len - from - 1, text, len) != NULL;
        *first = *end = 0;
        for (uint32_t i = 0; i < in->n; i++, offset += n) {
            (void)tokenizer_piece(m->tokenizer, in->ids[i], &n);
            if (offset + n <= from) *first = i + 1;
            if (n && offset < to) *end = i + 1;
        }
    }
    buf_release(&all);
    return ok;
}
