/* A model file of any bytes: opened, every tensor read, every getter asked. It is written to a
 * memfd and opened by path, so that the whole way from modelfile_open on is under test.
 */
#include "core/file/gguf.h"
#include "fuzz.h"

static volatile int64_t sink;

static void ask(const struct gguf *g)
{
    static const char *const keys[] = {"general.alignment", "a", "", "tokenizer.ggml.tokens"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int64_t n;
        double x;
        bool yes;
        const char *text;
        struct gguf_strings s;
        struct gguf_ints v;
        size_t bad;
        (void)gguf_int(g, keys[i], &n);
        (void)gguf_float(g, keys[i], &x);
        (void)gguf_bool(g, keys[i], &yes);
        if (gguf_text(g, keys[i], &text)) must(utf8_valid(text, strlen(text), &bad));
        if (gguf_string_array(g, keys[i], &s))
            for (size_t k = 0; k < s.n; k++) must(strlen(s.text[k]) == s.len[k]);
        int64_t all = 0;
        if (gguf_int_array(g, keys[i], &v))
            for (size_t k = 0; k < v.n; k++) all |= v.value[k]; /* a sanitizer sees each read */
        sink = all;
    }
}

static void read_tensors(const struct modelfile *m, size_t file_bytes)
{
    for (size_t i = 0; i < modelfile_count(m); i++) {
        const struct file_tensor *t = modelfile_tensor(m, i);
        struct err e;
        must(modelfile_find(m, t->name) == t);
        must(t->offset <= file_bytes && t->n_bytes <= file_bytes - t->offset);
        must(t->n_elements <= 4 * file_bytes); /* two bits an element, at the least */
        float *dst = malloc(t->n_elements * sizeof *dst);
        must(dst != NULL);
        (void)!modelfile_read(m, t, DTYPE_F32, dst, &e);
        free(dst);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = {0};
    char path[64];
    size_t bad;
    int fd = file_of(data, size, path);
    struct modelfile *m = modelfile_open(path, &e);
    must((m == NULL) == (e.code != ERR_NONE));
    if (m) {
        ask(modelfile_gguf(m));
        read_tensors(m, size);
    } else {
        must(e.code != ERR_NO_MEMORY && e.code != ERR_IO);
        must(utf8_valid(e.text, strlen(e.text), &bad));
    }
    modelfile_close(m);
    (void)close(fd);
    return 0;
}
