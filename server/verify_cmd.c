#include "verify_cmd.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "clock.h"
#include "core/kernel/blas.h"
#include "ledger/ledger.h"
#include "quote.h"

enum { AGREES = 0, DISAGREES = 1, UNREADABLE = 2 };

static void show_progress(const struct verifier *v, int64_t *shown_us)
{
    int64_t now = monotonic_us(), done = 0, total = 0;
    if (now - *shown_us < US_PER_S / 5) return;
    *shown_us = now;
    verifier_progress(v, &done, &total);
    (void)fprintf(stderr, "\rverifying %" PRId64 " of %" PRId64, done, total);
}

static bool check_all(struct verifier *v, struct err *e)
{
    bool more = true, terminal = isatty(STDERR_FILENO);
    int64_t shown_us = 0;
    while (more) {
        if (!verifier_step(v, &more, e)) return false;
        if (terminal) show_progress(v, &shown_us);
    }
    if (terminal) (void)fprintf(stderr, "\r\033[K");
    return true;
}

struct loaded {
    struct model *model;
    struct base_digests digests;
    char name[CONFIG_NAME];
};

static void put_replayed(struct buf *b, const struct loaded *l, size_t n)
{
    buf_text(b, ",\"replayed\":[");
    for (size_t i = 0; i < n; i++) {
        if (i) buf_text(b, ",");
        quote(b, l[i].name[0] ? l[i].name : l[i].model->name);
    }
    buf_text(b, "]");
    if (!n) buf_text(b, ",\"hint\":\"no revision was rebuilt from its model; --model PATH replays those of one\"");
}

static bool print_report(const struct verify_report *r, const struct loaded *l, size_t n, struct err *e)
{
    struct buf b = {0};
    buf_printf(&b, "{\"ok\":%s,\"seq\":%" PRId64 ",\"rows\":%" PRId64 ",\"head\":\"%s\",",
               r->ok ? "true" : "false", r->seq, r->rows, r->head);
    buf_printf(&b, "\"checked\":{\"chain\":%" PRId64 ",\"objects\":%" PRId64 ",\"digests\":%" PRId64
               "},\"pruned\":%" PRId64, r->chain, r->objects, r->digests, r->pruned);
    put_replayed(&b, l, n);
    if (!r->ok) {
        buf_text(&b, ",\"problem\":");
        quote(&b, r->problem);
    }
    buf_text(&b, "}");
    bool ok = buf_ok(&b, e);
    if (ok) ok = puts(b.data) >= 0 || err_set(e, ERR_IO, "stdout cannot be written");
    buf_release(&b);
    return ok;
}

static bool load(struct loaded *l, const char *option, struct err *e)
{
    const char *path = config_model(option, l->name, e);
    l->model = path ? model_open(path, NULL, NULL, NULL, e) : NULL;
    return l->model && base_digests_init(&l->digests, l->model, NULL, e);
}

static bool verify(const char *dir, const struct loaded *l, size_t n, struct verify_report *r, struct err *e)
{
    struct verify_base *bases = mem_new((n + 1) * sizeof *bases);
    for (size_t i = 0; i < n; i++) bases[i] = (struct verify_base){l[i].model, &l[i].digests};
    struct verifier *v = verifier_open(dir, bases, n, e);
    bool ok = v && check_all(v, e);
    if (ok) verifier_report(v, r);
    if (v) verifier_close(v);
    mem_drop(bases);
    return ok;
}

int verify_main(const struct config *c)
{
    struct err e = {0};
    struct verify_report r = {0};
    size_t n = c->models.n;
    struct loaded *l = mem_new((n + 1) * sizeof *l);
    bool ok = !n || blas_start(config_threads(c), &e);
    for (size_t i = 0; ok && i < n; i++) ok = load(&l[i], c->models.value[i], &e);
    ok = ok && verify(c->data, l, n, &r, &e) && print_report(&r, l, n, &e);
    for (size_t i = 0; i < n; i++) {
        base_digests_release(&l[i].digests);
        model_drop(l[i].model);
    }
    mem_drop(l);
    if (ok) return r.ok ? AGREES : DISAGREES;
    (void)fprintf(stderr, "engramd: %s\n", e.text);
    return UNREADABLE;
}
