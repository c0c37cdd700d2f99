#include "metrics.h"

#include <assert.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "clock.h"

/* Upper bounds in microseconds; the last bucket is +Inf. */
static const int64_t bounds_us[] = {100,    250,    500,     1000,    2500,    5000,     10000,
                                    25000,  100000, 500000,  1000000, 5000000, 30000000};
enum { N_BOUNDS = sizeof bounds_us / sizeof *bounds_us, N_BUCKETS = N_BOUNDS + 1 };

static const int statuses[] = {200, 201, 202, 304, 400, 401, 403, 404, 405, 409, 411, 412,
                               413, 415, 421, 422, 429, 500, 501, 503, 504, 507, 0};
enum { N_STATUSES = sizeof statuses / sizeof *statuses };

struct histogram {
    _Atomic int64_t bucket[N_BUCKETS];
    _Atomic int64_t sum_us;
};

struct metrics {
    const struct route *table;
    size_t rows;
    struct histogram commit, commit_failed, step;
    struct histogram request[]; /* [rows + 1][N_STATUSES] */
};

struct metrics *metrics_new(const struct route *table, size_t rows)
{
    struct metrics *m =
        mem_new(sizeof *m + (rows + 1) * N_STATUSES * sizeof(struct histogram));
    m->table = table;
    m->rows = rows;
    return m;
}

void metrics_free(struct metrics *m) { mem_drop(m); }

static void count(struct histogram *h, int64_t took_us)
{
    size_t i = 0;
    while (i < N_BOUNDS && took_us > bounds_us[i]) i++;
    atomic_fetch_add_explicit(&h->bucket[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_us, took_us, memory_order_relaxed);
}

static size_t status_index(int status)
{
    size_t i = 0;
    while (statuses[i] && statuses[i] != status) i++;
    return i;
}

void metrics_request(struct metrics *m, const struct route *route, int status, int64_t took_us)
{
    size_t r = route ? (size_t)(route - m->table) : m->rows;
    assert(r <= m->rows);
    count(&m->request[r * N_STATUSES + status_index(status)], took_us);
}

void metrics_commit(struct metrics *m, bool ok, int64_t took_us)
{
    count(ok ? &m->commit : &m->commit_failed, took_us);
}

void metrics_step(struct metrics *m, int64_t took_us) { count(&m->step, took_us); }

static int64_t load(const _Atomic int64_t *v)
{
    return atomic_load_explicit(v, memory_order_relaxed);
}

/* labels: `route="…",` or "". Nothing is written for a histogram that never counted. */
static void write_histogram(const struct histogram *h, const char *name, const char *labels,
                            struct buf *out)
{
    int64_t total = 0;
    for (size_t i = 0; i < N_BUCKETS; i++) total += load(&h->bucket[i]);
    if (!total) return;
    int64_t below = 0;
    for (size_t i = 0; i < N_BOUNDS; i++) {
        below += load(&h->bucket[i]);
        buf_printf(out, "%s_bucket{%sle=\"%g\"} %" PRId64 "\n", name, labels,
                   (double)bounds_us[i] / US_PER_S, below);
    }
    buf_printf(out, "%s_bucket{%sle=\"+Inf\"} %" PRId64 "\n", name, labels, total);
    size_t n = strlen(labels);
    const char *open = n ? "{" : "", *close = n ? "}" : "";
    int len = n ? (int)n - 1 : 0; /* without the last comma */
    buf_printf(out, "%s_sum%s%.*s%s %.6f\n", name, open, len, labels, close,
               (double)load(&h->sum_us) / US_PER_S);
    buf_printf(out, "%s_count%s%.*s%s %" PRId64 "\n", name, open, len, labels, close, total);
}

static void head(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void write_requests(const struct metrics *m, struct buf *out)
{
    static const char name[] = "engramd_http_request_seconds";
    head(out, name, "histogram", "Server time of a request by route template.");
    for (size_t r = 0; r <= m->rows; r++)
        for (size_t s = 0; s < N_STATUSES; s++) {
            struct buf labels = {0};
            bool known = r < m->rows;
            buf_printf(&labels, "route=\"%s\",method=\"%s\",status=\"",
                       known ? m->table[r].path : "none", known ? m->table[r].method : "");
            if (statuses[s]) buf_printf(&labels, "%d\",", statuses[s]);
            else buf_text(&labels, "other\",");
            if (!labels.failed)
                write_histogram(&m->request[r * N_STATUSES + s], name, labels.data, out);
            buf_release(&labels);
        }
}

void metrics_write(const struct metrics *m, struct buf *out)
{
    write_requests(m, out);
    head(out, "engramd_commit_seconds", "histogram", "Ledger writes that succeeded.");
    write_histogram(&m->commit, "engramd_commit_seconds", "", out);
    head(out, "engramd_commit_failed_seconds", "histogram", "Ledger writes that failed.");
    write_histogram(&m->commit_failed, "engramd_commit_failed_seconds", "", out);
    head(out, "engramd_step_seconds", "histogram", "Steps of compute work.");
    write_histogram(&m->step, "engramd_step_seconds", "", out);
}

void metrics_gauge(struct buf *out, const char *name, const char *help, double value)
{
    head(out, name, "gauge", help);
    buf_printf(out, "%s %.17g\n", name, value);
}
