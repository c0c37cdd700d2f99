#include "saes.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "core/file/infile.h"
#include "ledger/sha.h"

/* ---- one ----------------------------------------------------------------------------------------- */

static bool read_cfg(struct loaded_sae *s, const char *path, struct sae_cfg *cfg, struct err *e)
{
    enum { MOST_BYTES = 1 << 20 };
    uint8_t hash[SHA256_BYTES];
    size_t len;
    char *text = infile_whole(path, MOST_BYTES, &len, e);
    if (!text) return err_while(e, "reading %s", path);
    sha256(text, len, hash);
    digest_text(hash, s->cfg_digest);
    bool ok = sae_cfg_read(text, len, cfg, e);
    mem_drop(text);
    return ok;
}

static bool find_site(struct loaded_sae *s, const struct sae_cfg *cfg, const struct arch *a, const char *site, struct err *e)
{
    if (sae_site(cfg, a, site, &s->site, e)) return true;
    if (site) (void)snprintf(e->field, sizeof e->field, "site");
    return false;
}

/* Memory is asked for as soon as the description says how much. */
static bool read_weights(struct loaded_sae *s, const char *path, const struct sae_cfg *cfg, struct budget *budget, struct err *e)
{
    const struct plan plan = {.bytes[NEED_WEIGHTS] = sae_bytes(cfg)};
    uint8_t hash[SHA256_BYTES];
    if (!budget_take(budget, HOLDER_MODELS, &plan, &s->memory, e)) return err_while(e, "loading %s", path);
    if (!sha_file(path, hash, e)) return false;
    digest_text(hash, s->digest);
    s->sae = sae_read(cfg, path, e);
    return s->sae != NULL;
}

struct loaded_sae *loaded_sae_open(const char *folder, const char *name, const struct arch *a, const char *site,
                                   struct budget *budget, struct err *e)
{
    struct loaded_sae *s = mem_new(sizeof *s);
    struct buf cfg_path = {0}, path = {0};
    struct sae_cfg cfg;
    (void)snprintf(s->name, sizeof s->name, "%s", name);
    atomic_init(&s->references, 1);
    buf_printf(&cfg_path, "%s/cfg.json", folder);
    buf_printf(&path, "%s/sae_weights.safetensors", folder);
    bool ok = buf_ok(&cfg_path, e) && buf_ok(&path, e) && read_cfg(s, cfg_path.data, &cfg, e) &&
              find_site(s, &cfg, a, site, e) && read_weights(s, path.data, &cfg, budget, e);
    buf_release(&cfg_path);
    buf_release(&path);
    if (ok) return s;
    loaded_sae_drop(s);
    return NULL;
}

struct loaded_sae *loaded_sae_retain(struct loaded_sae *s)
{
    atomic_fetch_add(&s->references, 1);
    return s;
}

void loaded_sae_drop(struct loaded_sae *s)
{
    if (!s || atomic_fetch_sub(&s->references, 1) != 1) return;
    sae_free(s->sae);
    lease_give(&s->memory);
    mem_drop(s);
}

/* ---- the list ------------------------------------------------------------------------------------ */

struct saes {
    pthread_mutex_t lock;
    struct loaded_sae *at[SAES_MOST];
    size_t n;
};

static void lock(struct saes *l) { (void)pthread_mutex_lock(&l->lock); }
static void unlock(struct saes *l) { (void)pthread_mutex_unlock(&l->lock); }

struct saes *saes_new(void)
{
    struct saes *l = mem_new(sizeof *l);
    (void)pthread_mutex_init(&l->lock, NULL);
    return l;
}

void saes_free(struct saes *l)
{
    for (size_t i = 0; i < l->n; i++) loaded_sae_drop(l->at[i]);
    (void)pthread_mutex_destroy(&l->lock);
    mem_drop(l);
}

static size_t place_of(const struct saes *l, const char *name)
{
    size_t i = 0;
    while (i < l->n && strcmp(l->at[i]->name, name) != 0) i++;
    return i;
}

static bool may_add(const struct saes *l, const char *name, struct err *e)
{
    if (place_of(l, name) < l->n) return err_field(e, ERR_CONFLICT, "name", "there is an autoencoder \"%s\" already", name);
    return l->n < SAES_MOST || err_field(e, ERR_CONFLICT, "name", "%d autoencoders of a model at most", SAES_MOST);
}

bool saes_may_add(struct saes *l, const char *name, struct err *e)
{
    lock(l);
    bool ok = may_add(l, name, e);
    unlock(l);
    return ok;
}

bool saes_add(struct saes *l, struct loaded_sae *s, struct err *e)
{
    lock(l);
    bool ok = may_add(l, s->name, e);
    if (ok) l->at[l->n++] = loaded_sae_retain(s);
    unlock(l);
    return ok;
}

static bool refuse_unknown(const struct saes *l, const char *name, struct err *e)
{
    struct buf names = {0};
    for (size_t i = 0; i < l->n; i++) buf_printf(&names, "%s%s", i ? ", " : "", l->at[i]->name);
    (void)err_set(e, ERR_NOT_FOUND, "no autoencoder %.64s; loaded: %.400s", name, names.data ? names.data : "none");
    buf_release(&names);
    return false;
}

bool saes_remove(struct saes *l, const char *name, struct err *e)
{
    lock(l);
    size_t i = place_of(l, name);
    struct loaded_sae *s = i < l->n ? l->at[i] : NULL;
    if (s) memmove(l->at + i, l->at + i + 1, (--l->n - i) * sizeof(struct loaded_sae *));
    else (void)refuse_unknown(l, name, e);
    unlock(l);
    loaded_sae_drop(s);
    return s != NULL;
}

struct loaded_sae *saes_find(struct saes *l, const char *name, struct err *e)
{
    lock(l);
    size_t i = place_of(l, name);
    struct loaded_sae *s = i < l->n ? loaded_sae_retain(l->at[i]) : NULL;
    if (!s) (void)refuse_unknown(l, name, e);
    unlock(l);
    return s;
}

size_t saes_list(struct saes *l, struct loaded_sae *out[SAES_MOST])
{
    lock(l);
    size_t n = l->n;
    for (size_t i = 0; i < n; i++) out[i] = loaded_sae_retain(l->at[i]);
    unlock(l);
    return n;
}
