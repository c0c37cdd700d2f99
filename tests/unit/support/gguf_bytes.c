#include "gguf_bytes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void put(struct buf *b, uint64_t v, size_t bytes) { buf_put(b, &v, bytes); }

void put_string(struct buf *b, const char *text)
{
    put(b, strlen(text), 8);
    buf_text(b, text);
}

void put_key(struct buf *b, const char *key, enum gguf_type type)
{
    put_string(b, key);
    put(b, type, 4);
}

void gguf_put_text(struct buf *b, const char *key, const char *text)
{
    put_key(b, key, GGUF_STRING);
    put_string(b, text);
}

void put_list(struct buf *b, const char *key, enum gguf_type type, const char *list)
{
    char copy[256], *rest = copy, *item;
    size_t n = 1;
    for (const char *p = list; *p; p++) n += *p == '|';
    put_key(b, key, GGUF_ARRAY);
    put(b, type, 4);
    put(b, n, 8);
    (void)snprintf(copy, sizeof copy, "%s", list);
    while ((item = strsep(&rest, "|"))) {
        if (type == GGUF_STRING) put_string(b, item);
        else put(b, (uint32_t)strtol(item, NULL, 10), 4);
    }
}
