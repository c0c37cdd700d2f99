#include "plan.h"

#include <stdio.h>

static const char *const words[] = {
#define NEED(name, word) word,
#include "plan.def"
#undef NEED
};

size_t plan_sum(size_t a, size_t b)
{
    size_t sum;
    return size_add(a, b, &sum) ? sum : SIZE_MAX;
}

size_t plan_times(size_t a, size_t b)
{
    size_t product;
    return size_mul(a, b, &product) ? product : SIZE_MAX;
}

void plan_add(struct plan *p, enum need what, size_t bytes) { p->bytes[what] = plan_sum(p->bytes[what], bytes); }

void plan_with(struct plan *p, const struct plan *q)
{
    for (unsigned i = 0; i < NEED_COUNT; i++) plan_add(p, (enum need)i, q->bytes[i]);
}

void plan_peak(struct plan *p, const struct plan *q)
{
    if (plan_total(q) > plan_total(p)) *p = *q;
}

size_t plan_total(const struct plan *p)
{
    size_t total = 0;
    for (unsigned i = 0; i < NEED_COUNT; i++) total = plan_sum(total, p->bytes[i]);
    return total;
}

const char *bytes_text(size_t bytes, char out[BYTES_TEXT])
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double x = (double)bytes;
    size_t u = 0;
    while (x >= 1024 && u + 1 < sizeof units / sizeof *units) x /= 1024, u++;
    (void)snprintf(out, BYTES_TEXT, u ? "%.2f %s" : "%.0f %s", x, bytes == 1 ? "byte" : units[u]);
    return out;
}

void plan_text(const struct plan *p, struct buf *out)
{
    enum { SHOWN = 3 };
    struct plan left = *p;
    char text[BYTES_TEXT];
    for (int n = 0; n < SHOWN; n++) {
        unsigned top = 0;
        for (unsigned i = 1; i < NEED_COUNT; i++)
            if (left.bytes[i] > left.bytes[top]) top = i;
        if (!left.bytes[top]) return;
        buf_printf(out, "%s%s %s", n ? ", " : "", words[top], bytes_text(left.bytes[top], text));
        left.bytes[top] = 0;
    }
}
