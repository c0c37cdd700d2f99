/* libFuzzer: a sparse autoencoder's cfg.json, a zero byte, and the file of its weights: refused with one clean
 * sentence, or every tensor that its kind has, finite. */
#include <math.h>

#include "core/sae.h"
#include "fuzz.h"

static void sane(const struct sae *s)
{
    const size_t width = s->cfg.width, features = s->cfg.features;
#define SAE_TENSOR(field, name, rows, cols, kinds)                       \
    must((s->field != NULL) == (((kinds) >> s->cfg.kind & 1) != 0));     \
    for (size_t i = 0; s->field && i < (rows) * (size_t)(cols); i++) must(!isnan(s->field[i]));
#include "core/sae.def"
    must((s->cfg.kind == SAE_TOPK) == (s->cfg.top > 0) && s->cfg.top <= features);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sae_cfg c;
    struct err e = {0};
    size_t bad, len = size ? strnlen((const char *)data, size) : 0;
    bool ok = sae_cfg_read((const char *)data, len, &c, &e);
    if (ok && len < size && sae_bytes(&c) <= (size_t)64 << 20) {
        char path[64];
        int fd = file_of(data + len + 1, size - len - 1, path);
        struct sae *s = sae_read(&c, path, &e);
        if (s) sane(s);
        must(s || (e.code != ERR_NONE && e.code != ERR_NO_MEMORY));
        sae_free(s);
        (void)close(fd);
    } else if (!ok) {
        must(e.text[0]);
    }
    must(utf8_valid(e.text, strlen(e.text), &bad));
    return 0;
}
