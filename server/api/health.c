/* Is it alive, may it be sent work, and its numbers. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "handlers.h"
#include "server/clock.h"
#include "server/daemon_int.h"
#include "server/quote.h"

enum { RESERVE_BYTES = 64 << 20 }; /* below this much free disk, writing is about to fail */

bool api_healthz(struct call *c, struct reply *r, struct err *e)
{
    (void)c, (void)e;
    buf_text(&r->body, "{\"status\":\"ok\"}");
    return true;
}

static double free_bytes(const char *dir)
{
    struct statvfs s;
    return statvfs(dir, &s) == 0 ? (double)s.f_bavail * (double)s.f_frsize : 0.0;
}

bool api_readyz(struct call *c, struct reply *r, struct err *e)
{
    struct daemon *d = c->daemon;
    enum writer_health w = writer_health(d->writer);
    bool draining = atomic_load(&d->draining);
    bool disk = free_bytes(d->config->data) >= RESERVE_BYTES, model = models_count(d->models) > 0;
    bool ready = w == WRITER_OK && !draining && disk && model;
    (void)e;
    r->status = ready ? 200 : 503;
    buf_printf(&r->body, "{\"ready\":%s,\"checks\":{\"model\":\"%s\",\"writer\":\"%s\",",
               ready ? "true" : "false", model ? "ok" : "none", writer_health_word(w));
    buf_printf(&r->body, "\"disk\":\"%s\",\"draining\":%s}", disk ? "ok" : "low",
               draining ? "true" : "false");
    struct budget_use m;
    budget_use(d->budget, &m);
    buf_printf(&r->body, ",\"memory\":{\"limit\":%zu,\"program\":%zu,\"models\":%zu,\"views\":%zu,\"answers\":%zu,\"works\":%zu}",
               m.limit, m.program, m.models, m.views, m.answers, m.works);
    if (w == WRITER_STOPPED)
        buf_text(&r->body, ",\"detail\":\"a sync failed: the outcome of the last write is unknown; "
                           "nothing is written until the daemon is restarted\"");
    buf_text(&r->body, "}");
    return true;
}

/* ---- metrics ------------------------------------------------------------------------------ */

static double resident_bytes(void)
{
    unsigned long long total = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f) return 0;
    int n = fscanf(f, "%llu %llu", &total, &resident);
    (void)fclose(f);
    return n == 2 ? (double)resident * (double)sysconf(_SC_PAGESIZE) : 0;
}

static void write_jobs(struct daemon *d, struct buf *out)
{
    struct jobs_count n;
    jobs_count(d->jobs, &n);
    buf_text(out, "# HELP engramd_jobs Live jobs by state.\n# TYPE engramd_jobs gauge\n");
    for (int s = 0; s < JOB_DONE; s++)
        buf_printf(out, "engramd_jobs{state=\"%s\"} %" PRId64 "\n", job_state_word(s), n.live[s]);
    buf_text(out, "# HELP engramd_jobs_ended_total Jobs that ended.\n"
                  "# TYPE engramd_jobs_ended_total counter\n");
    for (int s = JOB_DONE; s < JOB_STATES; s++)
        buf_printf(out, "engramd_jobs_ended_total{state=\"%s\"} %" PRId64 "\n", job_state_word(s),
                   n.ended[s]);
}

static int64_t head_seq(struct served *s)
{
    char revision[ID_TEXT];
    int64_t seq = 0;
    (void)served_head(s, "main", revision, &seq);
    return seq;
}

static int64_t weight_bytes(struct served *s) { return (int64_t)s->model->memory_bytes; }

static const struct {
    const char *name, *help;
    int64_t (*value)(struct served *s);
} model_rows[] = {
    {"engramd_head_seq", "Seq of the head of main.", head_seq},
    {"engramd_model_bytes", "Memory of a model's weights.", weight_bytes},
};

/* The text format escapes labels as JSON escapes strings. */
static void write_models(struct daemon *d, struct buf *out)
{
    struct served *served[MODELS_MOST];
    size_t n = models_list(d->models, served);
    metrics_gauge(out, "engramd_models", "Models loaded.", (double)n);
    for (size_t k = 0; k < sizeof model_rows / sizeof *model_rows; k++) {
        const char *name = model_rows[k].name;
        buf_printf(out, "# HELP %s %s\n# TYPE %s gauge\n", name, model_rows[k].help, name);
        for (size_t i = 0; i < n; i++) {
            buf_printf(out, "%s{model=", name);
            quote(out, served[i]->name);
            buf_printf(out, "} %" PRId64 "\n", model_rows[k].value(served[i]));
        }
    }
    for (size_t i = 0; i < n; i++) served_drop(served[i]);
}

static void write_memory(struct daemon *d, struct buf *out)
{
    struct budget_use m;
    budget_use(d->budget, &m);
    metrics_gauge(out, "engramd_memory_limit_bytes", "Most memory to take.", (double)m.limit);
    buf_text(out, "# HELP engramd_memory_bytes Memory set aside or held.\n# TYPE engramd_memory_bytes gauge\n");
    const struct { const char *holder; size_t bytes; } rows[] = {
        {"program", m.program}, {"models", m.models}, {"views", m.views},
        {"answers", m.answers}, {"works", m.works}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        buf_printf(out, "engramd_memory_bytes{holder=\"%s\"} %zu\n", rows[i].holder, rows[i].bytes);
}

bool api_metrics(struct call *c, struct reply *r, struct err *e)
{
    struct daemon *d = c->daemon;
    struct worker_load load;
    (void)e;
    r->content_type = "text/plain; version=0.0.4; charset=utf-8";
    metrics_write(d->metrics, &r->body);
    write_jobs(d, &r->body);
    write_models(d, &r->body);
    write_memory(d, &r->body);
    worker_load(d->worker, &load);
    const struct { const char *name, *help; double value; } rows[] = {
        {"engramd_queue_long", "Long works waiting.", (double)load.waiting_long},
        {"engramd_queue_brief", "Brief works waiting.", (double)load.waiting_brief},
        {"engramd_queue_writes", "Ledger writes waiting.", (double)writer_waiting(d->writer)},
        {"engramd_writable", "1 while the ledger can be written.",
         writer_health(d->writer) == WRITER_OK},
        {"engramd_event_streams", "Event streams open.", (double)atomic_load(&d->subscribers)},
        {"engramd_threads", "Compute threads.", (double)d->threads},
        {"engramd_disk_free_bytes", "Free bytes beside the ledger.", free_bytes(d->config->data)},
        {"engramd_resident_bytes", "Resident memory.", resident_bytes()},
        {"engramd_uptime_seconds", "Since the start.",
         (double)(wall_us() - d->started_us) / US_PER_S},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        metrics_gauge(&r->body, rows[i].name, rows[i].help, rows[i].value);
    return true;
}
