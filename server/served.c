#include "served.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "core/base/json.h"

enum { CACHED_VIEWS = 4 };

struct head { /* the published state of a branch */
    char branch[NAME_TEXT];
    char revision[ID_TEXT];
    int64_t seq;
    char digest[DIGEST_TEXT];
    struct view *view;
};

struct cached_view {
    char revision[ID_TEXT]; /* "" where empty */
    int64_t seq;
    char digest[DIGEST_TEXT];
    struct view *view;
    uint64_t used;
};

struct at_hand {
    pthread_mutex_t lock;
    struct head *heads;
    size_t n_heads;
    struct cached_view cache[CACHED_VIEWS];
    uint64_t uses;
};

static void lock(struct at_hand *a) { (void)pthread_mutex_lock(&a->lock); }
static void unlock(struct at_hand *a) { (void)pthread_mutex_unlock(&a->lock); }

bool served_may_be_called(const char *name, struct err *e)
{
    size_t n = strlen(name), bad;
    bool ok = n > 0 && n < NAME_TEXT && utf8_valid(name, n, &bad);
    for (const char *p = name; ok && *p; p++) ok = (unsigned char)*p >= 0x20 && *p != 0x7f && *p != '/' && *p != '@';
    return ok || err_field(e, ERR_INVALID, "name",
                           "a name is 1 to %d bytes of UTF-8 without control characters, / or @",
                           NAME_TEXT - 1);
}

bool served_choose_name(const char *asked, const char *path, char out[NAME_TEXT], struct err *e)
{
    char *name = asked ? mem_text(asked) : model_default_name(path);
    bool ok = served_may_be_called(name, e);
    if (ok) (void)snprintf(out, NAME_TEXT, "%s", name);
    mem_drop(name);
    return ok;
}

/* ---- life --------------------------------------------------------------------------------- */

struct opening {
    struct served *served;
    const char *path;
    void (*progress)(void *ctx, size_t done, size_t total);
    void *ctx;
};

static void on_progress(void *ctx, size_t done, size_t total)
{
    const struct opening *o = ctx;
    if (o->progress) o->progress(o->ctx, done, total);
}

static bool afford(void *ctx, size_t bytes, struct err *e)
{
    const struct opening *o = ctx;
    const struct plan plan = {.bytes[NEED_WEIGHTS] = bytes};
    return budget_take(o->served->budget, HOLDER_MODELS, &plan, &o->served->weights, e) ||
           err_while(e, "loading %s", o->path);
}

static bool take_description(struct served *s, struct err *e)
{
    struct buf b = {0};
    modelfile_describe(s->model->file, &b);
    bool ok = buf_ok(&b, e);
    if (ok) sha256(b.data, b.len, s->described);
    buf_release(&b);
    return ok;
}

struct served *served_open(const char *path, const char *name, const char *data, struct budget *budget,
                           void (*progress)(void *ctx, size_t done, size_t total), void *ctx,
                           struct err *e)
{
    struct served *s = mem_new(sizeof *s);
    s->views = mem_new(sizeof *s->views);
    (void)pthread_mutex_init(&s->views->lock, NULL);
    atomic_init(&s->references, 1);
    s->budget = budget;
    s->saes = saes_new();
    struct opening opening = {s, path, progress, ctx};
    struct model_loading how = {on_progress, afford, &opening, budget_overlays(budget)};
    s->model = model_open_as(path, name, &how, e);
    if (s->model && base_digests_init(&s->digests, s->model, data, e) && take_description(s, e)) {
        (void)snprintf(s->name, sizeof s->name, "%s", s->model->name);
        return s;
    }
    served_drop(s);
    return NULL;
}

struct served *served_retain(struct served *s)
{
    atomic_fetch_add(&s->references, 1);
    return s;
}

void served_drop(struct served *s)
{
    if (!s || atomic_fetch_sub(&s->references, 1) != 1) return;
    struct at_hand *a = s->views;
    for (size_t i = 0; i < CACHED_VIEWS; i++) view_drop(a->cache[i].view);
    for (size_t i = 0; i < a->n_heads; i++) view_drop(a->heads[i].view);
    mem_drop(a->heads);
    (void)pthread_mutex_destroy(&a->lock);
    mem_drop(a);
    saes_free(s->saes);
    base_digests_release(&s->digests);
    model_drop(s->model);
    lease_give(&s->weights);
    mem_drop(s);
}

void resolved_release(struct resolved *r)
{
    view_drop(r->view);
    *r = (struct resolved){0};
}

/* ---- what is at hand ---------------------------------------------------------------------- */

static struct head *find_head(struct at_hand *a, const char *branch)
{
    for (size_t i = 0; i < a->n_heads; i++)
        if (strcmp(a->heads[i].branch, branch) == 0) return &a->heads[i];
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
static bool resolve_known(struct at_hand *a, const char *name, struct resolved *out)
{
    bool found = false;
    lock(a);
    for (size_t i = 0; i < a->n_heads && !found; i++) {
        const struct head *h = &a->heads[i];
        found = strcmp(h->branch, name) == 0 || strcmp(h->revision, name) == 0;
        if (found) resolve(out, h->revision, h->seq, h->digest, h->view);
    }
    for (size_t i = 0; i < CACHED_VIEWS && !found; i++) {
        struct cached_view *c = &a->cache[i];
        found = c->view && strcmp(c->revision, name) == 0;
        if (!found) continue;
        c->used = ++a->uses;
        resolve(out, c->revision, c->seq, c->digest, c->view);
    }
    unlock(a);
    return found;
}

/* The entry of that revision, or the one unused for longest. */
static struct cached_view *cache_place(struct at_hand *a, const char *revision)
{
    struct cached_view *oldest = &a->cache[0];
    for (size_t i = 0; i < CACHED_VIEWS; i++) {
        if (strcmp(a->cache[i].revision, revision) == 0) return &a->cache[i];
        if (a->cache[i].used < oldest->used) oldest = &a->cache[i];
    }
    return oldest;
}

static void cache(struct at_hand *a, const struct resolved *r)
{
    lock(a);
    struct cached_view *place = cache_place(a, r->revision);
    struct view *old = place->view;
    *place = (struct cached_view){.seq = r->seq, .view = view_retain(r->view), .used = ++a->uses};
    memcpy(place->revision, r->revision, sizeof place->revision);
    memcpy(place->digest, r->digest, sizeof place->digest);
    unlock(a);
    view_drop(old);
}

void served_forget(struct served *s)
{
    struct view *old[CACHED_VIEWS];
    lock(s->views);
    for (size_t i = 0; i < CACHED_VIEWS; i++) {
        old[i] = s->views->cache[i].view;
        s->views->cache[i] = (struct cached_view){0};
    }
    unlock(s->views);
    for (size_t i = 0; i < CACHED_VIEWS; i++) view_drop(old[i]);
}

/* What a rebuild holds: the tensors it changes, and while one is replaced its delta as read and as
 * parsed and the tensor before. The view it makes is counted by the budget from then on. */
static struct view *rebuild(struct served *s, struct ledger_reader *reader, const char *id, struct err *e)
{
    struct plan plan = {0};
    struct lease lease = {0};
    size_t changed = 0, largest = 0;
    if (!ledger_touched(reader, s->row.id, s->model, &changed, &largest, e)) return NULL;
    plan_add(&plan, NEED_DELTAS, plan_sum(changed, plan_times(3, largest)));
    bool ok = budget_take(s->budget, HOLDER_WORKS, &plan, &lease, e);
    if (!ok) {
        served_forget(s);
        ok = budget_take(s->budget, HOLDER_WORKS, &plan, &lease, e);
    }
    struct view *v = ok ? ledger_restore(reader, s->model, &s->digests, id, e) : NULL;
    lease_give(&lease);
    return v;
}

static bool resolve_revision(struct served *s, struct ledger_reader *reader, const char *id,
                             struct resolved *out, struct err *e)
{
    struct revision rev = {0};
    if (!reader) return err_set(e, ERR_NOT_FOUND, "%s is not at hand", id);
    if (!ledger_revision(reader, id, &rev, e)) return false;
    bool ok = strcmp(rev.model, s->row.id) == 0 ||
              err_field(e, ERR_INVALID, "view",
                        "revision %s is of another model than %s; `model` must name that one", id,
                        s->name);
    struct view *v = ok ? rebuild(s, reader, id, e) : NULL;
    if (v) {
        resolve(out, rev.id, rev.seq, rev.digest, v);
        view_drop(v);
        cache(s->views, out);
    } else if (ok) {
        (void)err_while(e, "resolving view %s", id);
    }
    revision_release(&rev);
    return v != NULL;
}

bool served_view(struct served *s, struct ledger_reader *reader, const char *name,
                 struct resolved *out, struct err *e)
{
    *out = (struct resolved){0};
    if (!name) name = "main";
    const char *wanted = strcmp(name, "base") == 0 ? s->row.base_revision : name;
    if (!resolve_known(s->views, wanted, out) && !resolve_revision(s, reader, wanted, out, e))
        return e->code == ERR_NOT_FOUND
                   ? err_field(e, ERR_NOT_FOUND, "view", "no branch or revision %s", name)
                   : false;
    (void)snprintf(out->model, sizeof out->model, "%s", s->name);
    (void)snprintf(out->model_id, sizeof out->model_id, "%s", s->row.id);
    (void)snprintf(out->name, sizeof out->name, "%s", name);
    return true;
}

bool served_head(struct served *s, const char *branch, char revision[ID_TEXT], int64_t *seq)
{
    if (strcmp(branch, "base") == 0) return false; /* kept among the heads, but it is no branch */
    lock(s->views);
    const struct head *h = find_head(s->views, branch);
    if (h) {
        memcpy(revision, h->revision, ID_TEXT);
        *seq = h->seq;
    }
    unlock(s->views);
    return h != NULL;
}

static struct head *add_head(struct at_hand *a, const char *branch)
{
    struct head *grown = mem_new((a->n_heads + 1) * sizeof *grown);
    if (a->n_heads) memcpy(grown, a->heads, a->n_heads * sizeof *grown);
    mem_drop(a->heads);
    a->heads = grown;
    struct head *h = &grown[a->n_heads++];
    (void)snprintf(h->branch, sizeof h->branch, "%s", branch);
    return h;
}

void served_publish(struct served *s, const struct revision *rev, struct view *view)
{
    struct at_hand *a = s->views;
    assert(view_model(view) == s->model);
    lock(a);
    struct head *h = find_head(a, rev->branch);
    if (!h) h = add_head(a, rev->branch);
    struct view *old = h->view;
    h->view = view_retain(view);
    h->seq = rev->seq;
    memcpy(h->revision, rev->id, sizeof h->revision);
    memcpy(h->digest, rev->digest, sizeof h->digest);
    unlock(a);
    view_drop(old);
}

/* ---- restoring ---------------------------------------------------------------------------- */

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

static bool restore_head(struct served *s, struct ledger_reader *reader, const struct revision *rev,
                         struct err *e)
{
    char revision[ID_TEXT];
    int64_t seq;
    if (served_head(s, rev->branch, revision, &seq) && strcmp(revision, rev->id) == 0) return true;
    struct view *v = rebuild(s, reader, rev->id, e);
    if (!v) return err_while(e, "restoring the head of branch %s", rev->branch);
    served_publish(s, rev, v);
    view_drop(v);
    return true;
}

/* The base stays at hand under its revision id, whatever the cache does: as the head of no branch
 * it would be restored again and again. */
static bool keep_base(struct served *s, struct ledger_reader *reader, struct err *e)
{
    struct revision rev = {0};
    if (!ledger_revision(reader, s->row.base_revision, &rev, e)) return false;
    (void)snprintf(rev.branch, sizeof rev.branch, "base"); /* no branch may be called so */
    struct view *v = view_base(s->model);
    served_publish(s, &rev, v);
    view_drop(v);
    revision_release(&rev);
    return true;
}

bool served_restore(struct served *s, struct ledger_reader *reader, struct err *e)
{
    struct heads_of h = {0};
    assert(s->row.id[0]);
    bool ok = keep_base(s, reader, e) && ledger_branches(reader, s->row.id, collect_head, &h, e);
    for (size_t i = 0; ok && i < h.n; i++) ok = restore_head(s, reader, &h.rev[i], e);
    mem_drop(h.rev);
    return ok;
}
