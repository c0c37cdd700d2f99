#include "safetensors_write.h"

#include <assert.h>

#include "core/base/json_write.h"

void st_add(struct st_writer *w, const char *name, enum dtype type, uint32_t n_dims,
            const uint64_t *shape)
{
    const struct dtype_info *info = dtype_info(type);
    assert(info->safetensors && info->block == 1);
    uint64_t bytes = info->bytes;
    buf_printf(&w->members, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", name, info->safetensors);
    for (uint32_t i = 0; i < n_dims; i++) {
        buf_printf(&w->members, "%s%llu", i ? "," : "", (unsigned long long)shape[i]);
        bytes *= shape[i];
    }
    buf_printf(&w->members, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)w->offset,
               (unsigned long long)(w->offset + bytes));
    w->offset += bytes;
}

void st_meta(struct st_writer *w, const char *key, const char *text, size_t len)
{
    buf_printf(&w->meta, ",\"%s\":", key);
    json_write_text(&w->meta, text, len);
}

bool st_header(struct st_writer *w, const char *format, struct buf *out, struct err *e)
{
    struct buf head = {0};
    buf_printf(&head, "{\"__metadata__\":{\"format\":\"%s\"", format);
    buf_put(&head, w->meta.data, w->meta.len);
    buf_text(&head, "}");
    buf_put(&head, w->members.data, w->members.len);
    buf_text(&head, "}");
    while (head.len % 8 && !head.failed) buf_text(&head, " ");
    uint64_t n = head.len;
    buf_put(out, &n, sizeof n);
    buf_put(out, head.data, head.len);
    bool ok = buf_ok(&w->members, e) && buf_ok(&w->meta, e) && buf_ok(&head, e) && buf_ok(out, e);
    buf_release(&head);
    return ok;
}

void st_release(struct st_writer *w)
{
    buf_release(&w->members);
    buf_release(&w->meta);
}
