/* What the ledger keeps beside the history of weights: answers under idempotency keys, runs, jobs. */
#include "ledger_fixture.h"

#include "core/base/json.h"
#include "ledger/store.h"

/* ---- answers kept ---------------------------------------------------------------------------- */

static struct idempotency a_key(const char *name, uint8_t request)
{
    struct idempotency k;
    memset(&k, 0, sizeof k);
    (void)snprintf(k.scope, sizeof k.scope, "tester POST /v1/edits");
    (void)snprintf(k.key, sizeof k.key, "%s", name);
    memset(k.request, request, sizeof k.request);
    return k;
}

static int answered(struct fixture *x, const struct idempotency *k, struct buf *out)
{
    struct err err;
    char job[ID_TEXT];
    int status;
    out->len = 0;
    must(ledger_answered(x->r, k, &status, out, job, &err));
    return status;
}

static void test_a_key_is_answered_once(void **state)
{
    struct fixture x;
    struct err err;
    struct edit d, again;
    struct revision rev;
    struct buf answer = {0}, kept = {0};
    struct idempotency k = a_key("k1", 1), other = a_key("k1", 2);
    char job[ID_TEXT];
    int status;
    (void)state;
    fx_open(&x);
    assert_int_equal(answered(&x, &k, &kept), 0);
    fx_prepare(&x, &d, fx_tensor(x.m, 0), 1, 1);
    d.c.key = k;
    must(ledger_commit(x.l, &d.c, &rev, &answer, &err));
    fx_move(&x, &rev, d.after);
    assert_int_equal(answered(&x, &k, &kept), 201);
    assert_string_equal(kept.data, answer.data);
    must_fail(ledger_answered(x.r, &other, &status, &kept, job, &err), ERR_CONFLICT);
    assert_string_equal(err.field, "Idempotency-Key");

    fx_prepare(&x, &again, fx_tensor(x.m, 1), 1, 2);
    again.c.key = k;
    fx_refuse(&x, &again, ERR_CONFLICT); /* done once, even by a caller that did not ask first */
    again.c.key = other;
    fx_refuse(&x, &again, ERR_CONFLICT);

    fx_reopen(&x);
    assert_int_equal(answered(&x, &k, &kept), 201);
    must(db_script(x.l->s.db, "UPDATE answer SET created_us = created_us - 7 * 86400000000", &err));
    assert_int_equal(answered(&x, &k, &kept), 0); /* after seven days */
    again.c.expected_head = x.head.id;
    buf_release(&answer);
    must(ledger_commit(x.l, &again.c, &rev, &answer, &err));
    fx_move(&x, &rev, again.after);
    assert_int_equal(fx_scalar(&x, "SELECT count(*) FROM answer"), 1);
    fx_drop_edit(&d);
    fx_drop_edit(&again);
    buf_release(&answer);
    buf_release(&kept);
    fx_sound(&x);
    fx_close(&x);
}

static void test_failures_of_ours_are_not_kept(void **state)
{
    struct fixture x;
    struct err err;
    struct buf kept = {0};
    struct idempotency k = a_key("k", 1);
    char job[ID_TEXT];
    (void)state;
    fx_open(&x);
    static const struct {
        const char *state;
        int status;
        const char *result;
        int want;
    } ends[] = {
        {"failed", 507, "{\"type\":\"x\",\"status\":507}", 0},
        {"failed", 409, "{\"type\":\"branch-moved\",\"status\":409}", 409},
        {"cancelled", 409, "{\"type\":\"cancelled\",\"status\":409}", 0},
        {"done", 200, "{\"ok\":true}", 200},
        {"done", 201, "{\"ok\":true}", 201},
        {"done", 0, "{\"ok\":true}", 0},
    };
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        (void)snprintf(k.key, sizeof k.key, "k%zu", i);
        ledger_new_id("job", job);
        must(ledger_job_accept(x.l, job, "edit", x.row.id, "tester", &k, &err));
        assert_int_equal(answered(&x, &k, &kept), 202);
        must(ledger_job_end(x.l, job, ends[i].state, ends[i].status, ends[i].result, &err));
        assert_int_equal(answered(&x, &k, &kept), ends[i].want);
    }
    buf_release(&kept);
    fx_close(&x);
}

/* ---- runs ------------------------------------------------------------------------------------ */

static void count_run(void *ctx, const struct run_row *row)
{
    assert_null(row->result);
    ++*(int *)ctx;
}

static int count_runs(struct fixture *x, const char *kind, const char *view, int64_t before)
{
    struct err err;
    int n = 0;
    must(ledger_runs(x->r, x->row.id, kind, view, 100, before, count_run, &n, &err));
    return n;
}

static void test_runs_are_found_and_answer_again(void **state)
{
    struct fixture x;
    struct err err;
    struct run_row run;
    bool found;
    char first[ID_TEXT], second[ID_TEXT], other[ID_TEXT];
    uint8_t key[SHA256_BYTES], none[SHA256_BYTES] = {0};
    (void)state;
    fx_open(&x);
    fx_look(&x, "{\"a\":1}", 9, first);
    fx_look(&x, "{\"a\":2}", 9, second);
    fx_look(&x, "{\"a\":3}", 0, other);
    memset(key, 9, sizeof key);
    must(ledger_cached(x.r, key, &run, &found, &err));
    assert_true(found);
    assert_string_equal(run.id, second);
    assert_string_equal(run.result, "{\"a\":2}");
    assert_string_equal(run.author, "tester");
    int64_t second_entry = run.chain_seq;
    run_row_release(&run);
    memset(key, 8, sizeof key);
    must(ledger_cached(x.r, key, &run, &found, &err));
    assert_false(found);
    must(ledger_cached(x.r, none, &run, &found, &err));
    assert_false(found);
    must(ledger_run(x.r, other, &run, &err));
    assert_string_equal(run.revision, x.head.id);
    uint8_t hash[SHA256_BYTES];
    char text[DIGEST_TEXT];
    sha256("{\"a\":3}", 7, hash);
    digest_text(hash, text);
    assert_string_equal(run.result_hash, text);
    run_row_release(&run);
    must_fail(ledger_run(x.r, "run_none", &run, &err), ERR_NOT_FOUND);

    fx_edit(&x, 1);
    assert_int_equal(count_runs(&x, NULL, NULL, 0), 4);
    assert_int_equal(count_runs(&x, "trace", NULL, 0), 3);
    assert_int_equal(count_runs(&x, "edit", NULL, 0), 1);
    assert_int_equal(count_runs(&x, "trace", TINY_DIGEST, 0), 3);
    assert_int_equal(count_runs(&x, NULL, x.head.id, 0), 0);
    assert_int_equal(count_runs(&x, NULL, NULL, second_entry), 1);
    fx_sound(&x);
    fx_close(&x);
}

static void test_pruned_is_not_broken(void **state)
{
    struct fixture x;
    struct err err;
    struct run_row run;
    struct verify_report report;
    char id[ID_TEXT], edit_hash[DIGEST_TEXT], delta_hash[DIGEST_TEXT];
    uint8_t hash[SHA256_BYTES], key[SHA256_BYTES];
    bool found;
    (void)state;
    fx_open(&x);
    fx_edit(&x, 1);
    char *large = mem_new(BODY_INLINE + 100);
    memset(large, 'x', BODY_INLINE + 50);
    fx_look(&x, large, 9, id); /* a result that is a file */
    must(ledger_run(x.r, id, &run, &err));
    assert_string_equal(run.result, large);
    memcpy(edit_hash, run.result_hash, sizeof edit_hash);
    run_row_release(&run);
    must(ledger_prune_body(x.l, edit_hash, "admin", "old", &err));
    must(ledger_run(x.r, id, &run, &err));
    assert_null(run.result);
    assert_string_equal(run.request, "{\"inputs\":[\"private\"]}");
    run_row_release(&run);
    memset(key, 9, sizeof key);
    must(ledger_cached(x.r, key, &run, &found, &err));
    assert_false(found);
    must_fail(ledger_prune_body(x.l, edit_hash, "admin", "again", &err), ERR_NOT_FOUND);
    must_fail(ledger_prune_body(x.l, TINY_DIGEST, "admin", "none", &err), ERR_NOT_FOUND);
    struct buf bytes = {0};
    must(ledger_delta(x.r, x.head.delta, &bytes, NULL, &err));
    sha256(bytes.data, bytes.len, hash);
    digest_text(hash, delta_hash);
    must_fail(ledger_prune_body(x.l, delta_hash, "admin", "weights", &err), ERR_CONFLICT);
    buf_release(&bytes);
    report = fx_verify(&x, true);
    assert_string_equal(report.problem, "");
    assert_int_equal(report.pruned, 1);
    fx_look(&x, large, 9, id); /* said again: kept again */
    must(ledger_cached(x.r, key, &run, &found, &err));
    assert_true(found);
    run_row_release(&run);
    fx_sound(&x);
    mem_drop(large);
    fx_close(&x);
}

/* ---- jobs ------------------------------------------------------------------------------------ */

static void expect_job(struct fixture *x, const char *id, const char *want, const char *in_result)
{
    struct err err;
    struct job_row job;
    must(ledger_job(x->r, id, &job, &err));
    assert_string_equal(job.state, want);
    assert_string_equal(job.model, x->row.id);
    if (in_result)
        assert_non_null(strstr(job.result, in_result));
    else
        assert_null(job.result);
    job_row_release(&job);
}

static void test_jobs_survive_a_restart_as_what_they_were(void **state)
{
    struct fixture x;
    struct err err;
    struct edit d;
    struct revision rev;
    struct job_row none;
    struct buf answer = {0}, kept = {0};
    struct idempotency lost_key = a_key("lost", 1), done_key = a_key("done", 1);
    static const char lost[] = "job_lost", committed[] = "job_committed", ended[] = "job_ended";
    int n = 0;
    (void)state;
    fx_open(&x);
    must(ledger_job_accept(x.l, lost, "edit", x.row.id, "tester", &lost_key, &err));
    must(ledger_job_accept(x.l, committed, "edit", x.row.id, "tester", &done_key, &err));
    must(ledger_job_accept(x.l, ended, "trace", x.row.id, "tester", NULL, &err));
    expect_job(&x, lost, "queued", NULL);
    must_fail(ledger_job_accept(x.l, "job_twin", "edit", x.row.id, "tester", &lost_key, &err),
              ERR_CONFLICT);

    must(ledger_job_end(x.l, ended, "failed", 400, "{\"type\":\"invalid\",\"status\":400}", &err));
    fx_prepare(&x, &d, fx_tensor(x.m, 0), 1, 1);
    d.c.job_id = committed;
    d.c.key = done_key;
    must(ledger_commit(x.l, &d.c, &rev, &answer, &err));
    fx_move(&x, &rev, d.after);
    must(ledger_job_end(x.l, committed, "cancelled", 409, NULL, &err)); /* too late: it is done */

    fx_reopen(&x);
    must(ledger_jobs_recover(x.l, &err));
    expect_job(&x, lost, "failed", "\"type\":\"interrupted\"");
    expect_job(&x, committed, "done", answer.data);
    expect_job(&x, ended, "failed", "\"type\":\"invalid\"");
    assert_int_equal(answered(&x, &lost_key, &kept), 0); /* may be tried again */
    assert_int_equal(answered(&x, &done_key, &kept), 201);
    assert_string_equal(kept.data, answer.data);
    must(ledger_jobs(x.r, NULL, 2, fx_count_job, &n, &err));
    assert_int_equal(n, 2);
    must_fail(ledger_job(x.r, "job_none", &none, &err), ERR_NOT_FOUND);
    fx_sound(&x);
    fx_drop_edit(&d);
    buf_release(&answer);
    buf_release(&kept);
    fx_close(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_key_is_answered_once),
        cmocka_unit_test(test_failures_of_ours_are_not_kept),
        cmocka_unit_test(test_runs_are_found_and_answer_again),
        cmocka_unit_test(test_pruned_is_not_broken),
        cmocka_unit_test(test_jobs_survive_a_restart_as_what_they_were),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
