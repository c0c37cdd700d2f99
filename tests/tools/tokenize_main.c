/* A tokenizer on a pipe, for comparisons with other implementations.
 *
 *     tokenize MODEL            a GGUF file, a hub directory, or a tokenizer.json
 *     tokenize --export GGUF    print the tokenizer.json that an export of it would have
 *
 * Each request on stdin is a line and then as many bytes as it says; each answer is one line.
 *     encode N\n<N bytes>       ids of the text, special spellings left alone:  "ids 1 2 3"
 *     special N\n<N bytes>      ids of the text, special spellings parsed
 *     decode N\n<N bytes>       N bytes of decimal ids, blanks between: "hex E282AC", specials kept
 *     plain N\n<N bytes>        the same with specials left out
 * A refusal is "error KIND SENTENCE".
 */
#include <stdio.h>
#include <string.h>

#include "core/export/hub_tokenizer.h"
#include "core/text/tokenizer_int.h"
#include "tests/tools/tokenizer_at.h"

static void answer_encode(const struct tokenizer *t, const char *text, size_t len, bool special)
{
    struct err e;
    struct ids ids = {0};
    if (!tokenizer_encode(t, text, len, special, &ids, &e)) {
        printf("error %s %s\n", err_word(e.code), e.text);
    } else {
        printf("ids");
        for (size_t i = 0; i < ids.n; i++) printf(" %u", ids.id[i]);
        printf("\n");
    }
    ids_release(&ids);
}

static void answer_decode(const struct tokenizer *t, const char *text, bool keep)
{
    struct err e;
    struct ids ids = {0};
    struct buf out = {0};
    char *end;
    for (const char *p = text; *p; p = end) {
        unsigned long v = strtoul(p, &end, 10);
        if (end == p || !ids_push(&ids, (uint32_t)v, &e)) break;
    }
    tokenizer_decode(t, ids.id, ids.n, keep, &out);
    printf("hex ");
    for (size_t i = 0; i < out.len; i++) printf("%02X", (unsigned char)out.data[i]);
    printf("\n");
    buf_release(&out);
    ids_release(&ids);
}

static int print_export(const char *path)
{
    struct err e;
    struct buf out = {0};
    struct modelfile *f = modelfile_open(path, &e);
    bool ok = f && hub_tokenizer(modelfile_gguf(f), &out, &e);
    if (ok) (void)fwrite(out.data, 1, out.len, stdout);
    if (!ok) (void)fprintf(stderr, "%s\n", e.text);
    buf_release(&out);
    modelfile_close(f);
    return ok ? 0 : 1;
}

int main(int argc, char **argv)
{
    struct err e;
    if (argc == 3 && strcmp(argv[1], "--export") == 0) return print_export(argv[2]);
    struct tokenizer *t = argc == 2 ? tokenizer_at(argv[1], &e) : NULL;
    if (!t) {
        fprintf(stderr, "%s\n", argc == 2 ? e.text : "usage: tokenize MODEL");
        return 1;
    }
    char line[64], verb[16];
    size_t len;
    while (fgets(line, sizeof line, stdin) && sscanf(line, "%15s %zu", verb, &len) == 2) {
        char *text = malloc(len + 1);
        if (!text || fread(text, 1, len, stdin) != len) return 1;
        text[len] = '\0';
        if (strcmp(verb, "decode") == 0 || strcmp(verb, "plain") == 0)
            answer_decode(t, text, verb[0] == 'd');
        else
            answer_encode(t, text, len, strcmp(verb, "special") == 0);
        free(text);
    }
    tokenizer_free(t);
    return 0;
}
