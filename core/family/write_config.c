#include "write_config.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/base/json_write.h"

static void put(struct buf *out, const char *key, const char *value)
{
    buf_printf(out, "  \"%s\": %s,\n", key, value);
}

static const char *number(float v, char text[40])
{
    f32_text(v, text);
    return strpbrk(text, ".e") ? text : strcat(text, ".0");
}

void config_put_integer(struct buf *out, const char *key, uint32_t v)
{
    buf_printf(out, "  \"%s\": %" PRIu32 ",\n", key, v);
}

void config_put_number(struct buf *out, const char *key, float v)
{
    char text[40];
    put(out, key, number(v, text));
}

void config_put_flag(struct buf *out, const char *key, bool v) { put(out, key, v ? "true" : "false"); }

void config_put_text(struct buf *out, const char *key, const char *text) { buf_printf(out, "  \"%s\": \"%s\",\n", key, text); }

void config_put_integer_or_null(struct buf *out, const char *key, uint32_t v)
{
    if (v) config_put_integer(out, key, v);
    else put(out, key, "null");
}

void config_put_number_or_null(struct buf *out, const char *key, float v)
{
    if (v != 0) config_put_number(out, key, v);
    else put(out, key, "null");
}

/* ---- rotary scaling -------------------------------------------------------------------------------- */

/* A GGUF holds Llama 3's scaling as one divisor per pair. Its converter knows one setting of the three
 * other numbers, which is tried: then the file can say "llama3" as its checkpoint did. */
static bool as_llama3(const struct arch *a, struct arch *out)
{
    if (a->rotary.n_divisor == 0 || a->rotary.attention != 1 || a->rotary.linear != 1) return false;
    float want[ROPE_PAIRS], got[ROPE_PAIRS], factor = a->rotary.divisor[a->rotary.n_divisor - 1];
    *out = *a;
    out->rotary.n_divisor = 0;
    out->rotary.llama3.factor = factor;
    out->rotary.llama3.low = 1;
    out->rotary.llama3.high = 4;
    out->rotary.llama3.context = 8192;
    if (!(factor > 1)) return false;
    arch_frequencies(a, false, want);
    arch_frequencies(out, false, got);
    for (uint32_t i = 0; i < a->rotary.dim / 2; i++)
        if (!(fabsf(got[i] - want[i]) <= 2e-6f * want[i])) return false;
    return true;
}

static void put_llama3(struct buf *out, const struct arch *a)
{
    char factor[40], low[40], high[40];
    buf_printf(out,
               "  \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": %s, \"low_freq_factor\": %s, "
               "\"high_freq_factor\": %s, \"original_max_position_embeddings\": %.0f},\n",
               number(a->rotary.llama3.factor, factor), number(a->rotary.llama3.low, low),
               number(a->rotary.llama3.high, high), (double)a->rotary.llama3.context);
}

static void put_divisors(struct buf *out, const struct rotary *r, const char *key)
{
    char text[40];
    buf_printf(out, "\"%s\": [", key);
    for (uint32_t i = 0; i < r->dim / 2; i++)
        buf_printf(out, "%s%s", i ? ", " : "", number((r->n_divisor ? r->divisor[i] : 1) * r->linear, text));
    buf_text(out, "]");
}

/* The context is that of the first set of divisors, so the second is never used. */
static void put_longrope(struct buf *out, const struct arch *a)
{
    char attention[40];
    buf_text(out, "  \"rope_scaling\": {\"rope_type\": \"longrope\", ");
    put_divisors(out, &a->rotary, "short_factor");
    buf_text(out, ", ");
    put_divisors(out, &a->rotary, "long_factor");
    buf_printf(out, ", \"factor\": 1.0, \"attention_factor\": %s, \"original_max_position_embeddings\": %" PRIu32 "},\n",
               number(a->rotary.attention, attention), a->context);
}

void config_put_rotary_scaling(struct buf *out, const struct arch *a)
{
    char factor[40];
    struct arch slowed;
    if (a->rotary.llama3.factor > 0) put_llama3(out, a);
    else if (as_llama3(a, &slowed)) put_llama3(out, &slowed);
    else if (a->rotary.n_divisor || a->rotary.attention != 1) put_longrope(out, a);
    else if (a->rotary.linear != 1)
        buf_printf(out, "  \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": %s},\n",
                   number(a->rotary.linear, factor));
}

void config_put_rotary(struct buf *out, const struct arch *a)
{
    config_put_number(out, "rope_theta", a->rotary.theta);
    config_put_rotary_scaling(out, a);
}

void config_put_layer_types(struct buf *out, const struct arch *a)
{
    buf_text(out, "  \"layer_types\": [");
    for (uint32_t l = 0; l < a->n_layers; l++)
        buf_printf(out, "%s\"%s\"", l ? ", " : "", arch_windowed(a, l) ? "sliding_attention" : "full_attention");
    buf_text(out, "],\n");
}
