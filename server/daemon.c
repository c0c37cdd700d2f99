#include "daemon_int.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "core/kernel/blas.h"
#include "ledger/sha.h"

/* ---- views -------------------------------------------------------------------------------- */

void resolved_release(struct resolved *r)
{
    view_drop(r->view);
    *r = (struct resolved){0};
}

static void lock(struct daemon *d) { (void)pthread_mutex_lock(&d->heads_lock); }
static void unlock(struct daemon *d) { (void)pthread_mutex_unlock(&d->heads_lock); }

static struct head *find_head(struct daemon *d, const char *branch)
{
    for (size_t i = 0; i < d->n_heads; i++)
        if (strcmp(d->heads[i].branch, branch) == 0) return &d->heads[i];
    return NULL;
}

static void resolve(struct resolved *out, const char *revision, int64_t seq, const char *digest,
                    struct view *view)
{
    (void)snprintf(out->revision, sizeof out->revision, "%s", revision);
    (void)snprintf(out->digest, sizeof out->digest, "%s", digest);
    out->seq = seq;
    out->view = view_retain(view);
}

/* A head or a cached revision of that name. */
static bool resolve_known(struct daemon *d, const char *name, struct resolved *out)
{
    bool found = false;
    lock(d);
    for (size_t i = 0; i < d->n_heads && !found; i++) {
        const struct head *h = &d->heads[i];
        found = strcmp(h->branch, name) == 0 || strcmp(h->revision, name) == 0;
        if (found) resolve(out, h->revision, h->seq, h->digest, h->view);
    }
    for (size_t i = 0; i < CACHED_VIEWS && !found; i++) {
        struct cached_view *c = &d->cache[i];
        found = c->view && strcmp(c->revision, name) == 0;
        if (!found) continue;
        c->used = ++d->uses;
        resolve(out, c->revision, c->seq, c->digest, c->view);
    }
    unlock(d);
    return found;
}

/* The entry of that revision, or the one unused for longest. */
static struct cached_view *cache_place(struct daemon *d, const char *revision)
{
    struct cached_view *oldest = &d->cache[0];
    for (size_t i = 0; i < CACHED_VIEWS; i++) {
        if (strcmp(d->cache[i].revision, revision) == 0) return &d->cache[i];
        if (d->cache[i].used < oldest->used) oldest = &d->cache[i];
    }
    return oldest;
}

static void cache(struct daemon *d, const struct resolved *r)
{
    lock(d);
    struct cached_view *place = cache_place(d, r->revision);
    struct view *old = place->view;
    *place = (struct cached_view){.seq = r->seq, .view = view_retain(r->view), .used = ++d->uses};
    memcpy(place->revision, r->revision, sizeof place->revision);
    memcpy(place->digest, r->digest, sizeof place->digest);
    unlock(d);
    view_drop(old);
}

static bool resolve_revision(struct daemon *d, struct ledger_reader *reader, const char *id,
                             struct resolved *out, struct err *e)
{
    struct revision rev = {0};
    if (!ledger_revision(reader, id, &rev, e)) return false;
    bool ok = strcmp(rev.model, d->row.id) == 0 ||
              err_set(e, ERR_NOT_FOUND, "revision %s is of another model", id);
    struct view *v = ok ? ledger_restore(reader, d->model, &d->digests, id, e) : NULL;
    if (v) {
        resolve(out, rev.id, rev.seq, rev.digest, v);
        view_drop(v);
        cache(d, out);
    }
    revision_release(&rev);
    return v != NULL;
}

static bool is_our_model(struct daemon *d, const char *model)
{
    return !model || strcmp(model, d->row.name) == 0 || strcmp(model, d->row.id) == 0 ||
           strcmp(model, d->model->name) == 0;
}

bool daemon_view(struct daemon *d, struct ledger_reader *reader, const char *model,
                 const char *name, struct resolved *out, struct err *e)
{
    *out = (struct resolved){0};
    if (!is_our_model(d, model))
        return err_field(e, ERR_NOT_FOUND, "model", "no model %s; this daemon serves %s", model,
                         d->model->name);
    if (!name) name = "main";
    const char *wanted = strcmp(name, "base") == 0 ? d->row.base_revision : name;
    if (!resolve_known(d, wanted, out) && !resolve_revision(d, reader, wanted, out, e)) {
        if (e->code == ERR_NOT_FOUND)
            return err_field(e, ERR_NOT_FOUND, "view", "no branch or revision %s", name);
        return err_while(e, "resolving view %s", name);
    }
    (void)snprintf(out->model, sizeof out->model, "%s", d->model->name);
    (void)snprintf(out->model_id, sizeof out->model_id, "%s", d->row.id);
    (void)snprintf(out->name, sizeof out->name, "%s", name);
    return true;
}

bool daemon_head(struct daemon *d, const char *branch, char revision[ID_TEXT], int64_t *seq)
{
    if (strcmp(branch, "base") == 0) return false; /* kept among the heads, but it is no branch */
    lock(d);
    const struct head *h = find_head(d, branch);
    if (h) {
        memcpy(revision, h->revision, ID_TEXT);
        *seq = h->seq;
    }
    unlock(d);
    return h != NULL;
}

static struct head *add_head(struct daemon *d, const char *branch)
{
    struct head *grown = mem_new((d->n_heads + 1) * sizeof *grown);
    if (d->n_heads) memcpy(grown, d->heads, d->n_heads * sizeof *grown);
    mem_drop(d->heads);
    d->heads = grown;
    struct head *h = &grown[d->n_heads++];
    (void)snprintf(h->branch, sizeof h->branch, "%s", branch);
    return h;
}

void daemon_publish(struct daemon *d, const struct revision *rev, struct view *view)
{
    lock(d);
    struct head *h = find_head(d, rev->branch);
    if (!h) h = add_head(d, rev->branch);
    struct view *old = h->view;
    h->view = view_retain(view);
    h->seq = rev->seq;
    memcpy(h->revision, rev->id, sizeof h->revision);
    memcpy(h->digest, rev->digest, sizeof h->digest);
    unlock(d);
    view_drop(old);
}

const char *daemon_data(struct daemon *d) { return d->config->data; }
struct model *daemon_model(struct daemon *d) { return d->model; }
const struct model_row *daemon_model_row(struct daemon *d) { return &d->row; }
const struct base_digests *daemon_digests(struct daemon *d) { return &d->digests; }

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

static bool load_model(struct daemon *d, struct err *e)
{
    d->threads = config_threads(d->config);
    if (!blas_start(d->threads, e)) return err_while(e, "starting the linear algebra library");
    name_engine(d);
    d->model = model_open(d->config->model, d->config->name, NULL, NULL, e);
    return d->model && base_digests_init(&d->digests, d->model, d->config->data, e);
}

static bool add_model(struct daemon *d, struct ledger_reader *reader, struct err *e)
{
    int64_t known = 0;
    if (!ledger_count_models(reader, &known, e)) return false;
    if (known > 0 && !d->config->add_model)
        return err_set(e, ERR_CONFLICT,
                       "the ledger in %s does not know the base %s of %s; --add-model accepts it",
                       d->config->data, d->digests.base, d->config->model);
    return ledger_add_model(d->ledger, d->model, &d->digests, "local", &d->row, e);
}

struct heads_of { /* context of collecting branch heads */
    struct revision *rev;
    size_t n;
};

static void collect_head(void *ctx, const char *branch, const struct revision *head)
{
    struct heads_of *h = ctx;
    struct revision *grown = mem_new((h->n + 1) * sizeof *grown);
    if (h->n) memcpy(grown, h->rev, h->n * sizeof *grown);
    mem_drop(h->rev);
    h->rev = grown;
    grown[h->n] = *head;
    grown[h->n].message = grown[h->n].summary = NULL; /* the row keeps its texts */
    (void)snprintf(grown[h->n].branch, sizeof grown[h->n].branch, "%s", branch);
    h->n++;
}

static bool restore_heads(struct daemon *d, struct ledger_reader *reader, struct err *e)
{
    struct heads_of h = {0};
    bool ok = ledger_branches(reader, d->row.id, collect_head, &h, e);
    for (size_t i = 0; ok && i < h.n; i++) {
        struct view *v = ledger_restore(reader, d->model, &d->digests, h.rev[i].id, e);
        ok = v || err_while(e, "restoring the head of branch %s", h.rev[i].branch);
        if (ok) daemon_publish(d, &h.rev[i], v);
        view_drop(v);
    }
    mem_drop(h.rev);
    return ok;
}

/* The base stays at hand under its revision id, whatever the cache does: as the head of no branch
 * it would be restored again and again. */
static bool keep_base(struct daemon *d, struct ledger_reader *reader, struct err *e)
{
    struct revision rev = {0};
    if (!ledger_revision(reader, d->row.base_revision, &rev, e)) return false;
    (void)snprintf(rev.branch, sizeof rev.branch, "base"); /* no branch may be called so */
    struct view *v = view_base(d->model);
    daemon_publish(d, &rev, v);
    view_drop(v);
    revision_release(&rev);
    return true;
}

static bool open_history(struct daemon *d, struct err *e)
{
    if (!ledger_jobs_recover(d->ledger, e)) return false;
    struct ledger_reader *reader = ledger_reader_open(d->config->data, e);
    if (!reader) return false;
    bool ok = ledger_find_model(reader, d->digests.base, &d->row, e);
    if (!ok && e->code == ERR_NOT_FOUND) ok = add_model(d, reader, e);
    ok = ok && keep_base(d, reader, e) && restore_heads(d, reader, e);
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
    (void)pthread_mutex_init(&d->heads_lock, NULL);
    d->metrics = metrics_new(routes, n_routes);
    d->jobs = jobs_new(wake, d);
    d->auth = auth_open(d->config->token_file, e);
    if (!d->auth) return false;
    d->ledger = ledger_open(d->config->data, e); /* first: its lock keeps a second daemon away */
    if (!d->ledger || !load_model(d, e) || !open_history(d, e)) return false;
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
    for (size_t i = 0; i < CACHED_VIEWS; i++) view_drop(d->cache[i].view);
    for (size_t i = 0; i < d->n_heads; i++) view_drop(d->heads[i].view);
    mem_drop(d->heads);
    if (d->ledger) ledger_close(d->ledger);
    base_digests_release(&d->digests);
    model_drop(d->model);
    auth_close(d->auth);
    metrics_free(d->metrics);
    (void)pthread_mutex_destroy(&d->heads_lock);
}
