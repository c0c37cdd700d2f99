/* The worker by itself: two works that step in turn on one session, and nothing of a daemon around them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/session.h"
#include "server/daemon_int.h"

enum { LONG_FLOATS = 5000, BRIEF_FLOATS = 90000 };

static atomic_bool brief_comes, long_runs;
static size_t brief_found, long_found;

static void wake(void *ctx) { (void)ctx; }

static void free_work(struct work *w) { mem_drop(w); }

static bool finish(struct work *w, struct outcome *o, struct err *e)
{
    (void)w, (void)e;
    buf_text(&o->body, "{}");
    return true;
}

/* The first step takes scratch and waits until a brief work stands in the queue; the second looks. */
static enum step long_step(struct work *w, struct session *s, struct err *e)
{
    long_found = s->rows.floats;
    if (w->done++) return STEP_DONE;
    assert_non_null(session_scratch(s, LONG_FLOATS, e));
    atomic_store(&long_runs, true);
    while (!atomic_load(&brief_comes)) (void)usleep(1000);
    return STEP_MORE;
}

static enum step brief_step(struct work *w, struct session *s, struct err *e)
{
    (void)w;
    brief_found = s->rows.floats;
    return session_scratch(s, BRIEF_FLOATS, e) ? STEP_DONE : STEP_FAIL;
}

static const struct work_ops slow = {.kind = "long", .unit = "steps", .step = long_step, .finish = finish, .free = free_work};
static const struct work_ops brief = {.kind = "brief", .unit = "steps", .brief = true, .step = brief_step, .finish = finish,
                                      .free = free_work};

static struct job *submit(struct daemon *d, const struct work_ops *ops)
{
    static const struct idempotency none;
    struct problem p;
    bool existing;
    struct work *w = mem_new(sizeof *w);
    *w = (struct work){.ops = ops, .daemon = d};
    struct job_request r = {.work = w, .author = "ann", .key = &none};
    struct job *j = jobs_admit(d->jobs, &r, &existing, &p);
    assert_non_null(j);
    worker_submit(d->worker, j);
    return j;
}

static void await(struct job *j)
{
    while (!job_ended(j)) (void)usleep(1000);
    assert_int_equal(job_state(j), JOB_DONE);
    job_drop(j);
}

/* Plans count the scratch of one work at a time: none finds another's, or its own of an earlier turn. */
static void scratch_does_not_outlive_a_turn(void **state)
{
    (void)state;
    _Atomic size_t answers = 0;
    struct err e = {0};
    struct daemon d = {.threads = 1, .jobs = jobs_new(wake, NULL, &answers), .metrics = metrics_new(routes, n_routes)};
    d.worker = worker_start(&d, &e);
    assert_non_null(d.worker);
    struct job *a = submit(&d, &slow);
    while (!atomic_load(&long_runs)) (void)usleep(1000);
    struct job *b = submit(&d, &brief);
    atomic_store(&brief_comes, true);
    await(b);
    await(a);
    assert_int_equal(brief_found, 0);
    assert_int_equal(long_found, 0);
    worker_stop(d.worker);
    jobs_free(d.jobs);
    metrics_free(d.metrics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scratch_does_not_outlive_a_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
