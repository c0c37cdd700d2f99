/* A machine that fails: full disks, syncs that fail, processes killed at any moment. The promises:
 * out of space: nothing happened and the ledger goes on; a failed sync: no more writes until opened
 * afresh, and then the outcome is one of the two; a kill: what was acknowledged is there.
 *
 * Faults come through the door the library itself uses: this program's own fsync and fdatasync
 * stand before the C library's, SQLite's pwrite is replaced through its system-call table, and
 * RLIMIT_FSIZE limits every file. */
#include "ledger_fixture.h"

#include <errno.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

static int syncs_left = -1;  /* how many syncs succeed from now on; -1: all */
static int writes_left = -1; /* likewise for SQLite's writes; then the disk is full */

static bool spend(int *left)
{
    if (*left == 0) return false;
    if (*left > 0) --*left;
    return true;
}

int fsync(int fd)
{
    if (spend(&syncs_left)) return (int)syscall(SYS_fsync, fd);
    errno = EIO;
    return -1;
}

int fdatasync(int fd)
{
    if (spend(&syncs_left)) return (int)syscall(SYS_fdatasync, fd);
    errno = EIO;
    return -1;
}

static ssize_t full_pwrite(int fd, const void *bytes, size_t n, off_t at)
{
    if (spend(&writes_left)) return pwrite(fd, bytes, n, at);
    errno = ENOSPC;
    return -1;
}

static int replace_writes(void **state)
{
    sqlite3_vfs *vfs = sqlite3_vfs_find("unix");
    (void)state;
    (void)signal(SIGXFSZ, SIG_IGN);
    int a = vfs->xSetSystemCall(vfs, "pwrite64", (sqlite3_syscall_ptr)full_pwrite);
    int b = vfs->xSetSystemCall(vfs, "pwrite", (sqlite3_syscall_ptr)full_pwrite);
    return a == SQLITE_OK || b == SQLITE_OK ? 0 : -1;
}

static int heal(void **state)
{
    (void)state;
    syncs_left = writes_left = -1;
    return 0;
}

static void expect_head(struct fixture *x, const char *id)
{
    struct err err;
    struct revision rev;
    must(ledger_head(x->r, x->row.id, "main", &rev, &err));
    assert_string_equal(rev.id, id);
    revision_release(&rev);
}

/* ---- full disks ------------------------------------------------------------------------------ */

static void test_a_full_disk_at_any_write_changes_nothing(void **state)
{
    struct fixture x;
    struct err err;
    struct edit d;
    struct revision rev;
    struct buf answer = {0};
    int n = 0;
    (void)state;
    fx_open(&x);
    fx_edit(&x, 1);
    fx_prepare(&x, &d, fx_tensor(x.m, 2), 0, 2);
    for (;; n++) {
        writes_left = n;
        bool ok = ledger_commit(x.l, &d.c, &rev, &answer, &err);
        writes_left = -1;
        if (ok) break;
        assert_int_equal(err.code, ERR_NO_SPACE);
        assert_int_equal(answer.len, 0);
        expect_head(&x, x.head.id);
        if (n % 3 == 0) { /* and the ledger still takes other writes */
            char id[ID_TEXT];
            fx_look(&x, "{}", 0, id);
        }
    }
    assert_true(n > 2);
    fx_move(&x, &rev, d.after);
    fx_drop_edit(&d);
    buf_release(&answer);
    expect_head(&x, x.head.id);
    fx_reopen(&x);
    expect_head(&x, x.head.id);
    fx_sound(&x);
    fx_close(&x);
}

static void limit_files(rlim_t bytes)
{
    struct rlimit r;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &r), 0);
    r.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &r), 0);
}

static off_t size_of(const char *dir, const char *name)
{
    char path[128];
    struct stat st;
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(stat(path, &st), 0);
    return st.st_size;
}

static void commit_under_limit(struct fixture *x, size_t tensor, uint32_t rank, rlim_t limit)
{
    struct err err;
    struct edit d;
    struct revision rev;
    struct buf answer = {0};
    fx_prepare(x, &d, tensor, rank, 5);
    limit_files(limit);
    bool ok = ledger_commit(x->l, &d.c, &rev, &answer, &err);
    limit_files(RLIM_INFINITY);
    assert_false(ok);
    assert_int_equal(err.code, ERR_NO_SPACE);
    expect_head(x, x->head.id);
    must(ledger_commit(x->l, &d.c, &rev, &answer, &err)); /* with room again, the same commit */
    fx_move(x, &rev, d.after);
    fx_drop_edit(&d);
    buf_release(&answer);
}

static void test_files_may_grow_no_further(void **state)
{
    struct fixture x;
    size_t embed;
    (void)state;
    fx_open(&x);
    assert_true(model_role(x.m, ROLE_EMBED, 0, &embed));
    commit_under_limit(&x, fx_tensor(x.m, 1), 0, (rlim_t)size_of(x.dir, "ledger.db-wal") + 5000);
    commit_under_limit(&x, embed, 1000, 1000000); /* the object of a large delta */
    fx_sound(&x);
    fx_close(&x);
}

static void test_no_room_to_move_the_log(void **state)
{
    struct fixture x;
    struct err err;
    (void)state;
    fx_open(&x);
    fx_edit(&x, 1);
    writes_left = 0;
    must_fail(ledger_checkpoint(x.l, &err), ERR_NO_SPACE);
    writes_left = -1;
    fx_edit(&x, 2);
    must(ledger_checkpoint(x.l, &err));
    fx_reopen(&x);
    expect_head(&x, x.head.id);
    fx_sound(&x);
    fx_close(&x);
}

/* ---- failed syncs ---------------------------------------------------------------------------- */

static void expect_read_only(struct fixture *x, struct edit *d)
{
    struct err err;
    struct revision rev;
    struct buf answer = {0};
    struct run run = {
        .id = "run_x", .kind = "trace", .model = x->row.id, .view_digest = "x", .by = fx_by()};
    must_fail(ledger_commit(x->l, &d->c, &rev, &answer, &err), ERR_READ_ONLY);
    must_fail(ledger_add_run(x->l, &run, &err), ERR_READ_ONLY);
    must_fail(ledger_job_accept(x->l, "job_x", "edit", x->row.id, "t", NULL, &err), ERR_READ_ONLY);
    must(ledger_checkpoint(x->l, &err));
}

static void test_a_failed_sync_stops_all_writing(void **state)
{
    struct fixture x;
    struct err err;
    struct edit d;
    struct revision rev;
    struct buf answer = {0}, kept = {0};
    char job[ID_TEXT];
    int status;
    (void)state;
    fx_open(&x);
    fx_edit(&x, 1);
    fx_prepare(&x, &d, fx_tensor(x.m, 2), 0, 2);
    (void)snprintf(d.c.key.scope, sizeof d.c.key.scope, "s");
    (void)snprintf(d.c.key.key, sizeof d.c.key.key, "k");
    syncs_left = 0;
    must_fail(ledger_commit(x.l, &d.c, &rev, &answer, &err), ERR_UNKNOWN_OUTCOME);
    assert_int_equal(answer.len, 0);
    syncs_left = -1;
    expect_read_only(&x, &d);
    expect_head(&x, x.head.id); /* looking goes on */
    fx_reopen(&x);
    must(ledger_head(x.r, x.row.id, "main", &rev, &err));
    must(ledger_answered(x.r, &d.c.key, &status, &kept, job, &err));
    if (status == 0)
        assert_string_equal(rev.id, x.head.id); /* it had not happened */
    else
        assert_string_equal(rev.digest, d.digest); /* it had, and the key knows its answer */
    assert_int_equal(status != 0, kept.len != 0);
    revision_release(&rev);
    fx_drop_edit(&d);
    buf_release(&kept);
    fx_sound(&x);
    fx_close(&x);
}

static void test_an_object_that_cannot_be_synced_is_not_named(void **state)
{
    struct fixture x;
    struct err err;
    struct edit d;
    struct revision rev;
    struct buf answer = {0};
    size_t embed;
    (void)state;
    fx_open(&x);
    assert_true(model_role(x.m, ROLE_EMBED, 0, &embed));
    fx_prepare(&x, &d, embed, 100, 2);
    for (int n = 0; n < 3; n++) { /* the file, the new folder's name, the folder */
        syncs_left = n;
        must_fail(ledger_commit(x.l, &d.c, &rev, &answer, &err), ERR_IO);
        syncs_left = -1;
        expect_head(&x, x.head.id);
        char line[160];
        (void)snprintf(line, sizeof line, "test -z \"$(find %s/objects -type f)\"", x.dir);
        assert_int_equal(system(line), 0);
    }
    must(ledger_commit(x.l, &d.c, &rev, &answer, &err));
    fx_move(&x, &rev, d.after);
    fx_drop_edit(&d);
    buf_release(&answer);
    fx_sound(&x);
    fx_close(&x);
}

static void test_a_checkpoint_that_cannot_sync_stops_all_writing(void **state)
{
    struct fixture x;
    struct err err;
    struct edit d;
    (void)state;
    fx_open(&x);
    fx_edit(&x, 1);
    syncs_left = 0;
    must_fail(ledger_checkpoint(x.l, &err), ERR_IO);
    syncs_left = -1;
    fx_prepare(&x, &d, fx_tensor(x.m, 2), 0, 2);
    expect_read_only(&x, &d);
    fx_reopen(&x);
    expect_head(&x, x.head.id);
    fx_sound(&x);
    fx_drop_edit(&d);
    fx_close(&x);
}

/* ---- kills ----------------------------------------------------------------------------------- */

struct ack {
    int64_t seq;
    char id[ID_TEXT], digest[DIGEST_TEXT];
};

#ifdef ENGRAM_SANITIZED
enum { KILL_UNIT_NS = 8 * 1000000 };
#else
enum { KILL_UNIT_NS = 1000000 };
#endif

/* Commit until killed, saying so once it is open and after each. */
static _Noreturn void commit_for_ever(struct fixture *x, int pipe_end, uint64_t seed)
{
    struct ack opened = {0};
    fx_reopen(x);
    if (write(pipe_end, &opened, sizeof opened) != sizeof opened) _exit(1);
    for (;; seed++) {
        struct ack a = {0};
        if (seed % 5 == 4)
            fx_rollback(x, x->row.base_revision);
        else if (seed % 5 == 3)
            fx_edit_with(x, fx_tensor(x->m, seed), 200, seed); /* an object file */
        else
            fx_edit(x, seed);
        a.seq = x->head.seq;
        memcpy(a.id, x->head.id, sizeof a.id);
        memcpy(a.digest, x->head.digest, sizeof a.digest);
        if (write(pipe_end, &a, sizeof a) != sizeof a) _exit(1);
    }
}

static struct ack kill_at_random(struct fixture *x, int round)
{
    int ends[2], status;
    struct ack last = {0}, a;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)close(ends[0]);
        commit_for_ever(x, ends[1], (uint64_t)round * 1000);
    }
    (void)close(ends[1]);
    assert_int_equal(read(ends[0], &a, sizeof a), sizeof a); /* it is open: the time runs */
    struct timespec nap = {.tv_nsec = (long)(5 + round * 7919 % 60) * KILL_UNIT_NS};
    (void)nanosleep(&nap, NULL);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    while (read(ends[0], &a, sizeof a) == sizeof a) last = a;
    (void)close(ends[0]);
    return last;
}

static void follow_head(struct fixture *x)
{
    struct err err;
    struct revision rev;
    struct view *v;
    must(ledger_head(x->r, x->row.id, "main", &rev, &err));
    must((v = ledger_restore(x->r, x->m, &x->d, rev.id, &err)) != NULL);
    fx_move(x, &rev, v);
    view_drop(v);
}

static void test_killed_at_any_moment(void **state)
{
    struct fixture x;
    struct err err;
    struct revision rev;
    int acknowledged = 0;
    (void)state;
    fx_open(&x);
    for (int round = 1; round <= 20; round++) {
        fx_shut(&x);
        struct ack a = kill_at_random(&x, round);
        fx_sound(&x); /* as it lies there, before anything opens it for writing */
        fx_reopen(&x);
        follow_head(&x);
        assert_true(x.head.seq >= a.seq && x.head.seq <= (a.seq ? a.seq + 1 : x.head.seq));
        if (!a.seq) continue;
        acknowledged++;
        must(ledger_revision(x.r, a.id, &rev, &err));
        assert_int_equal(rev.seq, a.seq);
        assert_string_equal(rev.digest, a.digest);
        revision_release(&rev);
    }
    assert_true(acknowledged > 10);
    assert_true(x.head.seq > 40);
    fx_sound(&x);
    fx_close(&x);
}

/* ---- together -------------------------------------------------------------------------------- */

static void test_verifying_beside_a_busy_writer(void **state)
{
    struct fixture x;
    struct err err;
    struct verify_report report;
    bool more = true;
    char id[ID_TEXT];
    uint64_t n = 0;
    (void)state;
    fx_open(&x);
    for (; n < 20; n++) fx_edit(&x, n);
    struct verifier *v = verifier_open(x.dir, &(struct verify_base){x.m, &x.d}, 1, &err);
    must(v != NULL);
    while (more) {
        must(verifier_step(v, &more, &err));
        fx_edit(&x, ++n);
        fx_look(&x, "{}", 0, id);
        must(ledger_checkpoint(x.l, &err));
    }
    verifier_report(v, &report);
    verifier_close(v);
    assert_string_equal(report.problem, "");
    assert_true(report.ok);
    assert_int_equal(report.seq, 21); /* what there was when it began */
    assert_int_equal(report.digests, 21);
    fx_sound(&x);
    fx_close(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_a_full_disk_at_any_write_changes_nothing, heal),
        cmocka_unit_test_teardown(test_files_may_grow_no_further, heal),
        cmocka_unit_test_teardown(test_no_room_to_move_the_log, heal),
        cmocka_unit_test_teardown(test_a_failed_sync_stops_all_writing, heal),
        cmocka_unit_test_teardown(test_an_object_that_cannot_be_synced_is_not_named, heal),
        cmocka_unit_test_teardown(test_a_checkpoint_that_cannot_sync_stops_all_writing, heal),
        cmocka_unit_test_teardown(test_killed_at_any_moment, heal),
        cmocka_unit_test_teardown(test_verifying_beside_a_busy_writer, heal),
    };
    return cmocka_run_group_tests(tests, replace_writes, NULL);
}
