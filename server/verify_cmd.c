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

static bool print_report(const struct verify_report *r, struct err *e)
{
    struct buf b = {0};
    buf_printf(&b, "{\"ok\":%s,\"seq\":%" PRId64 ",\"rows\":%" PRId64 ",\"head\":\"%s\",",
               r->ok ? "true" : "false", r->seq, r->rows, r->head);
    buf_printf(&b, "\"checked\":{\"chain\":%" PRId64 ",\"objects\":%" PRId64 ",\"digests\":%" PRId64
               "},\"pruned\":%" PRId64, r->chain, r->objects, r->digests, r->pruned);
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

static bool verify(const struct config *c, struct model *m, struct verify_report *r, struct err *e)
{
    struct base_digests d = {0};
    if (m && !base_digests_init(&d, m, NULL, e)) return false;
    struct verifier *v = verifier_open(c->data, m, m ? &d : NULL, e);
    bool ok = v && check_all(v, e);
    if (ok) verifier_report(v, r);
    if (v) verifier_close(v);
    base_digests_release(&d);
    return ok;
}

int verify_main(const struct config *c)
{
    struct err e = {0};
    struct verify_report r = {0};
    struct model *m = NULL;
    bool ok = true;
    if (c->model) {
        ok = blas_start(config_threads(c), &e);
        m = ok ? model_open(c->model, NULL, NULL, NULL, &e) : NULL;
        ok = m != NULL;
    }
    ok = ok && verify(c, m, &r, &e) && print_report(&r, &e);
    model_drop(m);
    if (ok) return r.ok ? AGREES : DISAGREES;
    (void)fprintf(stderr, "engramd: %s\n", e.text);
    return UNREADABLE;
}
