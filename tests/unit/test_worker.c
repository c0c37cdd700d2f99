/* The worker by itself: two works that step in turn on one session, and nothing of a daemon around them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
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

static int start(void **state)
{
    static struct daemon d;
    static _Atomic size_t answers;
    struct err e = {0};
    d = (struct daemon){.threads = 1, .jobs = jobs_new(wake, NULL, &answers), .metrics = metrics_new(routes, n_routes)};
    d.worker = worker_start(&d, &e);
    assert_non_null(d.worker);
    *state = &d;
    return 0;
}

static int stop(void **state)
{
    struct daemon *d = *state;
    worker_stop(d->worker);
    jobs_free(d->jobs);
    metrics_free(d->metrics);
    return 0;
}

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
    struct daemon *d = *state;
    struct job *a = submit(d, &slow);
    while (!atomic_load(&long_runs)) (void)usleep(1000);
    struct job *b = submit(d, &brief);
    atomic_store(&brief_comes, true);
    await(b);
    await(a);
    assert_int_equal(brief_found, 0);
    assert_int_equal(long_found, 0);
}

enum { ENDLESS_STEPS = 1000, LONG_STEPS = 5, STEP_US = 5000 };

static atomic_bool enough;
static _Atomic int64_t endless_done, endless_seen[LONG_STEPS];

/* Gives up after some seconds, so that the test fails instead of hanging. */
static enum step endless_step(struct work *w, struct session *s, struct err *e)
{
    (void)s, (void)e;
    (void)usleep(STEP_US);
    atomic_store(&endless_done, ++w->done);
    return atomic_load(&enough) || w->done == ENDLESS_STEPS ? STEP_DONE : STEP_MORE;
}

static enum step looking_step(struct work *w, struct session *s, struct err *e)
{
    (void)s, (void)e;
    (void)usleep(STEP_US);
    atomic_store(&endless_seen[w->done++], atomic_load(&endless_done));
    return w->done < LONG_STEPS ? STEP_MORE : STEP_DONE;
}

static const struct work_ops endless = {.kind = "endless", .unit = "steps", .brief = true, .step = endless_step,
                                        .finish = finish, .free = free_work};
static const struct work_ops looking = {.kind = "looking", .unit = "steps", .step = looking_step, .finish = finish,
                                        .free = free_work};

/* A brief work that has turned out long has the thread; a long one comes: both go on. */
static void a_long_work_begins_beside_an_endless_brief_one(void **state)
{
    struct daemon *d = *state;
    struct job *a = submit(d, &endless);
    while (atomic_load(&endless_done) < 2) (void)usleep(1000);
    struct job *b = submit(d, &looking), *c = submit(d, &looking);
    await(b);
    await(c);
    assert_int_equal(job_state(a), JOB_RUNNING);
    assert_true(atomic_load(&endless_seen[LONG_STEPS - 1]) > atomic_load(&endless_seen[0]));
    atomic_store(&enough, true);
    await(a);
    assert_true(atomic_load(&endless_done) < ENDLESS_STEPS);
}

static bool half(struct work *w, struct buf *out)
{
    buf_printf(out, "{\"seen\":%d}", w->done > 0);
    return true;
}

static const struct work_ops halved = {.kind = "halved", .unit = "steps", .step = endless_step, .finish = finish,
                                       .partial = half, .free = free_work};

/* Cancelled between two steps it says what there is so far. */
static void a_cancelled_work_leaves_what_it_has(void **state)
{
    struct daemon *d = *state;
    atomic_store(&enough, false);
    atomic_store(&endless_done, 0);
    struct job *j = submit(d, &halved);
    while (atomic_load(&endless_done) < 2) (void)usleep(1000);
    assert_true(worker_cancel(d->worker, j));
    while (!job_ended(j)) (void)usleep(1000);
    assert_int_equal(job_state(j), JOB_CANCELLED);
    assert_non_null(strstr(j->body.data, "\"partial\":{\"seen\":1}}"));
    assert_true(atomic_load(&endless_done) < ENDLESS_STEPS);
    job_drop(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(scratch_does_not_outlive_a_turn, start, stop),
        cmocka_unit_test_setup_teardown(a_long_work_begins_beside_an_endless_brief_one, start, stop),
        cmocka_unit_test_setup_teardown(a_cancelled_work_leaves_what_it_has, start, stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
