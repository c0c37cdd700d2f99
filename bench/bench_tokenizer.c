/* How fast text becomes ids and ids text, on one core. bench/bench_tokenizer.py runs it beside the
 * reference on the same text and the same tokenizers.
 *
 *     build/bench_tokenizer MODEL TEXTS [repeats]     a GGUF file, a hub directory or a tokenizer.json
 *
 * TEXTS: a file of texts with a NUL after each. One line: bytes, ids, seconds to make the tokenizer, to
 * encode, to decode (best of the repeats; processor time, which a busy machine disturbs least), and a
 * checksum of the ids.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/file/infile.h"
#include "core/text/tokenizer_int.h"

static double now(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static struct tokenizer *from_json_file(const char *path, struct err *e)
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

static struct tokenizer *from_path(const char *path, struct err *e)
{
    size_t n = strlen(path);
    if (n > 5 && strcmp(path + n - 5, ".json") == 0) return from_json_file(path, e);
    struct modelfile *f = modelfile_open(path, e);
    struct tokenizer *t = f ? tokenizer_new(f, e) : NULL;
    modelfile_close(f);
    return t;
}

static void die(const struct err *e)
{
    (void)fprintf(stderr, "bench_tokenizer: %s\n", e->text);
    exit(1);
}

struct bench {
    struct tokenizer *t;
    const char *text;
    size_t len;
    struct ids ids, ends; /* of all texts, and how many there were after each */
    double encode, decode;
};

static void encode_all(struct bench *b)
{
    struct err e;
    double start = now();
    ids_release(&b->ids);
    ids_release(&b->ends);
    for (size_t at = 0; at < b->len;) {
        size_t n = strlen(b->text + at);
        if (!tokenizer_encode(b->t, b->text + at, n, true, &b->ids, &e)) die(&e);
        if (!ids_push(&b->ends, (uint32_t)b->ids.n, &e)) die(&e);
        at += n + 1;
    }
    double took = now() - start;
    if (took < b->encode) b->encode = took;
}

static void decode_all(struct bench *b)
{
    double start = now();
    for (size_t i = 0, from = 0; i < b->ends.n; from = b->ends.id[i++]) {
        struct buf back = {0};
        tokenizer_decode(b->t, b->ids.id + from, b->ends.id[i] - from, true, &back);
        buf_release(&back);
    }
    double took = now() - start;
    if (took < b->decode) b->decode = took;
}

int main(int argc, char **argv)
{
    struct err e = {.text = "usage: bench_tokenizer MODEL TEXTS [repeats]"};
    struct bench b = {.encode = 1e9, .decode = 1e9};
    char *text = argc > 2 ? infile_whole(argv[2], 1 << 30, &b.len, &e) : NULL;
    double start = now();
    b.t = text ? from_path(argv[1], &e) : NULL;
    double made = now() - start;
    b.text = text;
    if (!b.t) die(&e);
    for (int i = argc > 3 ? atoi(argv[3]) : 5; i > 0; i--) {
        encode_all(&b);
        decode_all(&b);
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < b.ids.n; i++) sum = sum * 31 + b.ids.id[i];
    (void)printf("%zu %zu %.6f %.6f %.6f %016llx\n", b.len - b.ends.n, b.ids.n, made, b.encode, b.decode,
                 (unsigned long long)sum);
    ids_release(&b.ids);
    ids_release(&b.ends);
    tokenizer_free(b.t);
    mem_drop(text);
    return 0;
}
