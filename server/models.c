#include "models.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

struct models {
    pthread_mutex_t lock;
    struct served *served[MODELS_MOST];
    size_t n;
};

static void lock(struct models *m) { (void)pthread_mutex_lock(&m->lock); }
static void unlock(struct models *m) { (void)pthread_mutex_unlock(&m->lock); }

struct models *models_new(void)
{
    struct models *m = mem_new(sizeof *m);
    (void)pthread_mutex_init(&m->lock, NULL);
    return m;
}

void models_free(struct models *m)
{
    if (!m) return;
    for (size_t i = 0; i < m->n; i++) served_drop(m->served[i]);
    (void)pthread_mutex_destroy(&m->lock);
    mem_drop(m);
}

/* ---- finding (lock held) ------------------------------------------------------------------ */

static struct served *by_name(struct models *m, const char *name)
{
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->served[i]->name, name) == 0) return m->served[i];
    return NULL;
}

static struct served *by_base(struct models *m, const char *base_digest)
{
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->served[i]->digests.base, base_digest) == 0) return m->served[i];
    return NULL;
}

static struct served *by_row(struct models *m, const char *id)
{
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->served[i]->row.id, id) == 0) return m->served[i];
    return NULL;
}

static bool not_served(struct models *m, const char *name, struct err *e)
{
    if (!m->n) return err_field(e, ERR_NOT_FOUND, "model", "no model is loaded");
    struct buf names = {0};
    for (size_t i = 0; i < m->n; i++) buf_printf(&names, "%s\"%s\"", i ? ", " : "", m->served[i]->name);
    (void)err_field(e, ERR_NOT_FOUND, "model", "no model of the name \"%.100s\"; served here: %s", name,
                    names.failed ? "" : names.data);
    buf_release(&names);
    return false;
}

static struct served *find(struct models *m, const char *name, struct err *e)
{
    struct served *s = name ? by_name(m, name) : m->n ? m->served[0] : NULL;
    if (!s && name) s = by_row(m, name);
    if (!s) (void)not_served(m, name ? name : "", e);
    return s;
}

static bool may_add(struct models *m, const char *name, const char *base_digest, struct err *e)
{
    if (by_name(m, name))
        return err_field(e, ERR_CONFLICT, "name", "a model of the name \"%s\" is served already", name);
    const struct served *other = base_digest ? by_base(m, base_digest) : NULL;
    if (other)
        return err_field(e, ERR_CONFLICT, "path", "this base is served already, as \"%s\"; one base has one history",
                         other->name);
    return m->n < MODELS_MOST || err_set(e, ERR_CONFLICT, "%d models are served, which is the most", MODELS_MOST);
}

/* ---- from outside ------------------------------------------------------------------------- */

bool models_may_add(struct models *m, const char *name, const char *base_digest, struct err *e)
{
    lock(m);
    bool ok = may_add(m, name, base_digest, e);
    unlock(m);
    return ok;
}

bool models_add(struct models *m, struct served *s, struct err *e)
{
    lock(m);
    bool ok = may_add(m, s->name, s->digests.base, e);
    if (ok) m->served[m->n++] = served_retain(s);
    unlock(m);
    return ok;
}

bool models_remove(struct models *m, const char *name, char first[NAME_TEXT], struct err *e)
{
    lock(m);
    struct served *s = find(m, name, e);
    size_t i = 0;
    while (s && m->served[i] != s) i++;
    if (s) {
        m->n--;
        memmove(&m->served[i], &m->served[i + 1], (m->n - i) * sizeof *m->served);
    }
    (void)snprintf(first, NAME_TEXT, "%s", m->n ? m->served[0]->name : "");
    unlock(m);
    served_drop(s); /* may free a large model: not under the lock */
    return s != NULL;
}

struct served *models_find(struct models *m, const char *name, struct err *e)
{
    lock(m);
    struct served *s = find(m, name, e);
    if (s) (void)served_retain(s);
    unlock(m);
    return s;
}

struct served *models_find_row(struct models *m, const char *model_id)
{
    lock(m);
    struct served *s = by_row(m, model_id);
    if (s) (void)served_retain(s);
    unlock(m);
    return s;
}

bool models_is_current(struct models *m, const struct served *s)
{
    lock(m);
    const struct served *now = by_base(m, s->digests.base);
    unlock(m);
    return !now || now == s;
}

size_t models_count(struct models *m)
{
    lock(m);
    size_t n = m->n;
    unlock(m);
    return n;
}

size_t models_list(struct models *m, struct served *out[MODELS_MOST])
{
    lock(m);
    size_t n = m->n;
    for (size_t i = 0; i < n; i++) out[i] = served_retain(m->served[i]);
    unlock(m);
    return n;
}
