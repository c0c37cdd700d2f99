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

#include "bench/clock.h"
#include "core/file/infile.h"
#include "core/text/tokenizer_int.h"
#include "tests/tools/tokenizer_at.h"

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
    double start = seconds(CLOCK_PROCESS_CPUTIME_ID);
    ids_release(&b->ids);
    ids_release(&b->ends);
    for (size_t at = 0; at < b->len;) {
        size_t n = strlen(b->text + at);
        if (!tokenizer_encode(b->t, b->text + at, n, true, &b->ids, &e)) die(&e);
        if (!ids_push(&b->ends, (uint32_t)b->ids.n, &e)) die(&e);
        at += n + 1;
    }
    double took = seconds(CLOCK_PROCESS_CPUTIME_ID) - start;
    if (took < b->encode) b->encode = took;
}

static void decode_all(struct bench *b)
{
    double start = seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (size_t i = 0, from = 0; i < b->ends.n; from = b->ends.id[i++]) {
        struct buf back = {0};
        tokenizer_decode(b->t, b->ids.id + from, b->ends.id[i] - from, true, &back);
        buf_release(&back);
    }
    double took = seconds(CLOCK_PROCESS_CPUTIME_ID) - start;
    if (took < b->decode) b->decode = took;
}

int main(int argc, char **argv)
{
    struct err e = {.text = "usage: bench_tokenizer MODEL TEXTS [repeats]"};
    struct bench b = {.encode = 1e9, .decode = 1e9};
    char *text = argc > 2 ? infile_whole(argv[2], 1 << 30, &b.len, &e) : NULL;
    double start = seconds(CLOCK_PROCESS_CPUTIME_ID);
    b.t = text ? tokenizer_at(argv[1], &e) : NULL;
    double made = seconds(CLOCK_PROCESS_CPUTIME_ID) - start;
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
