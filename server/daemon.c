#include "daemon_int.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "clock.h"
#include "core/kernel/blas.h"
#include "ledger/sha.h"
#include "loader.h"
#include "machine.h"

/* ---- what requests ask of it ------------------------------------------------------------- */

/* The ledger keeps the name under which a base was first served. */
static void say_if_known(struct call *c, const char *name, struct err *e)
{
    struct model_row row;
    struct err why = *e, ignored = {0};
    if (why.code != ERR_NOT_FOUND || !ledger_named_model(c->reader, name, &row, &ignored)) return;
    struct served *s = models_find_row(c->daemon->models, row.id);
    (void)err_field(e, why.code, why.field, "the ledger knows \"%s\" (%s), but it is %s%s; %s", row.name, row.id,
                    s ? "served as " : "not loaded", s ? s->name : "", why.text);
    served_drop(s);
}

struct served *call_model(struct call *c, const char *name, struct err *e)
{
    if (c->served) return c->served;
    c->served = models_find(c->daemon->models, name, e);
    if (!c->served && name) say_if_known(c, name, e);
    return c->served;
}

struct served *call_served(struct call *c, const struct json *request, struct err *e)
{
    const struct json *name = json_get(request, "model");
    return call_model(c, name ? name->text : NULL, e);
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
    if (budget_take(d->budget, HOLDER_WORKS, p, out, e)) return true;
    struct budget_use m;
    budget_use(d->budget, &m);
    if (e->code != ERR_NO_MEMORY || !m.answers) return false;
    jobs_forget(d->jobs);
    return budget_take(d->budget, HOLDER_WORKS, p, out, e);
}

struct budget *daemon_budget(struct daemon *d) { return d->budget; }
int daemon_threads(struct daemon *d) { return d->threads; }
struct rate *daemon_rate(struct daemon *d) { return &d->rate; }

const char *daemon_data(struct daemon *d) { return d->config->data; }
const struct config *daemon_config(struct daemon *d) { return d->config; }
struct models *daemon_models(struct daemon *d) { return d->models; }

struct new_row {
    struct served *served;
    const char *author;
    bool verified;
};

static bool write_row(struct ledger *l, void *ctx, struct err *e)
{
    struct new_row *n = ctx;
    struct served *s = n->served;
    return ledger_add_model(l, s->model, &s->digests, n->author, n->verified, &s->row, e);
}

bool daemon_add_row(struct daemon *d, struct served *s, const char *author, bool verified, struct err *e)
{
    struct new_row n = {s, author, verified};
    return writer_call(d->writer, write_row, &n, e);
}

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
static size_t limit_of(const struct config *c)
{
    size_t has = machine_memory(), margin = has / 16 + ((size_t)256 << 20);
    return c->memory ? (size_t)c->memory : has > margin ? has - margin : 0;
}

static bool start_engine(struct daemon *d, struct err *e)
{
    d->threads = config_threads(d->config);
    if (!blas_start(d->threads, e)) return err_while(e, "starting the linear algebra library");
    name_engine(d);
    return true;
}

struct planned {
    const char *path;
    char name[NAME_TEXT];
    bool named; /* by its option, not from its path */
};
static_assert((int)CONFIG_NAME == (int)NAME_TEXT, "an option's name is a served name");

static bool name_model(const struct config *c, const char *option, struct planned *out, struct err *e)
{
    out->path = config_model(option, out->name, e);
    if (!out->path) return false;
    if (out->name[0] && c->name)
        return err_set(e, ERR_INVALID, "--name %s and --model %s both name the model", c->name, option);
    out->named = out->name[0] != '\0';
    char *name = out->named ? mem_text(out->name) : c->name ? mem_text(c->name) : model_default_name(out->path);
    bool ok = served_may_be_called(name, e) || err_while(e, "naming the model %s", out->path);
    if (ok) (void)snprintf(out->name, sizeof out->name, "%s", name);
    mem_drop(name);
    return ok;
}

static bool refuse_namesakes(const struct planned *a, const struct planned *b, struct err *e)
{
    if (a->named && b->named)
        return err_set(e, ERR_INVALID, "two models are called %s: %s and %s", a->name, a->path, b->path);
    return err_set(e, ERR_INVALID, "%s and %s would both be called %s; write --model NAME=PATH", a->path, b->path, a->name);
}

/* Names are settled before anything is read, so that a clash costs no time. */
static bool plan_models(const struct config *c, struct planned *out, struct err *e)
{
    if (c->models.n > MODELS_MOST) return err_set(e, ERR_INVALID, "%zu models; %d at most", c->models.n, MODELS_MOST);
    for (size_t i = 0; i < c->models.n; i++) {
        if (!name_model(c, c->models.value[i], &out[i], e)) return false;
        for (size_t k = 0; k < i; k++)
            if (strcmp(out[k].name, out[i].name) == 0) return refuse_namesakes(&out[k], &out[i], e);
    }
    return true;
}

/* Before the writer runs the ledger is main's. */
static bool find_row(struct daemon *d, struct ledger_reader *reader, bool may_add, struct served *s,
                     struct err *e)
{
    if (ledger_find_model(reader, s->digests.base, &s->row, e)) return true;
    if (e->code != ERR_NOT_FOUND) return false;
    if (!may_add)
        return err_set(e, ERR_CONFLICT,
                       "the ledger in %s does not know the base %s of %s; --add-model accepts it",
                       d->config->data, s->digests.base, s->model->path);
    return ledger_add_model(d->ledger, s->model, &s->digests, "local", false, &s->row, e);
}

static bool serve_model(struct daemon *d, struct ledger_reader *reader, const struct planned *p,
                        bool may_add, struct err *e)
{
    struct served *s = served_open(p->path, p->name, d->config->data, d->budget, NULL, NULL, e);
    bool ok = s && (models_may_add(d->models, s->name, s->digests.base, e) || err_while(e, "loading %s", p->path)) &&
              find_row(d, reader, may_add, s, e) && served_restore(s, reader, e) && models_add(d->models, s, e);
    served_drop(s);
    return ok;
}

/* A fresh ledger takes whatever it is begun with. */
static bool serve_models(struct daemon *d, const struct planned *plan, struct err *e)
{
    int64_t known = 0;
    if (!ledger_jobs_recover(d->ledger, e)) return false;
    struct ledger_reader *reader = ledger_reader_open(d->config->data, e);
    bool ok = reader && ledger_count_models(reader, &known, e);
    for (size_t i = 0; ok && i < d->config->models.n; i++)
        ok = serve_model(d, reader, &plan[i], known == 0 || d->config->add_model, e);
    ledger_reader_close(reader);
    return ok;
}

static bool check_models_dir(const char *dir, struct err *e)
{
    struct stat st;
    if (!dir) return true;
    if (stat(dir, &st) != 0) return err_set(e, ERR_IO, "--models-dir %s: %s", dir, strerror(errno));
    return S_ISDIR(st.st_mode) || err_set(e, ERR_INVALID, "--models-dir %s is no directory", dir);
}

static void wake(void *ctx)
{
    struct daemon *d = ctx;
    loop_wake(d->loop);
}

bool daemon_open(struct daemon *d, struct err *e)
{
    struct planned plan[MODELS_MOST];
    assert(d->config && d->log && d->loop);
    d->started_us = wall_us();
    d->metrics = metrics_new(routes, n_routes);
    d->budget = budget_new(limit_of(d->config));
    d->jobs = jobs_new(wake, d, budget_answers(d->budget));
    d->models = models_new();
    d->auth = auth_open(d->config->token_file, e);
    if (!d->auth || !check_models_dir(d->config->models_dir, e) || !plan_models(d->config, plan, e)) return false;
    d->ledger = ledger_open(d->config->data, e); /* first: its lock keeps a second daemon away */
    if (!d->ledger || !start_engine(d, e) || !serve_models(d, plan, e)) return false;
    d->writer = writer_start(d->ledger, d->metrics, d->log, e);
    if (!d->writer) return false;
    d->worker = worker_start(d, e);
    d->loader = d->worker ? loader_start(d, e) : NULL;
    return d->loader != NULL;
}

void daemon_close(struct daemon *d)
{
    loader_stop(d->loader);
    worker_stop(d->worker);
    writer_stop(d->writer);
    jobs_free(d->jobs);
    models_free(d->models);
    budget_free(d->budget);
    if (d->ledger) ledger_close(d->ledger);
    auth_close(d->auth);
    metrics_free(d->metrics);
}
