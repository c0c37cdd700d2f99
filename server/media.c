#include "media.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const struct {
    const char *name;
    enum media media;
} known[] = { /* of each kind first what it is called in answers */
    {"application/json", MEDIA_JSON}, {"application/x-npy", MEDIA_NPY}, {"application/x-npz", MEDIA_NPZ},
    {"application/safetensors", MEDIA_SAFETENSORS},
    {"application/npy", MEDIA_NPY}, {"application/npz", MEDIA_NPZ}, {"application/zip", MEDIA_NPZ},
    {"application/vnd.safetensors", MEDIA_SAFETENSORS}, {"application/x-safetensors", MEDIA_SAFETENSORS},
    {"application/*", MEDIA_JSON}, {"*/*", MEDIA_JSON},
};
enum { N_KNOWN = sizeof known / sizeof *known };

const char *media_name(enum media m)
{
    size_t i = 0;
    while (known[i].media != m) i++;
    return known[i].name;
}

static const char *skip_space(const char *s)
{
    while (*s == ' ' || *s == '\t') s++;
    return s;
}

/* The q among the parameters [at, end); 1 without one. */
static double quality(const char *at, const char *end)
{
    while (at < end && (at = memchr(at, ';', (size_t)(end - at)))) {
        at = skip_space(at + 1);
        if ((*at == 'q' || *at == 'Q') && at[1] == '=') return strtod(at + 2, NULL);
    }
    return 1;
}

enum media media_of(const char *accept)
{
    enum media best = MEDIA_JSON;
    double most = 0;
    for (const char *at = accept; *at;) {
        const char *name = skip_space(at), *end = name + strcspn(name, ",");
        size_t n = strcspn(name, " \t;,");
        for (size_t i = 0; i < N_KNOWN; i++) {
            if (strlen(known[i].name) != n || strncasecmp(known[i].name, name, n) != 0) continue;
            double q = quality(name + n, end);
            if (q > most) best = known[i].media, most = q;
        }
        at = *end ? end + 1 : end;
    }
    return best;
}
