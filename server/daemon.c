#include "daemon_int.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "core/kernel/blas.h"
#include "ledger/sha.h"
#include "machine.h"

/* ---- what requests ask of it ------------------------------------------------------------- */

struct served *call_served(struct call *c, const struct json *request, struct err *e)
{
    const struct json *name = json_get(request, "model");
    if (!c->served) c->served = models_find(c->daemon->models, name ? name->text : NULL, e);
    return c->served;
}

bool daemon_lease(struct daemon *d, const struct plan *p, struct lease *out, struct err *e)
{
    if (budget_take(d->budget, HOLDER_WORKS, p, out, e)) return true;
    struct served *served[MODELS_MOST];
    size_t n = models_list(d->models, served);
    for (size_t i = 0; i < n; i++) {
        served_forget(served[i]);
        served_drop(served[i]);
    }
    return budget_take(d->budget, HOLDER_WORKS, p, out, e);
}

int daemon_threads(struct daemon *d) { return d->threads; }

const char *daemon_data(struct daemon *d) { return d->config->data; }
struct models *daemon_models(struct daemon *d) { return d->models; }

void daemon_provenance(struct daemon *d, struct provenance *out)
{
    *out = (struct provenance){.engine = d->engine, .kernel = d->kernel, .threads = d->threads,
                               .seed = -1};
}

/* ---- start -------------------------------------------------------------------------------- */

/* Version and the program's own hash: two builds never share answers from the log. */
static void name_engine(struct daemon *d)
{
    char hex[65] = "unknown";
    uint8_t hash[SHA256_BYTES];
    struct err ignored = {0};
    if (sha_file("/proc/self/exe", hash, &ignored)) digest_hex(hash, hex);
    (void)snprintf(d->engine, sizeof d->engine, "engramd %s+%.12s", ENGRAM_VERSION, hex);
    (void)snprintf(d->kernel, sizeof d->kernel, "%s", blas_kernel());
}

/* Left to the rest of the machine when --memory does not say: a sixteenth, and 256 MiB. */
static void set_limit(struct daemon *d)
{
    char limit[BYTES_TEXT], all[BYTES_TEXT];
    size_t has = machine_memory(), margin = has / 16 + ((size_t)256 << 20);
    size_t bytes = d->config->memory ? (size_t)d->config->memory : has > margin ? has - margin : 0;
    d->budget = budget_new(bytes);
    log_say(d->log, LOG_LEVEL_INFO, "memory", "at most %s (%s), of the %s this machine or its cgroup has",
            bytes_text(bytes, limit), d->config->memory ? "--memory" : "all but a sixteenth and 256 MiB",
            bytes_text(has, all));
}

static bool start_engine(struct daemon *d, struct err *e)
{
    d->threads = config_threads(d->config);
    if (!blas_start(d->threads, e)) return err_while(e, "starting the linear algebra library");
    name_engine(d);
    return true;
}

/* Before the writer runs the ledger is main's. */
static bool add_row(struct daemon *d, struct ledger_reader *reader, struct served *s, struct err *e)
{
    int64_t known = 0;
    if (!ledger_count_models(reader, &known, e)) return false;
    if (known > 0 && !d->config->add_model)
        return err_set(e, ERR_CONFLICT,
                       "the ledger in %s does not know the base %s of %s; --add-model accepts it",
                       d->config->data, s->digests.base, s->model->path);
    return ledger_add_model(d->ledger, s->model, &s->digests, "local", &s->row, e);
}

static bool find_row(struct daemon *d, struct ledger_reader *reader, struct served *s, struct err *e)
{
    if (ledger_find_model(reader, s->digests.base, &s->row, e)) return true;
    return e->code == ERR_NOT_FOUND && add_row(d, reader, s, e);
}

static bool serve_model(struct daemon *d, struct ledger_reader *reader, struct err *e)
{
    struct served *s = served_open(d->config->model, d->config->name, d->config->data, d->budget, NULL, NULL, e);
    bool ok = s && find_row(d, reader, s, e) && served_restore(s, reader, e) && models_add(d->models, s, e);
    served_drop(s);
    return ok;
}

static bool serve_models(struct daemon *d, struct err *e)
{
    if (!ledger_jobs_recover(d->ledger, e)) return false;
    struct ledger_reader *reader = ledger_reader_open(d->config->data, e);
    bool ok = reader && serve_model(d, reader, e);
    ledger_reader_close(reader);
    return ok;
}

static void wake(void *ctx)
{
    struct daemon *d = ctx;
    loop_wake(d->loop);
}

bool daemon_open(struct daemon *d, struct err *e)
{
    assert(d->config && d->log && d->loop);
    d->started_us = wall_us();
    d->metrics = metrics_new(routes, n_routes);
    d->jobs = jobs_new(wake, d);
    d->models = models_new();
    set_limit(d);
    d->auth = auth_open(d->config->token_file, e);
    if (!d->auth) return false;
    d->ledger = ledger_open(d->config->data, e); /* first: its lock keeps a second daemon away */
    if (!d->ledger || !start_engine(d, e) || !serve_models(d, e)) return false;
    d->writer = writer_start(d->ledger, d->metrics, d->log, e);
    if (!d->writer) return false;
    d->worker = worker_start(d, e);
    return d->worker != NULL;
}

void daemon_close(struct daemon *d)
{
    worker_stop(d->worker);
    writer_stop(d->writer);
    jobs_free(d->jobs);
    models_free(d->models);
    budget_free(d->budget);
    if (d->ledger) ledger_close(d->ledger);
    auth_close(d->auth);
    metrics_free(d->metrics);
}
