/* libFuzzer: config.json of any content: refused with one clean sentence, or a description whose
 * numbers every later computation may rely on. */
#include <math.h>

#include "core/arch.h"
#include "fuzz.h"

static void sane(const struct arch *a, const struct family *f)
{
    static float frequencies[ROPE_PAIRS];
    must(f && a->family == f->name);
    must(a->n_layers && a->n_layers <= ARCH_LAYERS && a->n_kv_heads && a->n_heads % a->n_kv_heads == 0);
    must(a->d_head && a->d_model && a->d_mlp && a->d_vocab && a->context);
    must(isfinite(a->attn_scale) && a->attn_scale > 0 && a->norm_eps > 0);
    for (unsigned r = 0; r < ROLE_COUNT; r++) {
        uint32_t dims, rows, cols;
        arch_role_shape(a, (enum role)r, &dims, &rows, &cols);
        if (arch_has(a, (enum role)r)) must((dims == 1 || dims == 2) && rows && cols);
    }
    if (a->positions != POSITIONS_ROTARY) return;
    must(a->rotary.dim && a->rotary.dim % 2 == 0 && a->rotary.dim <= a->d_head && a->rotary.dim / 2 <= ROPE_PAIRS);
    for (int windowed = 0; windowed < 2; windowed++) arch_frequencies(a, windowed, frequencies);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena memory;
    struct err e = {0};
    size_t bad;
    arena_init(&memory, (size_t)64 << 20);
    const struct json *config = json_parse((const char *)data, size, &memory, &e);
    struct arch a;
    const struct family *f = NULL;
    if (config && arch_from_config(config, &a, &f, &e)) sane(&a, f);
    else must(e.text[0] && utf8_valid(e.text, strlen(e.text), &bad));
    arena_release(&memory);
    return 0;
}
