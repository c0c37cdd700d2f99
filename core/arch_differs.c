/* Field by field: a struct's padding says nothing. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "arch.h"

static const struct field {
    const char *name;
    size_t at, bytes;
    bool real; /* one float */
} fields[] = {
#define MEMBER(x) (((struct arch *)NULL)->x)
#define FIELD(x) {#x, offsetof(struct arch, x), sizeof MEMBER(x), _Generic(MEMBER(x), float: true, default: false)}
    FIELD(n_layers), FIELD(n_heads), FIELD(n_kv_heads), FIELD(d_head), FIELD(d_model), FIELD(d_mlp), FIELD(d_vocab),
    FIELD(context), FIELD(norm), FIELD(norm_eps), FIELD(norm_offset), FIELD(pre_norm), FIELD(post_norm),
    FIELD(parallel), FIELD(one_norm), FIELD(qk_norm), FIELD(positions), FIELD(rotary.theta),
    FIELD(rotary.theta_local), FIELD(rotary.dim), FIELD(rotary.adjacent), FIELD(rotary.linear),
    FIELD(rotary.attention), FIELD(rotary.llama3.factor), FIELD(rotary.llama3.low), FIELD(rotary.llama3.high),
    FIELD(rotary.llama3.context), FIELD(rotary.n_divisor), FIELD(rotary.divisor), FIELD(window), FIELD(windowed),
    FIELD(attn_scale), FIELD(attn_softcap), FIELD(act), FIELD(gated), FIELD(qkv_bias), FIELD(o_bias), FIELD(mlp_bias),
    FIELD(head_bias), FIELD(embed_scale), FIELD(final_softcap), FIELD(tied_head), FIELD(input_major),
    FIELD(qkv_woven),
#undef FIELD
#undef MEMBER
};

/* Reals that two roundings of one number explain are the same. */
static bool same(const struct field *f, const struct arch *a, const struct arch *b)
{
    const char *x = (const char *)a + f->at, *y = (const char *)b + f->at;
    float u, v;
    if (!f->real) return memcmp(x, y, f->bytes) == 0;
    memcpy(&u, x, sizeof u);
    memcpy(&v, y, sizeof v);
    return fabsf(u - v) <= 1e-6f * fabsf(u);
}

const char *arch_differs(const struct arch *a, const struct arch *b)
{
    if (strcmp(a->family, b->family) != 0) return "family";
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (!same(&fields[i], a, b)) return fields[i].name;
    return NULL;
}
