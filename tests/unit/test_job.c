/* Jobs: every arrow of the drawing in server/job.h and every pair that is none, admission, events
 * and what an API caller sees. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "server/job.h"

static int frees, wakes;

static void free_work(struct work *w)
{
    frees++;
    mem_drop(w);
}

static _Atomic size_t answers; /* bytes of ended jobs */

static void wake(void *ctx)
{
    (void)ctx;
    wakes++;
}

static const struct work_ops slow = {.kind = "patch", .unit = "cells", .free = free_work};
static const struct work_ops brief = {.kind = "generate", .unit = "tokens", .brief = true,
                                      .free = free_work};

static struct job *admit(struct jobs *t, const struct work_ops *ops, const char *author,
                         const struct idempotency *key, bool limited, struct problem *p)
{
    static const struct idempotency none;
    struct work *w = mem_new(sizeof *w);
    bool existing = false;
    w->ops = ops;
    atomic_store(&w->total, 30);
    struct job_request r = {.work = w, .author = author, .key = key ? key : &none,
                            .share_limited = limited};
    struct job *j = jobs_admit(t, &r, &existing, p);
    if (!j || existing) mem_drop(w);
    return j;
}

static void end(struct job *j, enum job_state to, int status, const char *text)
{
    struct buf b = {0};
    buf_text(&b, text);
    (void)job_end(j, to, status, &b);
}

/* Bring a fresh job into a state by legal arrows. */
static struct job *job_in(struct jobs *t, enum job_state s)
{
    struct problem p;
    struct job *j = admit(t, &slow, "ann", NULL, false, &p);
    assert_non_null(j);
    bool runs = s == JOB_RUNNING || s == JOB_COMMITTING || s == JOB_DONE;
    if (runs) assert_true(job_begin(j));
    if (s == JOB_COMMITTING || s == JOB_DONE) job_commit(j);
    if (s == JOB_DONE) end(j, JOB_DONE, 200, "{}");
    if (s == JOB_FAILED) end(j, JOB_FAILED, 500, "{}");
    if (s == JOB_CANCELLED) end(j, JOB_CANCELLED, 409, "{}");
    assert_int_equal(job_state(j), s);
    return j;
}

/* What a reader of the stream gets to see. */
static enum events_state read_events(struct job *j, enum audience who, int64_t *after, struct buf *out)
{
    enum events_state s = job_events(j, who, after, out);
    if (s != EVENTS_BODY) return s;
    buf_put(out, j->body.data, j->body.len);
    buf_text(out, EVENT_CLOSE);
    return EVENTS_END;
}

static void arrows_are_those_of_the_drawing(void **state)
{
    (void)state;
    static const struct { enum job_state from, to; } drawn[] = {
        {JOB_QUEUED, JOB_RUNNING},     {JOB_QUEUED, JOB_CANCELLED}, {JOB_QUEUED, JOB_FAILED},
        {JOB_RUNNING, JOB_COMMITTING}, {JOB_RUNNING, JOB_CANCELLED}, {JOB_RUNNING, JOB_FAILED},
        {JOB_COMMITTING, JOB_DONE},    {JOB_COMMITTING, JOB_FAILED},
    };
    for (int from = 0; from < JOB_STATES; from++)
        for (int to = 0; to < JOB_STATES; to++) {
            bool legal = false;
            for (size_t i = 0; i < sizeof drawn / sizeof *drawn; i++)
                legal = legal || ((int)drawn[i].from == from && (int)drawn[i].to == to);
            assert_int_equal(job_may_move((enum job_state)from, (enum job_state)to), legal);
        }
}

static void ends_can_be_reached_by_every_legal_arrow(void **state)
{
    (void)state;
    struct jobs *t = jobs_new(wake, NULL, &answers);
    static const enum job_state live[] = {JOB_QUEUED, JOB_RUNNING, JOB_COMMITTING};
    int made = 0;
    frees = 0;
    for (size_t i = 0; i < 3; i++)
        for (int to = JOB_DONE; to < JOB_STATES; to++) {
            if (!job_may_move(live[i], (enum job_state)to)) continue;
            struct job *j = job_in(t, live[i]);
            end(j, (enum job_state)to, 200, "{\"x\":1}");
            assert_int_equal(job_state(j), to);
            assert_true(job_ended(j));
            assert_null(j->work);
            assert_int_equal(frees, ++made);
            job_drop(j);
        }
    assert_int_equal(made, 6);
    struct jobs_count n;
    jobs_count(t, &n);
    assert_int_equal(n.live[JOB_QUEUED] + n.live[JOB_RUNNING] + n.live[JOB_COMMITTING], 0);
    assert_int_equal(n.ended[JOB_DONE], 1);
    assert_int_equal(n.ended[JOB_FAILED], 3);
    assert_int_equal(n.ended[JOB_CANCELLED], 2);
    jobs_free(t);
}

static void a_cancelled_job_does_not_begin(void **state)
{
    (void)state;
    struct jobs *t = jobs_new(wake, NULL, &answers);
    struct job *j = job_in(t, JOB_CANCELLED);
    assert_false(job_begin(j));
    assert_int_equal(job_state(j), JOB_CANCELLED);
    job_drop(j);
    jobs_free(t);
}

static void admission_is_bounded(void **state)
{
    (void)state;
    struct jobs *t = jobs_new(wake, NULL, &answers);
    struct job *job[JOBS_LONG + JOBS_PER_TOKEN];
    struct problem p = {0};
    size_t n = 0;
    while ((job[n] = admit(t, &brief, "ann", NULL, true, &p))) n++;
    assert_int_equal(n, JOBS_PER_TOKEN);
    assert_int_equal(p.status, 429);
    static const char *const authors[] = {"bob", "cid", "dan", "eve"};
    for (size_t i = 0; i < 4; i++, n += JOBS_LONG_PER_TOKEN) {
        size_t mine = 0;
        while (n + mine < JOBS_LONG + JOBS_PER_TOKEN && (job[n + mine] = admit(t, &slow, authors[i], NULL, true, &p))) mine++;
        assert_int_equal(mine, JOBS_LONG_PER_TOKEN);
    }
    assert_int_equal(n, JOBS_LONG + JOBS_PER_TOKEN);
    assert_null(admit(t, &slow, "bob", NULL, true, &p));
    assert_int_equal(p.status, 429);
    assert_non_null(strstr(p.detail, "16 long jobs"));
    assert_null(admit(t, &slow, "fay", NULL, true, &p));
    assert_int_equal(p.status, 503);
    assert_true(p.retry_after_s > 0);
    struct job *other = admit(t, &brief, "bob", NULL, true, &p);
    assert_non_null(other); /* one caller's share does not take another's */
    end(job[n - 1], JOB_CANCELLED, 409, "{}");
    struct job *again = admit(t, &slow, "fay", NULL, true, &p);
    assert_non_null(again);
    end(other, JOB_FAILED, 500, "{}");
    end(again, JOB_FAILED, 500, "{}");
    job_drop(other);
    job_drop(again);
    for (size_t i = 0; i < n; i++) {
        if (i < n - 1) end(job[i], JOB_FAILED, 500, "{}");
        job_drop(job[i]);
    }
    jobs_free(t);
}

static void old_ends_are_forgotten(void **state)
{
    (void)state;
    struct jobs *t = jobs_new(wake, NULL, &answers);
    struct job *first = job_in(t, JOB_DONE), *live = job_in(t, JOB_RUNNING);
    char id[ID_TEXT];
    memcpy(id, first->id, sizeof id);
    struct job *seen = jobs_find(t, id);
    assert_ptr_equal(seen, first);
    job_drop(seen);
    job_drop(first);
    for (int i = 0; i < JOBS_ENDED; i++) job_drop(job_in(t, JOB_DONE));
    assert_null(jobs_find(t, id));
    seen = jobs_find(t, live->id);
    assert_ptr_equal(seen, live); /* never one that lives */
    job_drop(seen);
    end(live, JOB_FAILED, 500, "{}");
    job_drop(live);
    jobs_free(t);
}

static void a_key_finds_its_job_unless_it_may_be_tried_again(void **state)
{
    (void)state;
    struct jobs *t = jobs_new(wake, NULL, &answers);
    struct idempotency k = {.scope = "s", .key = "k"}, other = {.scope = "t", .key = "k"};
    struct problem p = {0};
    struct job *a = admit(t, &slow, "ann", &k, false, &p);
    struct job *b = admit(t, &slow, "ann", &k, false, &p);
    assert_ptr_equal(a, b);
    struct job *c = admit(t, &slow, "ann", &other, false, &p);
    assert_ptr_not_equal(a, c);
    end(a, JOB_FAILED, 503, "{}");
    assert_null(jobs_find_key(t, &k)); /* our failure: may be repeated */
    struct job *d = admit(t, &slow, "ann", &k, false, &p);
    assert_ptr_not_equal(a, d);
    end(d, JOB_FAILED, 422, "{}");
    struct job *e = jobs_find_key(t, &k);
    assert_ptr_equal(d, e); /* a refusal that would come again */
    end(c, JOB_CANCELLED, 409, "{}");
    assert_null(jobs_find_key(t, &other));
    struct job *all[] = {a, b, c, d, e};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) job_drop(all[i]);
    jobs_free(t);
}

static void bytes_count_as_long_as_somebody_holds_them(void **state)
{
    (void)state;
    struct jobs *t = jobs_new(wake, NULL, &answers);
    struct job *a = job_in(t, JOB_COMMITTING), *b = job_in(t, JOB_COMMITTING), *running = job_in(t, JOB_RUNNING);
    struct buf bytes = {0};
    buf_text(&bytes, "a hundred bytes and more, or so it may be thought of a file of numbers of some kind or other, packed");
    assert_int_equal(atomic_load(&answers), 0);
    job_set_bytes(a, "application/octet-stream", "", &bytes);
    end(a, JOB_DONE, 200, "{\"answer\":42}");
    size_t first = atomic_load(&answers);
    assert_true(first >= 100 + sizeof "{\"answer\":42}" - 1);
    end(b, JOB_DONE, 200, "{\"answer\":42}");
    assert_true(atomic_load(&answers) > first);
    job_drop(b);
    jobs_forget(t); /* memory is wanted: b goes at once, a when its reader has it */
    assert_int_equal(atomic_load(&answers), first);
    assert_null(jobs_find(t, a->id));
    assert_int_equal(job_state(running), JOB_RUNNING);
    job_drop(a);
    assert_int_equal(atomic_load(&answers), 0);
    end(running, JOB_FAILED, 500, "{}");
    job_drop(running);
    jobs_free(t);
    assert_int_equal(atomic_load(&answers), 0);
}

static int posted;
static void post(void *ctx)
{
    (void)ctx;
    posted++;
}

static void acceptance_is_asked_once_and_never_after_the_end(void **state)
{
    (void)state;
    struct jobs *t = jobs_new(wake, NULL, &answers);
    struct job *j = job_in(t, JOB_QUEUED);
    struct buf b = {0};
    posted = 0;
    assert_true(job_ask_accept(j, post, NULL));
    assert_false(job_ask_accept(j, post, NULL));
    assert_int_equal(posted, 1);
    assert_int_equal(job_end(j, JOB_FAILED, 500, &b), ACCEPT_ASKED);
    job_drop(j);
    j = job_in(t, JOB_DONE);
    assert_false(job_ask_accept(j, post, NULL));
    assert_int_equal(posted, 1);
    job_drop(j);
    jobs_free(t);
}

static void events_tell_the_whole_story(void **state)
{
    (void)state;
    struct jobs *t = jobs_new(wake, NULL, &answers);
    struct job *j = job_in(t, JOB_RUNNING);
    struct buf out = {0};
    int64_t after = job_events_begin(j);
    assert_int_equal(read_events(j, AUDIENCE_JOB, &after, &out), EVENTS_WROTE);
    assert_int_equal(read_events(j, AUDIENCE_JOB, &after, &out), EVENTS_WAIT);
    assert_false(job_has_events(j, after));
    atomic_store(&j->work->done, 3);
    job_progress(j, 10 * 1000 * 1000);
    atomic_store(&j->work->done, 4);
    job_progress(j, 10 * 1000 * 1000 + 1); /* too soon */
    assert_true(job_has_events(j, after));
    job_commit(j);
    end(j, JOB_DONE, 200, "{\"answer\":42}");
    assert_int_equal(read_events(j, AUDIENCE_JOB, &after, &out), EVENTS_END);
    assert_string_equal(out.data,
                        "id: 1\nevent: state\ndata: {\"state\":\"queued\"}\n\n"
                        "id: 2\nevent: state\ndata: {\"state\":\"running\"}\n\n"
                        "id: 3\nevent: progress\ndata: {\"done\":3,\"total\":30,\"unit\":\"cells\"}\n\n"
                        "id: 4\nevent: state\ndata: {\"state\":\"committing\"}\n\n"
                        "id: 5\nevent: state\ndata: {\"state\":\"done\"}\n\n"
                        "id: 6\nevent: result\ndata: {\"answer\":42}\n\n");
    assert_int_equal(read_events(j, AUDIENCE_JOB, &after, &out), EVENTS_END);
    out.len = 0;
    after = 4; /* Last-Event-ID */
    assert_int_equal(read_events(j, AUDIENCE_JOB, &after, &out), EVENTS_END);
    assert_non_null(strstr(out.data, "id: 5\n"));
    assert_null(strstr(out.data, "id: 4\n"));
    out.len = 0;
    after = 99;
    assert_int_equal(read_events(j, AUDIENCE_JOB, &after, &out), EVENTS_END);
    assert_non_null(strstr(out.data, "event: reset\n"));
    buf_release(&out);
    job_drop(j);
    jobs_free(t);
}

static void a_stream_hears_tokens_then_done(void **state)
{
    (void)state;
    struct jobs *t = jobs_new(wake, NULL, &answers);
    struct job *j = job_in(t, JOB_RUNNING);
    struct buf out = {0};
    int64_t after = 0;
    jobs_emit(t, j->id, "token", "{\"id\":1}");
    job_commit(j);
    end(j, JOB_DONE, 200, "{\"text\":\"x\"}");
    assert_int_equal(read_events(j, AUDIENCE_STREAM, &after, &out), EVENTS_END);
    assert_string_equal(out.data, "id: 3\nevent: token\ndata: {\"id\":1}\n\n"
                                  "id: 6\nevent: done\ndata: {\"text\":\"x\"}\n\n");
    buf_release(&out);
    job_drop(j);
    jobs_free(t);
}

static void a_slow_reader_is_reset(void **state)
{
    (void)state;
    struct jobs *t = jobs_new(wake, NULL, &answers);
    struct job *j = job_in(t, JOB_RUNNING);
    struct buf out = {0};
    int64_t after = 1;
    for (int i = 0; i < EVENTS_SHORT; i++) jobs_emit(t, j->id, "token", "{}");
    assert_true(job_has_events(j, after));
    assert_int_equal(read_events(j, AUDIENCE_JOB, &after, &out), EVENTS_END);
    assert_non_null(strstr(out.data, "event: reset\n"));
    buf_release(&out);
    end(j, JOB_FAILED, 500, "{}");
    job_drop(j);
    jobs_free(t);
}

static void the_api_shows_result_or_error(void **state)
{
    (void)state;
    struct jobs *t = jobs_new(wake, NULL, &answers);
    struct job *done = job_in(t, JOB_COMMITTING), *failed = job_in(t, JOB_RUNNING);
    struct buf out = {0};
    end(done, JOB_DONE, 200, "{\"answer\":42}");
    end(failed, JOB_FAILED, 422, "{\"status\":422}");
    job_write(done, false, &out);
    assert_non_null(strstr(out.data, "\"state\":\"done\""));
    assert_non_null(strstr(out.data, "\"progress\":{\"done\":0,\"total\":30,\"unit\":\"cells\"}"));
    assert_non_null(strstr(out.data, "\"result\":{\"answer\":42}}"));
    assert_null(strstr(out.data, "\"error\""));
    out.len = 0;
    job_write(failed, false, &out);
    assert_non_null(strstr(out.data, "\"error\":{\"status\":422}}"));
    out.len = 0;
    job_write(done, true, &out);
    assert_null(strstr(out.data, "\"result\""));
    struct job *last = jobs_last_done(t, "patch", "");
    assert_ptr_equal(last, done);
    assert_null(jobs_last_done(t, "edit", ""));
    buf_release(&out);
    job_drop(last);
    job_drop(done);
    job_drop(failed);
    jobs_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arrows_are_those_of_the_drawing),
        cmocka_unit_test(ends_can_be_reached_by_every_legal_arrow),
        cmocka_unit_test(a_cancelled_job_does_not_begin),
        cmocka_unit_test(admission_is_bounded),
        cmocka_unit_test(old_ends_are_forgotten),
        cmocka_unit_test(a_key_finds_its_job_unless_it_may_be_tried_again),
        cmocka_unit_test(bytes_count_as_long_as_somebody_holds_them),
        cmocka_unit_test(acceptance_is_asked_once_and_never_after_the_end),
        cmocka_unit_test(events_tell_the_whole_story),
        cmocka_unit_test(a_stream_hears_tokens_then_done),
        cmocka_unit_test(a_slow_reader_is_reset),
        cmocka_unit_test(the_api_shows_result_or_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
