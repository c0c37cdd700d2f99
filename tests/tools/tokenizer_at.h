/* A tokenizer without its model: of a GGUF file, a hub directory, or a tokenizer.json alone. */
#ifndef ENGRAM_TOKENIZER_AT_H
#define ENGRAM_TOKENIZER_AT_H

#include <string.h>

#include "core/file/infile.h"
#include "core/text/tokenizer_int.h"

static inline struct tokenizer *tokenizer_of_json(const char *path, struct err *e)
{
    struct arena a;
    size_t len;
    struct token_spec s = {.n = 0};
    arena_init(&a, 0);
    char *text = infile_whole(path, 1 << 28, &len, e);
    struct token_files files = {.tokenizer = text ? json_parse(text, len, &a, e) : NULL};
    bool ok = files.tokenizer && token_spec_from_json(&s, &files, e);
    struct tokenizer *t = ok ? tokenizer_build(&s, e) : NULL;
    token_spec_release(&s);
    arena_release(&a);
    mem_drop(text);
    return t;
}

static inline struct tokenizer *tokenizer_at(const char *path, struct err *e)
{
    size_t n = strlen(path);
    if (n > 5 && strcmp(path + n - 5, ".json") == 0) return tokenizer_of_json(path, e);
    struct modelfile *f = modelfile_open(path, e);
    struct tokenizer *t = f ? tokenizer_new(f, e) : NULL;
    modelfile_close(f);
    return t;
}

#endif
